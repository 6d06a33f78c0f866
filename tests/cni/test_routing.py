"""Pods of two nodes reach each other, whichever way."""

import itertools
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from cni.lab import Lab, node
from kubewire.api.core import Node
from kubewire.cni.config import Fit
from kubewire.cni.routes import VXLAN_INTERFACE
from kubewire.cni.routing import underlay
from kubewire.kernel import links, routes
from kubewire.kernel.links import Gso
from kubewire.kernel.netlink import NetlinkError
from kubewire.kernel.routes import PROTOCOL_KUBEWIRE, Route
from kubewire.kernel.rtnetlink import RtNetlink

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("mode", ["host-gw", "vxlan", "auto"])
async def test_pods_of_two_nodes_connect(lab: Lab, mode: str) -> None:
    networks = [lab.network(0), lab.network(1)]
    results = [await n.add(lab.request(uid)) for n, uid in zip(networks, "ab", strict=True)]
    for number in (0, 1):
        lab.table(number, mode).apply([node(0), node(1)])
    for ip in results[1].ips:
        assert lab.connects("a", "b", ip), ip
    for ip in results[0].ips:
        assert lab.connects("b", "a", ip), ip
    for network in networks:
        await network.close()


FAMILIES = {
    # Of the nodes' addresses, and of the pods.
    "ipv4": ("4", "4"),
    "ipv6": ("6", "6"),
    "dual": ("46", "46"),
    "dual, IPv6 first": ("64", "64"),
    "pods of both on nodes of IPv6": ("6", "46"),
}


def of_families(number: int, family: str, link: int = 30) -> Node:
    outer, inner = FAMILIES[family]
    addresses = {"4": f"172.{link}.0.1{number}", "6": f"fd{link}::1{number}"}
    cidrs = {"4": f"10.244.{number}.0/24", "6": f"fd00:{number}::/64"}
    return node(number, addresses=[addresses[v] for v in outer], cidrs=[cidrs[v] for v in inner])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["host-gw", "vxlan"])
async def test_every_family_over_every_family(lab: Lab, mode: str, family: str) -> None:
    nodes = [of_families(number, family) for number in (0, 1)]
    networks = [lab.network(number, nodes[number]) for number in (0, 1)]
    results = [await n.add(lab.request(uid)) for n, uid in zip(networks, "ab", strict=True)]
    assert len(results[0].ips) == len(nodes[0].pod_cidrs)
    for number in (0, 1):
        lab.table(number, mode).apply(nodes)
    for ip in results[1].ips:
        assert lab.connects("a", "b", ip), ip
    # New ranges: the pods that are there stay, what leads to the old ones goes.
    moved = node(1, addresses=nodes[1].internal_ips, cidrs=["10.244.9.0/24", "fd00:9::/64"])
    lab.table(0, mode).apply([nodes[0], moved])
    for ip in results[1].ips:
        assert not lab.routed("a", ip), ip
    lab.table(0, mode).apply(nodes)
    for ip in results[1].ips:
        assert lab.connects("a", "b", ip), ip
    for network in networks:
        await network.close()


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "dual", "dual, IPv6 first"])
async def test_auto_is_direct_on_a_link_and_tunnels_behind_a_router(lab: Lab, family: str) -> None:
    lab.add_far_node()
    # The node in the middle is known by its address on the first link.
    nodes = [of_families(0, family), of_families(1, family), of_families(2, family, link=31)]
    networks = [lab.network(number, nodes[number]) for number in (0, 1, 2)]
    results = [await n.add(lab.request(uid)) for n, uid in zip(networks, "abc", strict=True)]
    for number in (0, 1, 2):
        lab.table(number, "auto").apply(nodes)
    netlink = lab.netlink(0)
    tunnel = netlink.index(VXLAN_INTERFACE)
    ways = {str(r.destination): r.device == tunnel for r in netlink.routes()}
    for cidr in nodes[1].pod_cidrs:
        assert not ways[cidr]
    for cidr in nodes[2].pod_cidrs:
        assert ways[cidr]
    # The node in the middle is on a link with the far one, which sees it behind a router.
    for source, target in itertools.permutations("abc", 2):
        for ip in results["abc".index(target)].ips:
            assert lab.connects(source, target, ip), (source, ip)
    for network in networks:
        await network.close()


async def test_a_new_agent_may_go_another_way(lab: Lab) -> None:
    networks = [lab.network(0), lab.network(1)]
    results = [await n.add(lab.request(uid)) for n, uid in zip(networks, "ab", strict=True)]
    for mode in ("host-gw", "vxlan", "host-gw"):
        for number in (0, 1):
            lab.table(number, mode).apply([node(0), node(1)])
        for ip in results[1].ips:
            assert lab.connects("a", "b", ip), (mode, ip)
    for network in networks:
        await network.close()


