"""Ports of the node that lead to pods: as values, and with real connections."""

import socket
from pathlib import Path

import pytest

from cni.lab import Lab
from kubewire.cni import hostports
from kubewire.cni.hostports import HostPortError, HostPorts, PortMapping, mapping
from kubewire.cni.network import PodNetworkError, PodPort
from kubewire.kernel import netns
from kubewire.lang.nftables.evaluate import evaluate
from kubewire.lang.nftables.model import render
from kubewire.lang.packet import Packet

WEB = PortMapping(8080, "TCP", "10.1.0.2", 80)
DNS = PortMapping(53, "UDP", "10.1.0.3", 5353, "172.30.0.10")
WEB6 = PortMapping(8080, "TCP", "fd00::2", 80)


@pytest.mark.parametrize(
    ("daddr", "port", "protocol", "local", "targets"),
    [
        ("172.30.0.10", 8080, "tcp", True, (("10.1.0.2", 80),)),
        ("127.0.0.1", 8080, "tcp", True, (("10.1.0.2", 80),)),
        ("172.30.0.10", 8080, "udp", True, ()),
        ("8.8.8.8", 8080, "tcp", False, ()),
        ("172.30.0.10", 53, "udp", True, (("10.1.0.3", 5353),)),
        ("127.0.0.1", 53, "udp", True, ()),
        ("fd30::10", 8080, "tcp", True, (("fd00::2", 80),)),
        ("::1", 8080, "tcp", True, ()),
    ],
)
def test_where_a_packet_goes(
    daddr: str, port: int, protocol: str, local: bool, targets: tuple[tuple[str, int], ...]
) -> None:
    table = hostports.table({"a": (WEB, WEB6), "b": (DNS,)})
    saddr = "fd30::99" if ":" in daddr else "172.30.0.99"
    iifname = "lo" if daddr.startswith("127.") else "eth0"
    packet = Packet(saddr, daddr, protocol, dport=port, daddr_local=local, iifname=iifname)
    assert evaluate([table], "prerouting", packet).targets == targets


def test_the_loopback_is_closed_to_others() -> None:
    table = hostports.table({"a": (WEB,)})
    packet = Packet("172.30.0.99", "127.0.0.1", dport=8080, daddr_local=True, iifname="eth0")
    assert evaluate([table], "prerouting", packet).verdict == "drop"


@pytest.mark.parametrize(
    ("saddr", "daddr", "masquerade"),
    [("127.0.0.1", "10.1.0.2", True), ("10.1.0.2", "10.1.0.2", True), ("10.1.0.9", "10.1.0.2", False)],
)  # fmt: skip
def test_who_is_masqueraded(saddr: str, daddr: str, masquerade: bool) -> None:
    packet = Packet(saddr, daddr, dport=80, ct_status=frozenset({"dnat"}))
    table = hostports.table({"a": (WEB,)})
    assert evaluate([table], "postrouting", packet).masquerade is masquerade
    assert "hostPort" in render(table)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, "TCP", "10.1.0.2", 80), "hostPort 0: must be between"),
        ((80, "TCP", "10.1.0.2", 70000), "containerPort 70000: must be between"),
        ((80, "ICMP", "10.1.0.2", 80), "hostPort 80: protocol 'ICMP' is not supported"),
        ((80, "TCP", "10.1.0.2", 80, "x"), "hostPort 80: hostIP 'x'"),
        ((80, "TCP", "fd00::2", 80, "::1"), "hostPort 80: hostIP ::1: the kernel"),
    ],
)
def test_a_wrong_mapping_names_the_port(
    arguments: tuple[int, str, str, int, str], text: str
) -> None:
    with pytest.raises(HostPortError) as caught:
        mapping(*arguments)
    assert str(caught.value).startswith(text)


def test_a_host_ip_of_the_other_family_maps_nothing() -> None:
    assert mapping(80, "tcp", "10.1.0.2", 80, "fd30::10") is None
    found = mapping(80, "tcp", "10.1.0.2", 80, "0.0.0.0")
    assert found is not None
    assert found.host_ip == ""


@pytest.mark.kernel
def test_a_port_that_one_pod_has_twice() -> None:
    ports = HostPorts(Path("/run/h"))
    ports.put("a", [WEB, WEB])
    with pytest.raises(HostPortError, match="hostPort 8080/TCP: is there twice"):
        ports.put("a", [WEB, PortMapping(8080, "TCP", "10.1.0.2", 81)])
    ports.close()


