"""The IPv4 source address of a node that has none of its own.

The kernel looks for a source when a route is made, on every device until one has an address, so
without any a route takes the longer the more pods there are, and the node cannot talk to them. Such
a node takes the pods' next hop for its own address, for as long as it has no other.
"""

import asyncio
import errno
from ipaddress import IPv4Interface

from kubewire.cni.wiring import NEXT_HOP_V4
from kubewire.kernel import routes
from kubewire.kernel.routes import DeviceAddress
from kubewire.kernel.rtnetlink import GROUP_IPV4_ADDRESS, RtNetlink, monitor

_LOOPBACK = 1
_OWN = IPv4Interface(NEXT_HOP_V4)


class Source:
    """Keeps the address there while it is needed; made for the current network namespace."""

    def __init__(self, node: RtNetlink) -> None:
        self._node = node
        self._changes: RtNetlink | None = None

    def ensure(self) -> None:
        """Decide now, and again whenever an address of the node comes or goes."""
        if self._changes is None:
            self._changes = monitor(GROUP_IPV4_ADDRESS)
            asyncio.get_running_loop().add_reader(self._changes.fileno(), self._changed)
            self._settle()

    def close(self) -> None:
        """Follow no longer; the address stays."""
        if self._changes is not None:
            asyncio.get_running_loop().remove_reader(self._changes.fileno())
            self._changes.close()

    def _changed(self) -> None:
        assert self._changes is not None
        try:
            while True:
                self._changes.receive()
        except BlockingIOError:
            self._settle()
        except OSError as error:
            # Some notifications were lost: the addresses themselves tell.
            if error.errno != errno.ENOBUFS:
                raise
            self._settle()

    def _settle(self) -> None:
        held = [a for a in self._node.addresses() if a.address.version == 4]
        taken = any(map(_is_own, held))
        needed = all(_is_own(a) or a.address.is_loopback for a in held)
        if needed and not taken:
            put = routes.put_address(_LOOPBACK, _OWN, routes.SCOPE_UNIVERSE)
            self._node.transact([put])
        elif taken and not needed:
            drop = routes.delete_address(_LOOPBACK, _OWN).tolerate(errno.EADDRNOTAVAIL)
            self._node.transact([drop])


def _is_own(found: DeviceAddress) -> bool:
    return found.index == _LOOPBACK and found.address.ip == NEXT_HOP_V4
