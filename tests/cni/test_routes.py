"""Ways to the pods of other nodes, as values."""

import base64
from ipaddress import ip_address, ip_network

import pytest

from kubewire.api.core import Node, NodeAddress, NodeSpec, NodeStatus
from kubewire.api.meta import ObjectMeta
from kubewire.cni import routes
from kubewire.cni.config import Fit
from kubewire.cni.routes import Hop, Peer, Plan, Tunnel, Way
from kubewire.kernel.links import Gso


def node(name: str, addresses: list[str], cidrs: list[str]) -> Node:
    return Node(
        metadata=ObjectMeta(name=name),
        spec=NodeSpec(pod_cidrs=cidrs),
        status=NodeStatus(addresses=[NodeAddress(type="InternalIP", address=a) for a in addresses]),
    )


A = node("a", ["172.30.0.10"], ["10.244.0.0/24"])
B = node("b", ["172.30.0.11"], ["10.244.1.0/24"])
FAR = node("far", ["192.168.7.1"], ["10.244.2.0/24", "fd02::/64"])
DUAL = node("dual", ["172.30.0.13", "fd30::13"], ["10.244.3.0/24", "fd03::/64"])
UNREADY = node("unready", [], ["10.244.4.0/24"])
CONNECTED = [ip_network("172.30.0.0/16")]
FAR_MAC = "0a:57:c0:a8:07:01"


def way(destination: str, via: str, overlay: bool = False) -> Way:
    return Way(ip_network(destination), ip_address(via), overlay)


def test_host_gw_goes_by_the_node_address_of_the_same_family() -> None:
    found = routes.plan([A, B, DUAL, UNREADY], "a", "host-gw")
    assert found == Plan(
        ways=frozenset(
            {
                way("10.244.1.0/24", "172.30.0.11"),
                way("10.244.3.0/24", "172.30.0.13"),
                way("fd03::/64", "fd30::13"),
            }
        )
    )


def test_vxlan_needs_nothing_but_the_nodes() -> None:
    found = routes.plan([A, FAR], "a", "vxlan")
    assert found.ways == {
        way("10.244.2.0/24", "10.244.2.0", True),
        way("fd02::/64", "fd02::", True),
    }
    assert found.hops == {
        Hop(ip_address("10.244.2.0"), FAR_MAC),
        Hop(ip_address("fd02::"), FAR_MAC),
    }
    assert found.tunnels == {Tunnel(FAR_MAC, ip_address("192.168.7.1"))}
    assert found.device is not None
    assert (str(found.device.local), found.device.mac) == ("172.30.0.10", "0a:57:ac:1e:00:0a")


def test_auto_mixes_both_ways() -> None:
    found = routes.plan([A, B, FAR], "a", "auto", connected=CONNECTED)
    assert way("10.244.1.0/24", "172.30.0.11") in found.ways
    assert way("10.244.2.0/24", "10.244.2.0", True) in found.ways
    assert routes.plan([A, B], "a", "auto", connected=CONNECTED).device is None


@pytest.mark.parametrize("mode", ["host-gw", "vxlan", "auto"])
def test_what_is_not_known_yet_leads_nowhere(mode: routes.Mode) -> None:
    assert routes.plan([UNREADY], "a", mode) == Plan()


def test_a_changed_pod_cidr_is_the_only_thing_that_changes() -> None:
    moved = node("b", ["172.30.0.11"], ["10.244.9.0/24"])
    before = routes.plan([A, B, FAR], "a", "vxlan")
    change = routes.diff(before, routes.plan([A, moved, FAR], "a", "vxlan"))
    assert change.put.ways == {way("10.244.9.0/24", "10.244.9.0", True)}
    assert change.drop.ways == {way("10.244.1.0/24", "10.244.1.0", True)}
    assert {hop.address for hop in change.drop.hops} == {ip_address("10.244.1.0")}
    assert change.put.tunnels == change.drop.tunnels == frozenset()


def test_a_changed_node_address_replaces_and_drops_nothing() -> None:
    moved = node("b", ["172.30.0.99"], ["10.244.1.0/24"])
    change = routes.diff(
        routes.plan([A, B], "a", "host-gw"), routes.plan([A, moved], "a", "host-gw")
    )
    assert change.put.ways == {way("10.244.1.0/24", "172.30.0.99")}
    assert change.drop == Plan()


@pytest.mark.parametrize(
    ("mode", "version", "mtu"),
    [
        ("host-gw", 4, 1500),
        ("vxlan", 4, 1450),
        ("vxlan", 6, 1430),
        ("auto", 4, 1450),
        ("wireguard", 4, 1440),
        ("wireguard", 6, 1420),
    ],
)
def test_what_fits_the_way_to_other_nodes(mode: routes.Mode, version: int, mtu: int) -> None:
    fits = routes.fit(mode, Fit(1500, Gso(196_608, 100_000)), version=version)
    assert fits == Fit(mtu, Gso(196_608, 100_000) if mode == "host-gw" else Gso())


