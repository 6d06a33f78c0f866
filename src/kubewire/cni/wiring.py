"""The cable of one pod: a point-to-point veth between the node and the pod's namespace.

There is no bridge: the pod's address is a host address (/32, /128), its default route leads to a
next hop that nobody owns (169.254.1.1, fe80::1), and the node has a route to the address. Both
ends know the other's hardware address as a permanent neighbour, so no packet waits for ARP or ND;
the price is that every packet crosses the node's netfilter hooks, which is what Services, policies
and hairpin connections need.
"""

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network

from kubewire.cni.ipam import Address
from kubewire.kernel import links, routes
from kubewire.kernel.links import DEFAULT_GSO, Gso
from kubewire.kernel.netlink import Message, NetlinkError
from kubewire.kernel.netns import Netns, current, opened
from kubewire.kernel.routes import Route
from kubewire.kernel.rtnetlink import RtNetlink

NEXT_HOP_V4 = ip_address("169.254.1.1")
NEXT_HOP_V6 = ip_address("fe80::1")
HOST_MAC = "ee:ee:ee:ee:ee:ee"
"""Of every node-side end: each is alone on its cable, and pods never see another."""

_LOOPBACK = 1
_SMALLEST_MTU = 1280
"""Of IPv6."""
_USUAL_GSO = 1 << 16
_LENGTH = 8
"""Bytes of the header by which an IPv6 packet says a length above 64 KiB."""
_DOOMED = 0x6B77
"""Link group of cables that are to go."""
_FEW = 4
"""Removals under way from which on the next ones are put together."""

_DEFAULTS = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_NO_IPV6 = (errno.ESRCH, errno.EOPNOTSUPP)
"""What the kernel says of an IPv6 route on a device without IPv6, or without any."""
_MULTICAST = ip_network("ff00::/8")
_NEXT_HOPS = {4: NEXT_HOP_V4, 6: NEXT_HOP_V6}


class TakenError(Exception):
    """The node has a route to one of the addresses: another network gives the same ones."""


@dataclass(frozen=True, slots=True)
class Cable:
    """What connects a pod."""

    host_interface: str
    interface: str
    mac: str
    addresses: tuple[Address, ...]
    mtu: int = 0
    gso: Gso = DEFAULT_GSO
    alias: str = ""
    """Says on the node's end whose it is (``ip link``)."""
    routes: tuple[Route, ...] = ()
    """What leads to the node, by whatever device and next hop; none means everything."""


def host_interface(owner: str, prefix: str = "kw") -> str:
    """Name of the node-side end: the same for the same pod, 15 characters at most."""
    return prefix + hashlib.sha256(owner.encode()).hexdigest()[:12]


def pod_mac(addresses: Sequence[Address]) -> str:
    """A locally administered address that follows from the first IP, so it is the same after a restart."""
    packed = addresses[0].packed
    tail = packed if len(packed) == 4 else hashlib.sha256(packed).digest()[:4]
    return links.mac_text(b"\x0a\x58" + tail)


@dataclass(frozen=True, slots=True)
class Room:
    """The namespace of a pod, open for the time of a call."""

    fd: int
    netlink: RtNetlink


@contextmanager
def entering(netns: Netns) -> Iterator[Room]:
    """Open a pod's namespace; OSError if it is none."""
    with opened(netns) as fd, RtNetlink(fd) as netlink:
        yield Room(fd, netlink)


def wire(node: RtNetlink, room: Room, cable: Cable) -> None:
    """Connect a pod; on a failure nothing of the cable stays."""
    node.transact(
        [
            links.add_veth(
                cable.host_interface, cable.interface,
                peer_netns=room.fd, mac=HOST_MAC, peer_mac=cable.mac, mtu=cable.mtu, gso=_gso(cable),
            )
        ]
    )  # fmt: skip
    try:
        outer = node.index(cable.host_interface)
        inner = room.netlink.index(cable.interface)
        # The node's end first: without a carrier it comes up without a walk through all routes.
        node.transact([links.set_link(outer, alias=cable.alias), *links.bring_up(outer)])
        room.netlink.transact(links.bring_up(inner))
        # The kernel looks at the new carrier while the rest is put together.
        inside, outside = pod_side(inner, cable), node_side(outer, cable)
        room.netlink.transact(inside)
        _refusing_taken(node, outside)
    except BaseException:
        unwire(node, cable.host_interface)
        raise


def _refusing_taken(node: RtNetlink, batch: list[Message]) -> None:
    try:
        node.transact(batch)
    except NetlinkError as error:
        taken = [f for f in error.failures if f.errno == errno.EEXIST]
        if taken:
            raise TakenError(taken[0].message.what) from None
        raise


def next_hop(version: int) -> Address:
    """Where a pod's packets go first."""
    return _NEXT_HOPS[version]


