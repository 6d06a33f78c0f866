"""Applies the ways to other nodes (`cni.routes`) in the node's network namespace, and follows Nodes.

Only what kubewire made is ever removed: routes carry its protocol number (86), forwarding entries
and peers are on its own device. A WireGuard device keeps the node's private key: it is read back
from the kernel after a restart and written nowhere else.
"""

import base64
import errno
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from kubewire.api.core import Node
from kubewire.api.meta import Key
from kubewire.cni.config import Fit
from kubewire.cni.ipam import Address, Network
from kubewire.cni.routes import (
    OVERHEAD,
    VXLAN_INTERFACE,
    VXLAN_PORT,
    VXLAN_VNI,
    WIREGUARD_INTERFACE,
    WIREGUARD_KEY,
    WIREGUARD_PORT,
    Change,
    Device,
    Hop,
    Mode,
    Peer,
    Plan,
    Tunnel,
    Way,
    addresses,
    diff,
    plan,
)
from kubewire.kernel import links, routes, wireguard
from kubewire.kernel.links import Link
from kubewire.kernel.netlink import Message, NetlinkError
from kubewire.kernel.routes import PROTOCOL_KUBEWIRE, Route
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kernel.wireguard import WireGuard

if TYPE_CHECKING:
    from kubewire.client.informer import Informer
    from kubewire.client.loop import Changes

ETHERNET_MTU = 1500
RETRY = 5.0
"""Seconds after which a node is tried again that could not be reached: links come up late."""

log = logging.getLogger(__name__)


