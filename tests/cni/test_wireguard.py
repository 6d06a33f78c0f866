"""Pods of two nodes through WireGuard, where the kernel has it."""

import base64
from dataclasses import dataclass
from ipaddress import ip_address

import msgspec
import pytest

from cni.lab import Lab, node
from kubewire.api.core import Node
from kubewire.cni.routes import WIREGUARD_INTERFACE, WIREGUARD_KEY
from kubewire.cni.routing import RouteTable, underlay
from kubewire.kernel import links, wireguard
from kubewire.kernel.routes import PROTOCOL_KUBEWIRE
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kernel.wireguard import WireGuard

pytestmark = [pytest.mark.kernel, pytest.mark.wireguard]


def published(number: int, table: RouteTable) -> Node:
    """The Node with the key that its agent has published."""
    key = base64.b64encode(table.public_key).decode()
    found = node(number)
    metadata = msgspec.structs.replace(found.metadata, annotations={WIREGUARD_KEY: key})
    return msgspec.structs.replace(found, metadata=metadata)


@dataclass
class Pair:
    """Two nodes that know each other's key."""

    tables: list[RouteTable]
    nodes: list[Node]


def pair(lab: Lab) -> Pair:
    tables = [lab.table(number, "wireguard") for number in (0, 1)]
    for table in tables:
        table.apply([node(0), node(1)])
    nodes = [published(number, table) for number, table in enumerate(tables)]
    for table in tables:
        table.apply(nodes)
    return Pair(tables, nodes)


def test_this_kernel_has_it() -> None:
    assert wireguard.available()


async def test_pods_connect_over_both_families_and_nothing_goes_in_the_clear(lab: Lab) -> None:
    networks = [lab.network(0), lab.network(1)]
    results = [await n.add(lab.request(uid)) for n, uid in zip(networks, "ab", strict=True)]
    pair(lab)
    sent = [lab.netlink(number).link(WIREGUARD_INTERFACE).sent_bytes for number in (0, 1)]
    for ip in results[1].ips:
        assert lab.connects("a", "b", ip), ip
    for ip in results[0].ips:
        assert lab.connects("b", "a", ip), ip
    for number in (0, 1):
        assert lab.netlink(number).link(WIREGUARD_INTERFACE).sent_bytes > sent[number] + 400
    # Without the peer's key there is no other way: what is not encrypted is not sent.
    with WireGuard(lab.node_path(0)) as device:
        index = lab.netlink(0).index(WIREGUARD_INTERFACE)
        device.remove(index, [peer.key for peer in device.get(index).peers])
    assert not lab.connects("a", "b", results[1].ips[0])
    for network in networks:
        await network.close()


def test_the_device_fits_the_underlay_and_keeps_its_key_over_a_restart(lab: Lab) -> None:
    found = pair(lab)
    netlink = lab.netlink(0)
    link = netlink.link(WIREGUARD_INTERFACE)
    assert (link.mtu, link.up) == (underlay(netlink, ip_address("172.30.0.10")).mtu - 60, True)
    again = lab.table(0, "wireguard")
    again.apply(found.nodes)
    assert again.public_key == found.tables[0].public_key
    with WireGuard(lab.node_path(0)) as device:
        assert [p.key for p in device.get(link.index).peers] == [found.tables[1].public_key]


def test_peers_and_routes_follow_the_nodes(lab: Lab) -> None:
    found = pair(lab)
    netlink = lab.netlink(0)
    index = netlink.index(WIREGUARD_INTERFACE)

    def state() -> tuple[set[str], int]:
        ways = {str(r.destination) for r in netlink.routes() if r.protocol == PROTOCOL_KUBEWIRE}
        with WireGuard(lab.node_path(0)) as device:
            return ways, len(device.get(index).peers)

    assert state() == ({"10.244.1.0/24", "fd00:1::/64"}, 1)
    # The other node was made anew: another key, the same ranges.
    with RtNetlink(lab.node_path(1)) as other:
        other.transact([links.delete_link(WIREGUARD_INTERFACE)])
    fresh = lab.table(1, "wireguard")
    fresh.apply(found.nodes)
    assert fresh.public_key != found.tables[1].public_key
    found.tables[0].apply([found.nodes[0], published(1, fresh)])
    assert state() == ({"10.244.1.0/24", "fd00:1::/64"}, 1)
    found.tables[0].apply([found.nodes[0]])
    assert state() == (set(), 0)
