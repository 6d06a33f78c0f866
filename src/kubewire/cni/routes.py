"""How a node reaches the pods of the other nodes: host-gw, vxlan or auto.

`plan` is pure: the Nodes in, the routes, neighbours and forwarding entries of one node out. In the
VXLAN scheme (Flannel's) nothing is learned and nobody has to publish anything: the hardware address
of a node's VXLAN device follows from the node's address. ``auto`` takes the direct way to nodes on
the same link and VXLAN to those behind a router.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Literal

from kubewire.api.core import Node
from kubewire.cni.ipam import Address, Network
from kubewire.kernel import links

Mode = Literal["host-gw", "vxlan", "auto", "wireguard"]

VXLAN_INTERFACE = "kw-vxlan"
VXLAN_PORT = 8472
VXLAN_VNI = 1
OVERHEAD = {4: 50, 6: 70}
"""Bytes that VXLAN puts around a packet, by the IP version of the outer address."""


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """One podCIDR of another node: the next hop, and whether it lies behind the VXLAN device."""

    destination: Network
    via: Address
    overlay: bool


@dataclass(frozen=True, slots=True, order=True)
class Hop:
    """A next hop behind the VXLAN device, and the hardware address of the device that answers."""

    address: Address
    mac: str


@dataclass(frozen=True, slots=True, order=True)
class Tunnel:
    """A hardware address of another node's VXLAN device, and that node's own address."""

    mac: str
    outer: Address


@dataclass(frozen=True, slots=True)
class Device:
    """The VXLAN device of this node."""

    local: Address
    mac: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What this node needs to reach all the others."""

    ways: frozenset[Way] = frozenset()
    hops: frozenset[Hop] = frozenset()
    tunnels: frozenset[Tunnel] = frozenset()
    device: Device | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What leads from one plan to the next: ``put`` adds or replaces, then ``drop`` removes."""

    put: Plan
    drop: Plan


def plan(
    nodes: Iterable[Node], name: str, mode: Mode, *, connected: Sequence[Network] = ()
) -> Plan:
    """Work out the ways from node ``name``; ``connected`` are the networks on its own links."""
    known = {node.metadata.name: node for node in nodes}
    ways: set[Way] = set()
    hops: set[Hop] = set()
    tunnels: set[Tunnel] = set()
    for other, node in known.items():
        outer = _outer(node)
        cidrs = [ip_network(cidr) for cidr in node.pod_cidrs]
        if other == name or outer is None or not cidrs:
            continue
        if _direct(mode, outer, connected):
            ways |= {way for cidr in cidrs if (way := _direct_way(node, cidr))}
            continue
        ways |= {Way(cidr, cidr.network_address, True) for cidr in cidrs}
        hops |= {Hop(cidr.network_address, vtep_mac(outer)) for cidr in cidrs}
        tunnels.add(Tunnel(vtep_mac(outer), outer))
    device = _device(known.get(name)) if mode == "vxlan" or tunnels else None
    return Plan(frozenset(ways), frozenset(hops), frozenset(tunnels), device)


def diff(before: Plan, after: Plan) -> Change:
    """The smallest change; what is replaced is never taken away first."""
    destinations = {way.destination for way in after.ways}
    addresses = {hop.address for hop in after.hops}
    macs = {tunnel.mac for tunnel in after.tunnels}
    put = Plan(after.ways - before.ways, after.hops - before.hops, after.tunnels - before.tunnels)
    drop = Plan(
        frozenset(way for way in before.ways if way.destination not in destinations),
        frozenset(hop for hop in before.hops if hop.address not in addresses),
        frozenset(tunnel for tunnel in before.tunnels if tunnel.mac not in macs),
    )
    return Change(put, drop)


def _device(own: Node | None) -> Device | None:
    outer = _outer(own) if own else None
    if own is None or outer is None:
        return None
    inner = tuple(ip_network(cidr).network_address for cidr in own.pod_cidrs)
    return Device(outer, vtep_mac(outer), inner)


def vtep_mac(outer: Address) -> str:
    """Hardware address of a node's VXLAN device, from the node's address."""
    tail = outer.packed if outer.version == 4 else hashlib.sha256(outer.packed).digest()[:4]
    return links.mac_text(b"\x0a\x57" + tail)


def pod_mtu(mode: Mode, underlay_mtu: int, *, version: int = 4) -> int:
    """The largest packet of a pod that fits the way to every other node."""
    return underlay_mtu if mode == "host-gw" else underlay_mtu - OVERHEAD[version]


def _outer(node: Node) -> Address | None:
    return next((ip_address(text) for text in node.internal_ips), None)


def _direct(mode: Mode, outer: Address, connected: Sequence[Network]) -> bool:
    if mode == "auto":
        return any(outer in network for network in connected)
    return mode == "host-gw"


def _direct_way(node: Node, cidr: Network) -> Way | None:
    """By the node's address of the same family, else by any (an IPv4 route via an IPv6 hop)."""
    addresses = [ip_address(text) for text in node.internal_ips]
    same = [a for a in addresses if a.version == cidr.version]
    if same:
        return Way(cidr, same[0], False)
    usable = [a for a in addresses if a.version == 6]
    return Way(cidr, usable[0], False) if usable else None
