"""Namespaces on one switch reach each other and its gateway, by either kind of switch."""

import socket
from ipaddress import ip_interface
from pathlib import Path

import pytest

from kubewire.cluster.underlay import GATEWAY, UPLINK, Switch
from kubewire.kernel import links, netns, routes, sysctl
from kubewire.kernel.links import Gso
from kubewire.kernel.rtnetlink import RtNetlink

pytestmark = pytest.mark.kernel

MAC = "0a:56:00:00:00:0"


def build(netlink: RtNetlink, macvlan: bool) -> list[Path]:
    """A gateway 192.0.2.1 and nodes 192.0.2.2 and 192.0.2.3."""
    switch = Switch(netlink, f"{MAC}1", macvlan=macvlan)
    netlink.transact([routes.add_address(netlink.index(GATEWAY), ip_interface("192.0.2.1/24"))])
    nodes = [Path(f"/run/netns/n{number}") for number in (2, 3)]
    for number, path in enumerate(nodes, 2):
        netns.create(path)
        with netns.opened(path) as fd, RtNetlink(fd) as node:
            switch.join(fd, f"{MAC}{number}")
            index = node.index(UPLINK)
            address = ip_interface(f"192.0.2.{number}/24")
            node.transact([*links.bring_up(index), routes.add_address(index, address)])
            uplink = node.link(UPLINK)
            assert uplink.mac == f"{MAC}{number}"
            # Kernels before 6.3 say nothing of IPv4.
            assert uplink.gso in (Gso(320 * 1024, 320 * 1024), Gso(0, 320 * 1024))
    return nodes


def arrives(source: socket.socket, target: socket.socket, ip: str) -> bool:
    with source, target:
        target.bind((ip, 0))
        target.settimeout(5)
        source.sendto(b"x", target.getsockname())
        return target.recv(1) == b"x"


@pytest.mark.parametrize(("macvlan", "kind"), [(True, "macvlan"), (False, "bridge")])
def test_nodes_reach_each_other_and_the_gateway(macvlan: bool, kind: str) -> None:
    with RtNetlink() as netlink:
        first, second = build(netlink, macvlan)
        found = netlink.link(GATEWAY)
    if macvlan and found.kind == "bridge":
        pytest.skip("this kernel has no macvlan")
    assert (found.kind, found.mac) == (kind, f"{MAC}1")

    def datagrams(path: Path | None = None) -> socket.socket:
        if path:
            return netns.socket_in(path, socket.AF_INET, socket.SOCK_DGRAM)
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    assert arrives(datagrams(first), datagrams(second), "192.0.2.3")
    assert arrives(datagrams(first), datagrams(), "192.0.2.1")
    assert arrives(datagrams(), datagrams(second), "192.0.2.3")


def test_frames_do_not_pass_the_hooks_of_ip_in_a_bridge() -> None:
    with RtNetlink() as netlink:
        Switch(netlink, macvlan=False)
    name = "net.bridge.bridge-nf-call-iptables"
    assert not sysctl.exists(name) or sysctl.read(name) == "0"