class RouteTable:
    """This node's routes, neighbours, forwarding entries and peers to the others."""

    def __init__(
        self,
        node_name: str,
        mode: Mode,
        *,
        cluster: Sequence[Network] = (),
        vni: int = VXLAN_VNI,
        port: int = VXLAN_PORT,
    ) -> None:
        self.node_name = node_name
        self.mode = mode
        self.public_key = b""
        """Of the WireGuard device, once there is one."""
        self.refused: tuple[str, ...] = ()
        """Why podCIDRs of Nodes lead nowhere."""
        self._cluster = cluster
        self._vni = vni
        self._port = WIREGUARD_PORT if mode == "wireguard" else port
        self._netlink = RtNetlink()
        self._wireguard = WireGuard() if mode == "wireguard" else None
        self._applied: Plan | None = None
        self._index = 0

    def close(self) -> None:
        """Close the sockets; the routes stay."""
        self._netlink.close()
        if self._wireguard:
            self._wireguard.close()

    def apply(self, nodes: Iterable[Node]) -> bool:
        """Make the kernel lead to all nodes; the first time, leftovers of an earlier run go.

        False if the kernel knows no way to the address of some node: the others do not suffer from it.
        """
        known = list(nodes)
        wanted = plan(
            known, self.node_name, self.mode, connected=self._connected(), cluster=self._cluster
        )
        refused = wanted.refused
        before = self._applied
        self._applied = None
        self._ensure_device(wanted.device)
        if before is None:
            before = self._found()
        if not self._index:
            # Our own Node is not there yet, so nobody could answer through our device.
            wanted = Plan(frozenset(way for way in wanted.ways if not way.overlay))
        change = diff(before, wanted)
        if self._wireguard and change.put.peers:
            self._wireguard.set(self._index, peers=[self._peer(p) for p in change.put.peers])
        lost = self._transact(before, change)
        if self._wireguard and change.drop.peers:
            self._wireguard.remove(self._index, (peer.key for peer in change.drop.peers))
        self._tell((*refused, *(_unreachable(known, way, why) for way, why in lost.items())))
        self._applied = replace(wanted, ways=wanted.ways - lost.keys())
        return not lost

    def _transact(self, before: Plan, change: Change) -> dict[Way, str]:
        """Change the kernel; gives the direct ways that it refused to take, with the reason."""
        puts = {routes.put_route(self._route(way)): way for way in change.put.ways}
        batch = [*self._turned(before, change.put), *self._puts(change.put), *puts]
        try:
            self._netlink.transact([*batch, *self._drops(change.drop)])
        except NetlinkError as error:
            found = {f.message: str(f) for f in error.failures}
            lost = {way: found[m] for m, way in puts.items() if m in found and not way.overlay}
            if len(lost) < len(found):
                raise
            # What led there before leads to where the node is no more.
            led = {way.destination for way in lost}
            gone = frozenset(way for way in before.ways if way.destination in led)
            self._netlink.transact([*self._drops(Plan(gone))])
            return lost
        return {}

    def _tell(self, refused: tuple[str, ...]) -> None:
        for why in refused:
            if why not in self.refused:
                log.warning("%s: no route is made", why)
        self.refused = refused

    def _turned(self, before: Plan, put: Plan) -> Iterator[Message]:
        """Take away direct IPv6 routes that become overlay ones.

        The kernel asks them for the next hop of the new route, and refuses a hop that it finds by
        another device.
        """
        turned = {w.destination for w in put.ways if w.overlay and w.destination.version == 6}
        for way in before.ways:
            if way.destination in turned and not way.overlay:
                yield routes.delete_route(self._route(way)).tolerate(errno.ESRCH)

    def _puts(self, part: Plan) -> Iterator[Message]:
        for tunnel in part.tunnels:
            yield routes.put_fdb(self._index, tunnel.mac, tunnel.outer)
        for hop in part.hops:
            yield routes.put_neighbour(self._index, hop.address, hop.mac)

    def _drops(self, part: Plan) -> Iterator[Message]:
        gone = (errno.ESRCH, errno.ENOENT, errno.ENODEV)
        for way in part.ways:
            yield routes.delete_route(self._route(way)).tolerate(*gone)
        for hop in part.hops:
            yield routes.delete_neighbour(self._index, hop.address).tolerate(*gone)
        for tunnel in part.tunnels:
            yield routes.delete_fdb(self._index, tunnel.mac, tunnel.outer).tolerate(*gone)

    def _peer(self, peer: Peer) -> wireguard.Peer:
        return wireguard.Peer(peer.key, peer.outer, self._port, peer.allowed)

    def _connected(self) -> list[Network]:
        return [
            address.address.network
            for address in self._netlink.addresses()
            if address.address.network.prefixlen < address.address.max_prefixlen
            and not address.address.is_loopback
            and not address.address.is_link_local
        ]

    def _found(self) -> Plan:
        """What an earlier run of this agent left in the kernel."""
        ours = self._index or -1
        ways = frozenset(
            Way(route.destination, route.via, route.device == ours)
            for route in self._netlink.routes()
            if route.protocol == PROTOCOL_KUBEWIRE and (route.via or route.device == ours)
        )
        hops = frozenset(
            Hop(entry.address, entry.mac)
            for entry in self._netlink.neighbours()
            if entry.index == ours and entry.permanent and entry.address
        )
        tunnels = frozenset(
            Tunnel(entry.mac, entry.address)
            for entry in self._netlink.fdb()
            if entry.index == ours and entry.address
        )
        peers: frozenset[Peer] = frozenset()
        if self._wireguard and self._index:
            known = self._wireguard.get(self._index).peers
            peers = frozenset(Peer(p.key, p.endpoint, p.allowed) for p in known)
        return Plan(ways, hops, tunnels, peers)

    def _ensure_device(self, device: Device | None) -> None:
        if device is None:
            return
        name = WIREGUARD_INTERFACE if self._wireguard else VXLAN_INTERFACE
        found = self._link(name)
        if found and not self._wireguard and not self._is_ours(found, device):
            self._netlink.transact([links.delete_link(found.index)])
            found = None
        if found is None:
            self._netlink.transact([self._new(name, device)])
        self._index = found.index if found else self._netlink.index(name)
        if self._wireguard:
            self._set_key(self._wireguard)
        if not found or not found.up:
            self._netlink.transact(links.bring_up(self._index))
        self._address(device)

    def _address(self, device: Device) -> None:
        """Give the device its addresses, and take away those of earlier podCIDRs."""
        held = {
            a.address.ip: a.address
            for a in self._netlink.addresses()
            if a.index == self._index and not a.address.is_link_local
        }
        wanted = [ip_interface(a) for a in device.addresses]
        put = [routes.put_address(self._index, a) for a in wanted if a.ip not in held]
        stale = [a for ip, a in held.items() if ip not in device.addresses]
        self._netlink.transact([*put, *(routes.delete_address(self._index, a) for a in stale)])

    def _link(self, name: str) -> Link | None:
        try:
            return self._netlink.link(name)
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
            return None

    def _is_ours(self, found: Link, device: Device) -> bool:
        return (found.vni, found.local, found.port) == (self._vni, device.local, self._port)

    def _new(self, name: str, device: Device) -> Message:
        parent = next(a.index for a in self._netlink.addresses() if a.address.ip == device.local)
        mtu = self._netlink.link(parent).mtu - OVERHEAD[self.mode][device.local.version]
        if self._wireguard:
            return links.add_wireguard(name, mtu=mtu)
        return links.add_vxlan(
            name, self._vni, local=device.local, device=parent,
            port=self._port, mac=device.mac, mtu=mtu,
        )  # fmt: skip

    def _set_key(self, device: WireGuard) -> None:
        """Give the device a key, unless an earlier run did."""
        if self.public_key:
            return
        found = device.get(self._index)
        if not found.private_key or found.port != self._port:
            device.set(self._index, key=found.private_key or _new_key(), port=self._port)
        self.public_key = device.get(self._index).public_key

    def _route(self, way: Way) -> Route:
        if way.overlay:
            return Route(way.destination, self._index, way.via, onlink=way.via is not None)
        return Route(way.destination, via=way.via)


