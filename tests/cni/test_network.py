"""Pods of one node, connected in the real kernel."""

import asyncio
import shutil
import socket
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from cni.lab import Lab, NodePods
from kubewire.cni.config import Fit
from kubewire.cni.install import install_programs
from kubewire.cni.network import SOCKET, PodNetwork, PodNetworkError, PodPort, PodRequest
from kubewire.cni.server import Server
from kubewire.kernel import links, netns, routes
from kubewire.kernel.links import Gso
from kubewire.kernel.rtnetlink import RtNetlink

pytestmark = pytest.mark.kernel


def cables(netlink: RtNetlink) -> set[str]:
    return {link.name for link in netlink.links() if link.name.startswith("kc") and link.up}


def held(netlink: RtNetlink, version: int) -> set[str]:
    return {str(a.address.ip) for a in netlink.addresses() if a.address.version == version}


def free(network: PodNetwork) -> int:
    return min(u.size - u.used for u in network.plugin.usage())


async def test_pods_reach_each_other_and_themselves(lab: Lab) -> None:
    network = lab.network(0)
    first = await network.add(lab.request("a"))
    second = await network.add(lab.request("b"))
    assert first.ips == ("10.244.0.2", "fd00::2")
    assert first.mac == "0a:58:0a:f4:00:02"
    for ip in second.ips:
        assert lab.connects("a", "b", ip)
        assert lab.connects("b", "b", ip)
    await network.close()


async def test_the_pod_has_no_wait_before_its_first_packet(lab: Lab) -> None:
    network = lab.network(0)
    result = await network.add(lab.request("a"))
    with RtNetlink(lab.pods["a"]) as pod, lab.netlink(0) as node:
        assert not [a for a in pod.addresses() if a.tentative]
        assert {(str(n.address), n.permanent) for n in pod.neighbours()} >= {
            ("169.254.1.1", True),
            ("fe80::1", True),
        }
        index = node.index(result.host_interface)
        found = {
            str(n.address): n.mac for n in node.neighbours() if n.index == index and n.permanent
        }
        assert found == dict.fromkeys(result.ips, result.mac)
    await network.close()


async def test_a_cable_adds_no_ipv6_route_but_the_pods(lab: Lab) -> None:
    """Each one more makes all that is done to devices slower, the more pods there are."""
    network = lab.network(0)
    with lab.netlink(0) as node:
        before = set(node.routes())
        (_, ip) = (await network.add(lab.request("a"))).ips
        added = {r for r in node.routes() if r not in before and r.destination.version == 6}
        assert [str(route.destination) for route in added] == [f"{ip}/128"]
    await network.close()


async def test_remove_frees_everything_and_may_be_repeated(lab: Lab) -> None:
    network = lab.network(0)
    with lab.netlink(0) as node:
        before = len(node.routes())
        await network.add(lab.request("a"))
        left = free(network)
        for _ in range(2):
            await network.remove("a")
        await network.remove("never-seen")
        assert cables(node) == set()
        assert free(network) == left + 1
        await network.close()
        assert [link.name for link in node.links()] == ["lo", "eth0"]
        assert len(node.routes()) == before


async def test_a_pod_can_come_back_at_once(lab: Lab) -> None:
    network = lab.network(0)
    first = await network.add(lab.request("a"))
    await network.remove("a")
    second = await network.add(lab.request("a"))
    assert second.host_interface == first.host_interface
    assert second.ips != first.ips
    assert lab.connects("a", "a", second.ips[0])
    await network.close()


async def test_asked_again_the_pod_keeps_its_addresses(lab: Lab) -> None:
    network = lab.network(0)
    first = await network.add(lab.request("a"))
    assert await network.add(lab.request("a")) == first
    await network.close()


