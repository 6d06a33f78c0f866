"""How a node reaches the pods of the other nodes: host-gw, vxlan, auto or wireguard.

`plan` is pure: the Nodes in, the routes, neighbours, forwarding entries and peers of one node out.
In the VXLAN scheme (Flannel's) nothing is learned and nobody has to publish anything: the hardware
address of a node's VXLAN device follows from the node's address. ``auto`` takes the direct way to
nodes on the same link and VXLAN to those behind a router. With ``wireguard`` every node publishes
its public key as an annotation of its Node.

A Node is data that others write, so its podCIDRs are checked: one outside the cluster's ranges, or
one that another node has already, would draw traffic that is not meant for it.
"""

import base64
import binascii
import bisect
import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import collapse_addresses, ip_address, ip_network
from typing import Literal

from kubewire.api.core import Node
from kubewire.cni.blocks import ANNOTATION, claims
from kubewire.cni.config import Fit
from kubewire.cni.ipam import Address, Network, within
from kubewire.kernel import links

Mode = Literal["host-gw", "vxlan", "auto", "wireguard"]

VXLAN_INTERFACE = "kw-vxlan"
VXLAN_PORT = 8472
VXLAN_VNI = 1
WIREGUARD_INTERFACE = "kw-wireguard"
WIREGUARD_PORT = 51820
WIREGUARD_KEY = "kubewire.dev/wireguard-public-key"
"""Annotation of a Node: base64 of its public key."""
OVERHEAD: dict[Mode, dict[int, int]] = {
    "host-gw": {4: 0, 6: 0},
    "vxlan": {4: 50, 6: 70},
    "auto": {4: 50, 6: 70},
    "wireguard": {4: 60, 6: 80},
}
"""Bytes that are put around a packet, by the IP version of the outer address."""


@dataclass(frozen=True, slots=True)
class Way:
    """One podCIDR of another node: the next hop, and whether it lies behind our own device.

    Behind WireGuard there is no next hop: the device finds the peer by the destination.
    """

    destination: Network
    via: Address | None
    overlay: bool


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop behind the VXLAN device, and the hardware address of the device that answers."""

    address: Address
    mac: str


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A hardware address of another node's VXLAN device, and that node's own address."""

    mac: str
    outer: Address


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node behind WireGuard: its key, its own address, and whose packets come from it."""

    key: bytes
    outer: Address
    allowed: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """The VXLAN or WireGuard device of this node."""

    local: Address
    mac: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What this node needs to reach all the others."""

    ways: frozenset[Way] = frozenset()
    hops: frozenset[Hop] = frozenset()
    tunnels: frozenset[Tunnel] = frozenset()
    peers: frozenset[Peer] = frozenset()
    device: Device | None = None
    refused: tuple[str, ...] = ()
    """Why a podCIDR of a Node leads nowhere."""


@dataclass(frozen=True, slots=True)
class Change:
    """What leads from one plan to the next: ``put`` adds or replaces, then ``drop`` removes."""

    put: Plan
    drop: Plan


def plan(
    nodes: Iterable[Node],
    name: str,
    mode: Mode,
    *,
    connected: Sequence[Network] = (),
    cluster: Sequence[Network] = (),
) -> Plan:
    """Work out the ways from node ``name``.

    ``connected`` are the networks on its own links, ``cluster`` the ranges that podCIDRs must be
    in (none: anywhere).
    """
    known = list(nodes)
    own = next((node for node in known if node.metadata.name == name), None)
    accepted, refused = _accepted(known, own, cluster, connected)
    parts: list[Plan] = []
    for node, cidrs in accepted:
        outer = _outer(node)
        if node is own or outer is None or not cidrs:
            continue
        if own and outer == _outer(own):
            refused.append(
                f"Node {node.metadata.name} status.addresses: {outer} is also that of Node {name}"
            )
            continue
        if mode == "wireguard":
            parts.append(_encrypted(node, outer, cidrs))
        elif _direct(mode, outer, connected):
            ways = frozenset(way for cidr in cidrs if (way := _direct_way(node, cidr)))
            parts.append(Plan(ways))
        else:
            parts.append(_tunnelled(outer, cidrs))
    tunnels = frozenset[Tunnel]().union(*(part.tunnels for part in parts))
    needs_device = (
        mode in ("vxlan", "wireguard")
        or tunnels
        or (mode == "auto" and own and _tunnels_come(own, known, connected))
    )
    return Plan(
        frozenset[Way]().union(*(part.ways for part in parts)),
        frozenset[Hop]().union(*(part.hops for part in parts)),
        tunnels,
        frozenset[Peer]().union(*(part.peers for part in parts)),
        _device(own) if needs_device else None,
        tuple(refused),
    )