def _unreachable(nodes: Iterable[Node], way: Way, why: str) -> str:
    names = (node.metadata.name for node in nodes if way.via in addresses(node))
    return f"Node {next(names, '')} status.addresses: {why}"


def _new_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.generate().private_bytes_raw()


class NodeRoutes:
    """The reconcile of a `client.loop.Loop` over one informer of Nodes."""

    def __init__(
        self,
        table: RouteTable,
        nodes: "Informer[Node]",
        annotate: Callable[[str, str], Awaitable[object]] | None = None,
    ) -> None:
        self._table = table
        self._nodes = nodes
        self._annotate = annotate
        """Sets an annotation (name, value) of this node's Node."""

    async def reconcile(self, _: "Changes") -> float | None:
        """Follow the Nodes as they are now; come again where one could not be reached."""
        table = self._table
        whole = table.apply(self._nodes.store.values())
        own = self._nodes.store.get(Key("", table.node_name))
        if table.public_key and own and self._annotate:
            key = base64.b64encode(table.public_key).decode()
            if own.annotations.get(WIREGUARD_KEY) != key:
                await self._annotate(WIREGUARD_KEY, key)
        return None if whole else RETRY


def underlay(netlink: RtNetlink, address: Address) -> Fit:
    """What the device takes that holds the node's own address; on the loopback, the way out."""
    link = netlink.link(_holder(netlink, address))
    return _fit(link) if link.name != "lo" else _way_out(netlink, address.version)


def _holder(netlink: RtNetlink, address: Address) -> int:
    """The device that has one of the node's own addresses.

    A list of addresses is the longer the more pods there are, so the route is asked first; but the
    kernel makes that of a new IPv6 address a moment after the address.
    """
    found = netlink.route_to(address)
    if found and found.kind == "local":
        return found.device
    for held in netlink.addresses():
        if held.address.ip == address:
            return held.index
    raise LookupError(f"no device of this node has the address {address}")


def _fit(link: Link) -> Fit:
    return Fit(link.mtu, link.gso)


def _way_out(netlink: RtNetlink, version: int) -> Fit:
    """An address that is routed to the node says nothing about a link: packets take the default route."""
    for route in netlink.routes():
        if (
            route.destination.prefixlen == 0
            and route.destination.version == version
            and route.device
        ):
            return _fit(netlink.link(route.device))
    return Fit(ETHERNET_MTU)