def ways(cable: Cable, version: int) -> list[Route]:
    """What leads out of the pod by the cable."""
    found = [way for way in cable.routes if way.destination.version == version]
    found = found or [Route(_DEFAULTS[version])]
    if version == 4 or _gso(cable).v6 <= _USUAL_GSO:
        return found
    most = cable.mtu - _LENGTH
    return [replace(way, mtu=min(way.mtu or most, most)) for way in found]


def _gso(cable: Cable) -> Gso:
    """What a cable may take.

    A router counts the header of a long IPv6 packet as part of each segment that it compares with
    the MTU, though none has it on the wire. So pods send segments that leave room for it (`ways`).
    """
    return cable.gso if cable.mtu >= _SMALLEST_MTU + _LENGTH else replace(cable.gso, v6=0)


def node_side(index: int, cable: Cable) -> list[Message]:
    """Requests on the node once both ends are up.

    For each device that gets a carrier the kernel walks all IPv6 routes, and for each new route all
    others to its destination. So a cable has no IPv6 route but the pod's: neither an address (the
    next hop is nobody's) nor the route of multicast, which nobody sends there.
    """
    batch = [
        links.settle(index),
        routes.delete_route(_multicast(index)).tolerate(*_NO_IPV6),
    ]
    for address in cable.addresses:
        batch.append(routes.add_route(Route(ip_network(address), index)))
        batch.append(routes.put_neighbour(index, address, cable.mac))
    return batch


def _multicast(index: int) -> Route:
    """What the kernel adds for each device that comes up."""
    return Route(_MULTICAST, index, table=routes.TABLE_LOCAL, kind="multicast", protocol=routes.PROTOCOL_KERNEL)  # fmt: skip


def pod_side(index: int, cable: Cable) -> list[Message]:
    """Requests inside the pod once its end is up."""
    batch: list[Message] = []
    for address in cable.addresses:
        batch.append(routes.add_address(index, ip_interface(address)))
        if address.version == 6:
            # The pod's way to itself; see `kernel.netns.create`.
            batch.append(routes.put_neighbour(_LOOPBACK, address, "00:00:00:00:00:00"))
    for version in sorted({a.version for a in cable.addresses}):
        via = _NEXT_HOPS[version]
        if version == 6:
            batch.append(routes.add_address(index, routes.link_local(cable.mac)))
        for way in ways(cable, version):
            # Another interface of the pod may lead there already: the first one's stays.
            route = replace(way, device=index, via=via, onlink=True)
            batch.append(routes.add_route(route).tolerate(errno.EEXIST))
        batch.append(routes.put_neighbour(index, via, HOST_MAC))
    # Now it has its carrier, and may send.
    return [*batch, links.settle(index)]


class Sweeper:
    """Removes cables beside the event loop: the kernel takes its time to free them.

    Removing one device takes some 20 ms, but hundreds together take little more. So in a burst a
    cable joins the group of those that are to go, and one removal takes all that are in it.
    """

    def __init__(self) -> None:
        self._netns = current()
        """The namespace of the node: the one in which the sweeper was made."""
        self._names = RtNetlink()
        self._sweeps: set[asyncio.Task[None]] = set()

    async def remove(self, node: RtNetlink, interface: str) -> bool:
        """Remove a cable and return when nobody can see it any more; False if it was not there.

        A device leaves all lists at the start of its removal; the time that the kernel takes to
        free it is spent in a thread.
        """
        if interface not in self._names:
            return False
        request = links.delete_link(interface)
        if len(self._sweeps) >= _FEW:
            node.transact([links.set_link(interface, group=_DOOMED).tolerate(errno.ENODEV)])
            request = links.delete_group(_DOOMED)
        task = asyncio.create_task(asyncio.to_thread(self._send, request), name="sweep pod cables")
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)
        await asyncio.sleep(0)
        if not self._gone_soon(interface):
            while interface in self._names and not task.done():  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.001)
        if task.done():
            task.result()
        return True

    def _gone_soon(self, interface: str) -> bool:
        """Look for 2 ms; the timers of the event loop count in milliseconds."""
        for _ in range(40):
            if interface not in self._names:
                return True
            time.sleep(0.00005)
        return False

    def _send(self, request: Message) -> None:
        with RtNetlink(self._netns) as netlink:
            netlink.transact([request.tolerate(errno.ENODEV)])

    async def close(self) -> None:
        """Wait for what is being removed, and end."""
        await asyncio.gather(*self._sweeps)
        self._names.close()
        os.close(self._netns)


def unwire(node: RtNetlink, interface: str) -> None:
    """Remove a cable with both ends and its routes; absent is fine."""
    node.transact([links.delete_link(interface).tolerate(errno.ENODEV)])