@pytest.mark.kernel
def test_a_container_of_two_networks_has_its_ports_on_the_first() -> None:
    ports, other = HostPorts(Path("/run/h")), PortMapping(8080, "TCP", "10.2.0.2", 80)
    packet = Packet("172.30.0.99", "172.30.0.10", "tcp", dport=8080, daddr_local=True)
    both = {"one:c1/eth0": (WEB,), "two:c1/eth1": (other,)}
    assert evaluate([hostports.table(both)], "prerouting", packet).targets == (("10.1.0.2", 80),)
    for owner, wanted in both.items():
        ports.put(owner, wanted)
    assert ports.lost("one:c1/eth0", [WEB]) == ports.lost("two:c1/eth1", [other]) == []
    with pytest.raises(HostPortError, match="hostPort 8080/TCP: is held by two:c1/eth1"):
        ports.put("two:c2/eth1", [other])
    ports.drop("one:c1/eth0")
    assert ports.lost("two:c1/eth1", [other]) == []
    assert ports.lost("two:c2/eth1", [other]) == [other]
    ports.close()


def reaches(client_in: Path, address: tuple[str, int], server: socket.socket) -> bool:
    """Connect, and see whether it is that server which gets the connection."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    server.settimeout(2)
    with netns.socket_in(client_in, family) as client:
        client.settimeout(2)
        try:
            client.connect(address)
            accepted, _ = server.accept()
        except OSError:
            return False
        accepted.close()
        return True


def listener(path: Path, address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    server = netns.socket_in(path, family)
    server.bind(address)
    server.listen()
    return server


@pytest.mark.kernel
async def test_from_everywhere_and_back(lab: Lab) -> None:
    network = lab.network(0)
    port = PodPort(host_port=8080, container_port=80)
    pod = await network.add(lab.request("a", ports=(port,)))
    await network.add(lab.request("b"))
    node, other = lab.node_path(0), lab.node_path(1)
    with listener(lab.pods["a"], (pod.ips[0], 80)) as server:
        assert reaches(node, ("172.30.0.10", 8080), server)
        assert reaches(node, ("127.0.0.1", 8080), server)
        assert reaches(lab.pods["b"], ("172.30.0.10", 8080), server)
        assert reaches(lab.pods["a"], ("172.30.0.10", 8080), server)
        assert reaches(other, ("172.30.0.10", 8080), server)
        assert not reaches(other, ("172.30.0.10", 8081), server)
    with listener(lab.pods["a"], (pod.ips[1], 80)) as server6:
        assert reaches(other, ("fd30::10", 8080), server6)
        assert reaches(lab.pods["a"], ("fd30::10", 8080), server6)
    await network.remove("a")
    second = await network.add(lab.request("c", ports=(port,)))
    with listener(lab.pods["c"], (second.ips[0], 80)) as server:
        assert reaches(other, ("172.30.0.10", 8080), server)
    await network.close()


@pytest.mark.kernel
async def test_a_port_is_held_by_one_pod_also_after_a_restart(lab: Lab) -> None:
    first = lab.network(0)
    port = PodPort(host_port=8080, container_port=80)
    pod = await first.add(lab.request("a", ports=(port,)))
    await first.close()
    again = lab.network(0)
    assert await again.add(lab.request("a", ports=(port,))) == pod
    with pytest.raises(
        PodNetworkError, match=r"pod default/b: .*hostPort 8080/TCP: is held by kubewire:a/eth0"
    ):
        await again.add(lab.request("b", ports=(port,)))
    with listener(lab.pods["a"], (pod.ips[0], 80)) as server:
        assert reaches(lab.node_path(1), ("172.30.0.10", 8080), server)
    await again.remove("a")
    await again.add(lab.request("b", ports=(port,)))
    await again.close()


@pytest.mark.kernel
async def test_udp_follows_the_pod_although_the_client_keeps_its_port(lab: Lab) -> None:
    network = lab.network(0)
    port = PodPort(host_port=5353, container_port=53, protocol="UDP")

    async def served_by(uid: str, client: socket.socket) -> bool:
        pod = await network.add(lab.request(uid, ports=(port,)))
        with netns.socket_in(lab.pods[uid], socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((pod.ips[0], 53))
            server.settimeout(2)
            client.sendto(b"x", ("172.30.0.10", 5353))
            try:
                server.recv(10)
            except OSError:
                return False
            return True

    with netns.socket_in(lab.node_path(1), socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("172.30.0.11", 40000))
        assert await served_by("a", client)
        await network.remove("a")
        assert await served_by("b", client)
    await network.close()


@pytest.mark.kernel
def test_a_file_that_cannot_be_read_counts_for_nothing() -> None:
    ports = HostPorts(Path("/run/h"))
    ports.put("a", [WEB])
    Path("/run/h/hostports.json").write_bytes(b"{")
    ports.put("b", [DNS])
    assert ports.owners() == ("b",)
    ports.close()


@pytest.mark.kernel
def test_a_kernel_that_lost_the_table_gets_it_back() -> None:
    from kubewire.kernel.nfnetlink import Nfnetlink
    from kubewire.lang.nftables.model import Transaction

    ports = HostPorts(Path("/run/h"))
    ports.put("a", [WEB])
    change = Transaction("inet")
    change.delete_table(hostports.NAME)
    with Nfnetlink() as netlink:
        netlink.commit(change)
        ports.put("b", [DNS])
        netlink.commit(change)
    ports.drop("a")
    assert ports.owners() == ("b",)
    ports.close()