def diff(before: Plan, after: Plan) -> Change:
    """The smallest change; what is replaced is never taken away first."""
    destinations = {way.destination for way in after.ways}
    addresses = {hop.address for hop in after.hops}
    macs = {tunnel.mac for tunnel in after.tunnels}
    keys = {peer.key for peer in after.peers}
    put = Plan(
        after.ways - before.ways,
        after.hops - before.hops,
        after.tunnels - before.tunnels,
        after.peers - before.peers,
    )
    drop = Plan(
        frozenset(way for way in before.ways if way.destination not in destinations),
        frozenset(hop for hop in before.hops if hop.address not in addresses),
        frozenset(tunnel for tunnel in before.tunnels if tunnel.mac not in macs),
        frozenset(peer for peer in before.peers if peer.key not in keys),
    )
    return Change(put, drop)


def judged(node: Node, cluster: Sequence[Network]) -> Iterator[tuple[Network | None, str]]:
    """Each podCIDR of a Node, and what is wrong with it by itself ("": nothing)."""
    for index, text in enumerate(node.pod_cidrs):
        field = f"Node {node.metadata.name} spec.podCIDRs[{index}] {text}"
        try:
            # The API takes ranges with host bits, too.
            cidr = ip_network(text, strict=False)
        except ValueError as error:
            yield None, f"{field}: {error}"
            continue
        if cluster and not any(within(cidr, whole) for whole in cluster):
            yield cidr, f"{field}: is outside the cluster CIDR {','.join(map(str, cluster))}"
        else:
            yield cidr, ""


class _Holders:
    """Who has which range; the ranges are apart from each other, so one look tells."""

    def __init__(self) -> None:
        self._found: dict[int, list[tuple[int, int, str]]] = {4: [], 6: []}

    def of(self, cidr: Network) -> str:
        """Whoever has a part of it."""
        known = self._found[cidr.version]
        last = int(cidr.broadcast_address)
        position = bisect.bisect_right(known, last, key=lambda one: one[0])
        _, end, name = known[position - 1] if position else (0, -1, "")
        return name if end >= int(cidr.network_address) else ""

    def take(self, cidrs: Iterable[Network], name: str) -> None:
        """Add what a node has."""
        for version, known in self._found.items():
            for one in collapse_addresses(c for c in cidrs if c.version == version):  # type: ignore[type-var]
                bisect.insort(known, (int(one.network_address), int(one.broadcast_address), name))


def _accepted(
    nodes: Sequence[Node],
    own: Node | None,
    cluster: Sequence[Network],
    connected: Sequence[Network],
) -> tuple[list[tuple[Node, list[Network]]], list[str]]:
    """The podCIDRs and blocks that count, node by node: this node's own first, then the oldest."""
    holders = _Holders()
    accepted: list[tuple[Node, list[Network]]] = []
    refused: list[str] = []

    def fault(cidr: Network, field: str) -> str:
        if holder := holders.of(cidr):
            return f"{field}: {cidr} is also that of Node {holder}"
        for network in connected:
            if node is not own and within(network, cidr):
                return f"{field}: {cidr} holds {network}, which is on a link of this node"
        return ""

    for node in sorted(nodes, key=lambda n: (n is not own, n.metadata.creation_timestamp or "", n.metadata.name)):  # fmt: skip
        cidrs: list[Network] = []
        field = f"Node {node.metadata.name} spec.podCIDRs"
        for cidr, why in judged(node, cluster):
            if wrong := why or (fault(cidr, field) if cidr else ""):
                refused.append(wrong)
            elif cidr:
                cidrs.append(cidr)
        field = f"Node {node.metadata.name} metadata.annotations[{ANNOTATION}]"
        for block in (block for found in claims(node).values() for block in found):
            if wrong := fault(block, field):
                refused.append(wrong)
            else:
                cidrs.append(block)
        holders.take(cidrs, node.metadata.name)
        accepted.append((node, cidrs))
    return accepted, refused


