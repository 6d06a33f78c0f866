"""Pods leave the cluster with the node's address, except where they are told not to."""

import socket
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from cni.lab import Lab, node
from kubewire.cni import masquerade
from kubewire.kernel import netns, routes

pytestmark = pytest.mark.kernel

PODS = (ip_network("10.244.0.0/16"), ip_network("fd00::/16"))
OUTSIDE = {4: "192.0.2.1", 6: "2001:db8::1"}
FRIEND = {4: "192.0.2.99", 6: "2001:db8::99"}
NODE = {4: "172.30.0.10", 6: "fd30::10"}


def source(lab: Lab, pod: str, ip: str) -> str:
    """Which address a pod's connection comes from, as the other end sees it."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with (
        netns.socket_in(lab.node_path(1), family) as server,
        netns.socket_in(lab.pods[pod], family) as client,
    ):
        server.bind((ip, 0))
        server.listen()
        client.settimeout(5)
        client.connect(server.getsockname()[:2])
        made, peer = server.accept()
        made.close()
        return str(peer[0])


@pytest.mark.parametrize("version", [4, 6])
async def test_only_what_leaves_the_cluster_is_masqueraded(lab: Lab, version: int) -> None:
    """Node 1 plays the outside: it knows the way to the pod, too, so both sources are answered."""
    network = lab.network(0)
    pod = {ip_address(ip).version: ip for ip in (await network.add(lab.request("a"))).ips}
    with netns.entered(lab.node_path(0)):
        masquerade.cover(PODS, [ip_network("192.0.2.96/28"), ip_network("2001:db8::90/124")])
    outside = lab.netlink(1)
    lo, inside = outside.index("lo"), lab.netlink(0)
    mine = (OUTSIDE[version], FRIEND[version], {4: "10.244.1.9", 6: "fd00:1::9"}[version])
    outside.transact([routes.add_address(lo, ip_interface(ip)) for ip in mine])
    others = {4: ("192.0.2.0/24", "172.30.0.11"), 6: ("2001:db8::/64", "fd30::11")}
    destination, via = others[version]
    way = routes.Route(ip_network(destination), via=ip_address(via), protocol=4)
    inside.transact([routes.add_route(way)])
    for number in (0, 1):
        lab.table(number, "host-gw").apply([node(0), node(1)])
    assert source(lab, "a", OUTSIDE[version]) == NODE[version]
    assert source(lab, "a", FRIEND[version]) == pod[version]
    assert source(lab, "a", mine[2]) == pod[version]
    await network.close()
