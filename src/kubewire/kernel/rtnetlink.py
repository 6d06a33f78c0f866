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

from kubewire.kernel import links, routes
from kubewire.kernel.links import Link
from kubewire.kernel.netlink import NetlinkSocket
from kubewire.kernel.netns import Netns
from kubewire.kernel.routes import DeviceAddress, Neighbour, Route

GROUP_LINK = 1
GROUP_NEIGHBOUR = 3
GROUP_IPV4_ADDRESS = 5
GROUP_IPV4_ROUTE = 7
GROUP_IPV6_ADDRESS = 9
GROUP_IPV6_ROUTE = 11

_AF_BRIDGE = 7
_SIOCGIFINDEX = 0x8933

T = TypeVar("T")


class RtNetlink(NetlinkSocket):
    """NETLINK_ROUTE in the current network namespace or in a given one."""

    def __init__(self, netns: Netns | None = None) -> None:
        super().__init__(socket.NETLINK_ROUTE, netns)

    def link(self, link: str | int) -> Link:
        """One device; NetlinkError ENODEV if there is none."""
        return links.parse_link(self.ask(links.get_link(link))[1])

    def index(self, name: str) -> int:
        """Index of a device."""
        index: int = struct.unpack_from("=i", self.ask(links.get_link(name))[1], 4)[0]
        return index

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

    def neighbours(self) -> list[Neighbour]:
        """Neighbours of both families."""
        body = routes.neighbour_dump()
        return self._list(routes.GETNEIGH, body, routes.parse_neighbour, "list neighbours")

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


class DeviceNames:
    """Which devices there are by name, in the namespace where it was made.

    Netlink answers only when no device is being added or removed; this needs no lock.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def __contains__(self, name: str) -> bool:
        try:
            fcntl.ioctl(self._socket, _SIOCGIFINDEX, struct.pack("=16s24x", name.encode()))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
