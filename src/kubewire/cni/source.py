"""The source addresses of a node that has none of its own in a family of its pods.

Without one the node cannot talk to its pods nor tell them that a packet is too big; and the kernel,
which looks for a source on every device until one has an address when an IPv4 route is made, takes
the longer the more pods there are. Such a node takes an address for its loopback, for as long as it
has no other: in IPv4 the pods' next hop, in IPv6 one that is given to nobody (RFC 4193).
"""

import asyncio
import errno
from collections.abc import Iterable
from ipaddress import ip_interface

from kubewire.cni.wiring import NEXT_HOP_V4
from kubewire.kernel import routes
from kubewire.kernel.routes import DeviceAddress
from kubewire.kernel.rtnetlink import (
    GROUP_IPV4_ADDRESS,
    GROUP_IPV6_ADDRESS,
    RtNetlink,
    monitor,
)

_LOOPBACK = 1
OWN = {4: ip_interface(NEXT_HOP_V4), 6: ip_interface("fd4b:7769:7265::1")}


class Source:
    """Keeps the addresses there while they are needed; made for the current network namespace."""

    def __init__(self, node: RtNetlink) -> None:
        self._node = node
        self._versions: frozenset[int] = frozenset()
        self._changes: RtNetlink | None = None

    def ensure(self, versions: Iterable[int]) -> None:
        """Decide now for pods of these families, and again whenever an address of the node comes or goes."""
        if self._changes is None:
            self._changes = monitor(GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS)
            asyncio.get_running_loop().add_reader(self._changes.fileno(), self._changed)
        wanted = self._versions.union(versions)
        if wanted != self._versions:
            self._versions = wanted
            self._settle()

    def close(self) -> None:
        """Follow no longer; the addresses stay."""
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
        held = self._node.addresses()
        for version in sorted(self._versions):
            self._keep(version, [a for a in held if a.address.version == version])

    def _keep(self, version: int, held: list[DeviceAddress]) -> None:
        own = OWN[version]
        taken = any(map(_is_own, held))
        needed = all(_is_own(a) or not _is_of_node(a) for a in held)
        if needed and not taken:
            self._node.transact([routes.put_address(_LOOPBACK, own, routes.SCOPE_UNIVERSE)])
        elif taken and not needed:
            drop = routes.delete_address(_LOOPBACK, own).tolerate(errno.EADDRNOTAVAIL)
            self._node.transact([drop])


def _is_own(found: DeviceAddress) -> bool:
    return found.index == _LOOPBACK and found.address.ip == OWN[found.address.version].ip


def _is_of_node(found: DeviceAddress) -> bool:
    """Others may be answered from it: in IPv6 every device has a link-local address, for its link."""
    ip = found.address.ip
    return not ip.is_loopback and not (ip.version == 6 and ip.is_link_local)