async def test_an_address_can_be_asked_for(lab: Lab) -> None:
    network = lab.network(0)
    wanted = {"kubewire.dev/ip": "10.244.0.77, fd00::77"}
    assert (await network.add(lab.request("a", annotations=wanted))).ips == ("10.244.0.77", "fd00::77")  # fmt: skip
    for text, complaint in (
        ("10.244.0.77", "pod default/b: requested address 10.244.0.77: is held by a"),
        ("10.9.9.9", "pod default/b: requested address 10.9.9.9: is not in any range"),
        ("nonsense", r"pod default/b: metadata.annotations\[kubewire.dev/ip\]: 'nonsense'"),
    ):
        with pytest.raises(PodNetworkError, match=complaint):
            await network.add(lab.request("b", annotations={"kubewire.dev/ip": text}))
    await network.close()


async def test_a_failed_add_leaves_neither_cable_nor_address(lab: Lab) -> None:
    network = lab.network(0)
    broken = lab.request("a")
    netns.delete(lab.pods["a"])
    with pytest.raises(
        PodNetworkError, match="pod default/a: CNI_NETNS /run/netns/a: is not a net"
    ):
        await network.add(broken)
    await network.add(lab.request("b"))
    assert [u.used for u in network.plugin.usage()] == [1, 1]
    await network.remove("b")
    with lab.netlink(0) as node:
        assert cables(node) == set()
    await network.close()


async def test_exhaustion_is_said(lab: Lab) -> None:
    network = NodePods(lab.node_path(0), Path("/run/small"), lambda: ["10.244.0.0/30"])
    await network.add(lab.request("a"))
    with pytest.raises(PodNetworkError, match="no address is free in"):
        await network.add(lab.request("b"))
    await network.remove("a")
    await network.add(lab.request("b"))
    await network.close()


async def test_a_restarted_agent_keeps_what_is_whole_and_mends_what_is_not(lab: Lab) -> None:
    before = lab.network(0)
    kept = await before.add(lab.request("a"))
    cut = await before.add(lab.request("cut"))
    await before.close()
    with RtNetlink(lab.pods["cut"]) as pod:
        pod.transact([links.delete_link("eth0")])
    # A kill in the middle of an ADD: it is noted that it began, and the cable is there.
    killed = lab.network(0)
    await killed.add(lab.request("killed"))
    await killed.close()
    result_of("killed").write_bytes(b"")
    after = lab.network(0)
    assert await after.add(lab.request("a")) == kept
    mended = await after.add(lab.request("cut"))
    assert mended.ips != cut.ips
    assert lab.connects("a", "cut", mended.ips[1])
    await after.add(lab.request("killed"))
    assert {u.used for u in after.plugin.usage()} == {3}
    await after.close()


async def test_a_pod_cidr_outside_the_cluster_is_refused(lab: Lab) -> None:
    network = lab.network(0, cluster_cidrs=("10.245.0.0/16", "fd00::/16"))
    with pytest.raises(PodNetworkError, match=r"pod default/a: podCIDR 10.244.0.0/24: is outside the cluster CIDR 10.245.0.0/16"):  # fmt: skip
        await network.add(lab.request("a"))
    with lab.netlink(0) as node:
        assert cables(node) == set()
    await network.close()


def result_of(uid: str) -> Path:
    return Path("/run/n0/cni/results") / uid


def seen(netlink: RtNetlink) -> list[str]:
    """Devices, addresses, routes and neighbours as text, without what the kernel numbers itself."""
    names = {link.index: link.name for link in netlink.links()}
    return sorted(
        [
            *(f"{x.name} {x.kind} {x.mac} {x.mtu} {x.gso} {x.up} {x.alias}" for x in netlink.links()),
            *(f"{names[a.index]} {a.address} {a.tentative}" for a in netlink.addresses()),
            *(f"{names.get(r.device)} {replace(r, device=0)!r}" for r in netlink.routes()),
            *(f"{names[n.index]} {n.address} {n.mac} {n.permanent}" for n in netlink.neighbours() if n.permanent),
        ]
    )  # fmt: skip


