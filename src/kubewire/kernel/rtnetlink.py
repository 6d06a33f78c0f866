"""Devices, addresses and routes of one network namespace: send batches, read back, subscribe.

The requests are built by `kernel.links`, `kernel.routes` and `kernel.qdiscs`; this is their only
way to the kernel.
"""

import errno
import fcntl
import socket
import struct
from collections.abc import Callable
from typing import TypeVar

from kubewire.kernel import links, qdiscs, routes
from kubewire.kernel.links import Link
from kubewire.kernel.netlink import Failure, NetlinkError, NetlinkSocket
from kubewire.kernel.netns import Netns
from kubewire.kernel.routes import Address, DeviceAddress, Neighbour, Route

GROUP_LINK = 1
GROUP_IPV4_ADDRESS = 5
GROUP_IPV6_ADDRESS = 9

_AF_BRIDGE = 7
_SIOCGIFMTU = 0x8921
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("=16si20x")

T = TypeVar("T")


class RtNetlink(NetlinkSocket):
    """NETLINK_ROUTE in the current network namespace or in a given one."""

    def __init__(self, netns: Netns | None = None) -> None:
        super().__init__(socket.NETLINK_ROUTE, netns)

    def link(self, link: str | int) -> Link:
        """One device; NetlinkError ENODEV if there is none."""
        return links.parse_link(self.ask(links.get_link(link))[1])

    def index(self, name: str) -> int:
        """Index of a device; NetlinkError ENODEV if there is none.

        A request for it would wait for every device that is being added or removed, and be answered
        with all that is known of it; this needs no lock.
        """
        return self._number(_SIOCGIFINDEX, name)

    def mtu(self, name: str) -> int:
        """MTU of a device, as cheaply."""
        return self._number(_SIOCGIFMTU, name)

    def _number(self, request: int, name: str) -> int:
        try:
            answer = fcntl.ioctl(self.socket, request, _IFREQ.pack(name.encode(), 0))
        except OSError as error:
            reason = Failure(links.get_link(name), error.errno or errno.EIO, "")
            raise NetlinkError([reason]) from None
        number: int = _IFREQ.unpack(answer)[1]
        return number

    def __contains__(self, name: str) -> bool:
        """There is such a device."""
        try:
            self.index(name)
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
            return False
        return True

    def links(self) -> list[Link]:
        """Every device."""
        return self._list(links.GETLINK, links.all_links(), links.parse_link, "list links")

    def addresses(self) -> list[DeviceAddress]:
        """Every address of every device."""
        body = routes.address_dump()
        return self._list(routes.GETADDR, body, routes.parse_address, "list addresses")

    def routes(self) -> list[Route]:
        """Every route of both families and all tables, without cloned and cached ones."""
        found: list[Route] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            body = routes.route_dump(family)
            parsed = self._list(routes.GETROUTE, body, routes.parse_route, "list routes")
            found += [route for route in parsed if route]
        return found

    def route_to(self, destination: Address) -> Route | None:
        """The route that leads to an address: to one of our own a local one, of the device that has it."""
        try:
            return routes.parse_route(self.ask(routes.get_route(destination))[1])
        except NetlinkError as error:
            if error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                raise
            return None

    def neighbours(self) -> list[Neighbour]:
        """Neighbours of both families."""
        body = routes.neighbour_dump()
        return self._list(routes.GETNEIGH, body, routes.parse_neighbour, "list neighbours")

    def qdiscs(self) -> set[tuple[int, str]]:
        """The index of every device with the kind of its root queue."""
        found = self._list(qdiscs.GETQDISC, qdiscs.all_qdiscs(), qdiscs.parse_qdisc, "list qdiscs")
        return {(index, kind) for index, parent, kind in found if parent == qdiscs.ROOT}

    def fdb(self) -> list[Neighbour]:
        """Forwarding entries of bridges and VXLAN devices."""
        body = routes.neighbour_dump(_AF_BRIDGE)
        return self._list(routes.GETNEIGH, body, routes.parse_neighbour, "list fdb")

    def _list(self, kind: int, body: bytes, parse: Callable[[bytes], T], what: str) -> list[T]:
        return [parse(data) for _, data in self.dump(kind, body, what)]


def monitor(*groups: int, netns: Netns | None = None) -> RtNetlink:
    """A socket that is told of changes; read it with ``receive`` when its ``fileno`` is ready."""
    opened = RtNetlink(netns)
    opened.join(*groups)
    opened.socket.setblocking(False)
    return opened