CLUSTER = [ip_network("10.244.0.0/16"), ip_network("fd00::/8")]


@pytest.mark.parametrize("mode", ["host-gw", "vxlan", "auto"])
def test_a_pod_cidr_that_is_not_the_clusters_leads_nowhere(mode: routes.Mode) -> None:
    thief = node("thief", ["172.30.0.66", "fd30::66"], ["10.96.0.0/24", "fd66::/64"])
    found = routes.plan([A, B, thief], "a", mode, cluster=CLUSTER)
    assert {str(w.destination) for w in found.ways} == {"10.244.1.0/24", "fd66::/64"}
    assert found.refused == (
        "Node thief spec.podCIDRs[0] 10.96.0.0/24: is outside the cluster CIDR "
        "10.244.0.0/16,fd00::/8",
    )


def test_what_only_the_api_takes_harms_nobody() -> None:
    """A range with host bits, and an address that is none."""
    odd = node("odd", ["banana", "172.30.0.12"], ["10.244.5.9/24"])
    none = node("none", ["x"], ["10.244.6.0/24"])
    found = routes.plan([A, odd, none], "a", "host-gw")
    assert found.ways == {way("10.244.5.0/24", "172.30.0.12")}


def test_a_pod_cidr_of_two_nodes_is_the_older_ones() -> None:
    younger = node("b2", ["172.30.0.12"], ["10.244.1.128/25"])
    mine = node("c", ["172.30.0.13"], ["10.244.0.0/25"])
    broken = node("broken", ["172.30.0.14"], ["10.244.7.0/99"])
    found = routes.plan([mine, younger, broken, B, A], "a", "host-gw")
    assert found.ways == {way("10.244.1.0/24", "172.30.0.11")}
    assert found.refused == (
        "Node b2 spec.podCIDRs: 10.244.1.128/25 is also that of Node b",
        "Node broken spec.podCIDRs[0] 10.244.7.0/99: '10.244.7.0/99' does not appear to be an IPv4 or IPv6 network",
        "Node c spec.podCIDRs: 10.244.0.0/25 is also that of Node a",
    )


def test_no_pod_cidr_takes_a_network_on_our_own_links() -> None:
    thief = node("thief", ["172.30.0.66"], ["0.0.0.0/0", "172.0.0.0/8", "172.30.5.0/24"])
    found = routes.plan([A, B, thief], "a", "host-gw", connected=CONNECTED)
    assert {str(w.destination) for w in found.ways} == {"10.244.1.0/24", "172.30.5.0/24"}
    assert found.refused == (
        "Node thief spec.podCIDRs: 0.0.0.0/0 is also that of Node b",
        "Node thief spec.podCIDRs: 172.0.0.0/8 holds 172.30.0.0/16, which is on a link of this node",
    )


@pytest.mark.parametrize("cidr", ["10.0.5.0/24", "10.0.0.0/15", "10.0.1.0/25", "10.0.255.255/32"])
def test_ranges_of_a_node_that_lie_in_one_another_count_as_one(cidr: str) -> None:
    wide = node("b", ["172.30.0.11"], ["10.0.1.0/24", "10.0.0.0/16", "10.2.0.0/16"])
    found = routes.plan([A, wide, node("c", ["172.30.0.12"], [cidr])], "a", "host-gw")
    assert found.refused == (f"Node c spec.podCIDRs: {cidr} is also that of Node b",)


KEY = bytes(range(32))


def with_key(found: Node, key: str) -> Node:
    metadata = ObjectMeta(name=found.metadata.name, annotations={routes.WIREGUARD_KEY: key})
    return Node(metadata=metadata, spec=found.spec, status=found.status)


def test_wireguard_leads_to_the_nodes_that_have_published_a_key() -> None:
    far = with_key(DUAL, base64.b64encode(KEY).decode())
    found = routes.plan([A, B, far, with_key(FAR, "c2hvcnQ=")], "a", "wireguard")
    assert found.peers == {
        Peer(
            KEY,
            ip_address("172.30.0.13"),
            (
                ip_network("10.244.3.0/24"),
                ip_network("fd03::/64"),
                ip_network("172.30.0.13/32"),
                ip_network("fd30::13/128"),
            ),
        )
    }
    assert found.ways == {
        Way(ip_network("10.244.3.0/24"), None, True),
        Way(ip_network("fd03::/64"), None, True),
    }
    assert found.device is not None
    assert found.device.local == ip_address("172.30.0.10")
    moved = node("dual", ["172.30.0.99"], ["10.244.3.0/24"])
    change = routes.diff(
        found, routes.plan([A, with_key(moved, base64.b64encode(KEY).decode())], "a", "wireguard")
    )
    assert {p.outer for p in change.put.peers} == {ip_address("172.30.0.99")}
    assert change.drop.peers == frozenset()
    assert {str(w.destination) for w in change.drop.ways} == {"fd03::/64"}