async def test_as_a_library_and_by_exec_it_is_the_same(lab: Lab) -> None:
    """One node after the other is told the same; whatever can be seen afterwards is compared."""
    programs = Path("/run/bin")
    install_programs(programs, socket=Path(SOCKET))
    port = PodPort(host_port=8080, container_port=80)
    asked: dict[str, Any] = {
        "annotations": {"kubewire.dev/ip": "10.244.0.77", "kubernetes.io/egress-bandwidth": "80M"},
        "ports": (port,),
    }
    found = []
    for chosen in (None, programs):
        network = lab.network(0, programs=chosen, fit=lambda: Fit(1400, Gso(100_000, 90_000)))
        server = Server(network.plugin, network.socket)
        if chosen:
            await server.start()
        results = [await network.add(lab.request(uid, **asked)) for uid in ("a",)]
        results.append(await network.add(lab.request("b")))
        cached = [result_of(uid).read_bytes() for uid in ("a", "b")]
        with pytest.raises(PodNetworkError) as refused:
            await network.add(lab.request("c", ports=(port,)))
        with lab.netlink(0) as node, RtNetlink(lab.pods["a"]) as a, RtNetlink(lab.pods["b"]) as b:
            kernel = [seen(netlink) for netlink in (node, a, b)]
        found.append((results, cached, str(refused.value), kernel))
        for uid in ("a", "b"):
            await network.remove(uid)
        with lab.netlink(0) as node:
            assert cables(node) == set()
        if chosen:
            await server.close()
        await network.close()
        shutil.rmtree("/run/n0/cni")
    assert found[0] == found[1]
    assert "10.244.0.77" in found[0][0][0].ips
    assert "hostPort 8080/TCP: is held by" in found[0][2]


async def test_an_agent_that_is_down_is_said(lab: Lab) -> None:
    programs = Path("/run/bin")
    install_programs(programs, socket=Path(SOCKET))
    network = lab.network(0, programs=programs)
    with pytest.raises(PodNetworkError, match=r"pod default/a: kubewire agent at cni.sock: .*; try again later"):  # fmt: skip
        await network.add(lab.request("a"))
    await network.close()


@pytest.mark.parametrize(
    ("cidr", "own"), [("10.244.0.0/24", "169.254.1.1"), ("fd00::/64", "fd4b:7769:7265::1")]
)
async def test_a_node_without_an_address_of_its_own_reaches_its_pods(
    tmp_path: Path, cidr: str, own: str
) -> None:
    pod = Path("/run/netns/a")
    netns.create(pod)
    network = PodNetwork(tmp_path, lambda: [cidr])
    (ip,) = (await network.add(PodRequest(uid="a", namespace="n", name="a", netns=pod))).ips
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with netns.socket_in(pod, family) as server, socket.socket(family) as client:
        server.bind((ip, 0))
        server.listen()
        client.settimeout(2)
        client.connect((ip, server.getsockname()[1]))
        assert client.getsockname()[0] == own
    await network.close()


@pytest.mark.parametrize(
    ("cidr", "always", "stand_in", "own"),
    [
        ("10.244.0.0/24", "127.0.0.1", "169.254.1.1", "192.0.2.1/24"),
        ("fd00::/64", "::1", "fd4b:7769:7265::1", "2001:db8::1/64"),
    ],
)
async def test_a_node_gives_its_stand_in_address_back_when_it_has_one_of_its_own(
    tmp_path: Path, cidr: str, always: str, stand_in: str, own: str
) -> None:
    pod = Path("/run/netns/a")
    netns.create(pod)
    network = PodNetwork(tmp_path, lambda: [cidr])
    await network.add(PodRequest(uid="a", namespace="n", name="a", netns=pod))
    with RtNetlink() as node:
        node.transact([links.add_veth("eth0", "far"), *links.bring_up("eth0")])
        new = ip_interface(own)
        for change, left in (
            (routes.add_address, {always, str(new.ip)}),
            (routes.delete_address, {always, stand_in}),
        ):
            node.transact([change(node.index("eth0"), new)])
            async with asyncio.timeout(10):
                while held(node, new.version) != left:  # noqa: ASYNC110 - the source's own event is not ours
                    await asyncio.sleep(0)
    await network.close()