def _tunnelled(outer: Address, cidrs: Sequence[Network]) -> Plan:
    mac = vtep_mac(outer)
    return Plan(
        frozenset(Way(cidr, cidr.network_address, True) for cidr in cidrs),
        frozenset(Hop(cidr.network_address, mac) for cidr in cidrs),
        frozenset({Tunnel(mac, outer)}),
    )


def _encrypted(node: Node, outer: Address, cidrs: Sequence[Network]) -> Plan:
    """Through WireGuard, once the node has published its key."""
    key = _public_key(node)
    if key is None:
        return Plan()
    # The node's own addresses: what its processes send to our pods comes through the tunnel, too.
    own = tuple(map(ip_network, addresses(node)))
    peer = Peer(key, outer, (*cidrs, *own))
    return Plan(frozenset(Way(cidr, None, True) for cidr in cidrs), peers=frozenset({peer}))


def _public_key(node: Node) -> bytes | None:
    text = node.annotations.get(WIREGUARD_KEY, "")
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return key if len(key) == 32 else None


def _device(own: Node | None) -> Device | None:
    outer = _outer(own) if own else None
    if own is None or outer is None:
        return None
    inner = tuple(cidr.network_address for cidr, _ in judged(own, ()) if cidr)
    return Device(outer, vtep_mac(outer), inner)


def vtep_mac(outer: Address) -> str:
    """Hardware address of a node's VXLAN device, from the node's address."""
    tail = outer.packed if outer.version == 4 else hashlib.sha256(outer.packed).digest()[:4]
    return links.mac_text(b"\x0a\x57" + tail)


def fit(mode: Mode, underlay: Fit, *, version: int = 4) -> Fit:
    """What fits, by what the underlay takes and the IP version of the nodes' addresses.

    Packets above 64 KiB cannot be put into others: they go by plain routes only.
    """
    gso = underlay.gso if mode == "host-gw" else links.DEFAULT_GSO
    return Fit(underlay.mtu - OVERHEAD[mode][version], gso)


def addresses(node: Node) -> list[Address]:
    """A Node's own addresses that can be reached; the API takes any text for one."""
    found = []
    for text in node.internal_ips:
        with contextlib.suppress(ValueError):
            ip = ip_address(text)
            if not (ip.is_loopback or ip.is_multicast or ip.is_unspecified):
                found.append(ip)
    return found


def _outer(node: Node) -> Address | None:
    return next(iter(addresses(node)), None)


def _direct(mode: Mode, outer: Address, connected: Sequence[Network]) -> bool:
    if mode == "auto":
        return any(outer in network for network in connected)
    return mode == "host-gw"


def _tunnels_come(own: Node, nodes: Iterable[Node], connected: Sequence[Network]) -> bool:
    """Somebody on another link of ours has to go by our address on the first one, behind a router."""
    ours = _outer(own)
    shared = [network for network in connected if ours and ours in network]
    theirs = [outer for node in nodes if (outer := _outer(node))]
    return any(not any(outer in network for network in shared) for outer in theirs)


def _direct_way(node: Node, cidr: Network) -> Way | None:
    """By the node's address of the same family, else by any (an IPv4 route via an IPv6 hop)."""
    held = addresses(node)
    same = [a for a in held if a.version == cidr.version]
    if same:
        return Way(cidr, same[0], False)
    usable = [a for a in held if a.version == 6]
    return Way(cidr, usable[0], False) if usable else None