@pytest.mark.parametrize("mode", ["host-gw", "vxlan"])
def test_a_deleted_node_and_what_an_earlier_run_left_are_removed(lab: Lab, mode: str) -> None:
    netlink = lab.netlink(0)
    lab.table(0, mode).apply([node(0), node(1), node(2)])

    def destinations() -> set[str]:
        return {
            str(r.destination)
            for r in netlink.routes()
            if r.protocol == PROTOCOL_KUBEWIRE and r.via
        }

    assert destinations() == {"10.244.1.0/24", "fd00:1::/64", "10.244.2.0/24", "fd00:2::/64"}
    # A new agent that knows of one node less: the state is in the kernel only.
    table = lab.table(0, mode)
    table.apply([node(0), node(1)])
    assert destinations() == {"10.244.1.0/24", "fd00:1::/64"}
    table.apply([node(0), node(1, cidrs=["10.244.9.0/24"])])
    assert destinations() == {"10.244.9.0/24"}
    table.apply([node(0)])
    assert destinations() == set()
    assert not [e for e in netlink.fdb() if e.address]
    known = {str(n.address) for n in netlink.neighbours() if n.permanent}
    assert known.isdisjoint({"10.244.1.0", "10.244.2.0", "10.244.9.0", "fd00:1::", "fd00:2::"})


def test_the_vxlan_device_follows_the_underlay(lab: Lab) -> None:
    netlink = lab.netlink(0)
    lab.table(0, "vxlan").apply([node(0)])
    found = netlink.link(VXLAN_INTERFACE)
    assert (found.mtu, found.vni, found.port, str(found.local)) == (1450, 1, 8472, "172.30.0.10")
    index = found.index
    lab.table(0, "vxlan").apply([node(0)])
    assert netlink.index(VXLAN_INTERFACE) == index


def test_a_node_that_cannot_be_reached_harms_no_other(lab: Lab) -> None:
    """It is told, tried again, and what led to it before goes."""
    table, netlink = lab.table(0, "host-gw"), lab.netlink(0)

    def led() -> set[str]:
        found = [r for r in netlink.routes() if r.protocol == PROTOCOL_KUBEWIRE]
        return {str(r.destination) for r in found}

    def away(*addresses: str) -> Node:
        return node(2, addresses=list(addresses))

    whole = {"10.244.1.0/24", "fd00:1::/64", "10.244.2.0/24", "fd00:2::/64"}
    for bad, named in (
        (away("192.0.2.1", "fd99::1"), "Node n2 status.addresses: route 10.244.2.0/24 via 192.0.2.1: "),
        (away("172.30.0.10", "fd30::12"), "Node n2 status.addresses: 172.30.0.10 is also that of Node n0"),
        (away("127.0.0.1", "banana", "::"), ""),
    ):  # fmt: skip
        assert table.apply([node(0), node(1), node(2)])
        assert led() == whole
        reached = table.apply([node(0), bad])
        assert led() == set()
        assert table.apply([node(0), node(1), bad]) == reached
        assert led() == {"10.244.1.0/24", "fd00:1::/64"}
        assert any(why.startswith(named) for why in table.refused) == bool(named)
    assert table.apply([node(0), node(1), node(2)])
    assert led() == whole


def test_host_gw_makes_no_device(lab: Lab) -> None:
    lab.table(0, "host-gw").apply([node(0), node(1)])
    with pytest.raises(NetlinkError):
        lab.netlink(0).link(VXLAN_INTERFACE)


def test_what_fits_where_the_node_has_its_address_on_the_loopback() -> None:
    """As on nodes that speak BGP with their router."""
    with RtNetlink() as netlink:
        netlink.transact(
            [
                links.add_veth("up0", "up1", mtu=9000, gso=Gso(100_000, 90_000)),
                links.set_link("up1", up=True),
            ]
        )
        netlink.transact(
            [*links.bring_up("up0"), routes.add_address(1, ip_interface("192.0.2.9/32"))]
        )
        assert underlay(netlink, ip_address("192.0.2.9")) == Fit(1500)
        index = netlink.index("up0")
        netlink.transact([routes.add_address(index, ip_interface("10.9.0.1/24"))])
        default = Route(ip_network("0.0.0.0/0"), index, ip_address("10.9.0.254"))
        netlink.transact([routes.add_route(default)])
        known = netlink.link("up0").gso
        assert known in (Gso(100_000, 90_000), Gso(0, 90_000))  # Before 6.3, or since.
        assert underlay(netlink, ip_address("192.0.2.9")) == Fit(9000, known)
