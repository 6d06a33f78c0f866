"""Addresses of Services on a device of the node: packets to them then reach IPVS.

The device is a dummy; where the kernel has none, the loopback holds them. An address that the node
has anyway (an externalIP that is the node's own) is left alone.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from ipaddress import ip_interface

from kubewire.kernel import links, routes
from kubewire.kernel.netlink import NetlinkError
from kubewire.kernel.rtnetlink import RtNetlink

DEVICE = "kube-ipvs0"
_NO_DUMMY = (errno.EOPNOTSUPP, errno.ENODEV)


class Addresses:
    """Whole addresses on our device."""

    def __init__(self) -> None:
        self._netlink = RtNetlink()
        self._index = 0
        self._own_device = False

    def close(self) -> None:
        """Close the socket; the addresses stay."""
        self._netlink.close()

    def found(self) -> bool:
        """Tell whether our device is there."""
        return any(link.name == DEVICE for link in self._netlink.links())

    def open(self) -> None:
        """Make the device, unless it is there."""
        try:
            self._netlink.transact([links.add_dummy(DEVICE).tolerate(errno.EEXIST)])
        except NetlinkError as error:
            if error.errno not in _NO_DUMMY:
                raise
            self._index, self._own_device = self._netlink.index("lo"), False
            return
        self._index, self._own_device = self._netlink.index(DEVICE), True
        self._netlink.transact(
            [links.set_link(self._index, no_autoconf=True), links.set_link(self._index, up=True)]
        )

    def bound(self, served: Iterable[str]) -> set[str]:
        """What is there of ours; on the loopback, that is what a virtual server has."""
        if not self._index and self.found():
            self._index, self._own_device = self._netlink.index(DEVICE), True
        found = {
            str(a.address.ip)
            for a in self._netlink.addresses()
            if a.index == self._index and not a.address.ip.is_link_local
        }
        return found if self._own_device else found & set(served)

    def foreign(self, wanted: Iterable[str]) -> set[str]:
        """Of the wanted addresses, those that the node does not have by itself."""
        wanted = set(wanted)
        if not wanted:
            return wanted
        elsewhere = {
            str(a.address.ip)
            for a in self._netlink.addresses()
            if a.index != self._index or (not self._own_device and a.address.ip.is_loopback)
        }
        return wanted - elsewhere

    def put(self, addresses: Iterable[str]) -> None:
        """Add addresses."""
        self._netlink.transact(
            [routes.put_address(self._index, ip_interface(a)) for a in addresses]
        )

    def remove(self, addresses: Iterable[str]) -> None:
        """Remove addresses; one that is gone is fine."""
        self._netlink.transact(
            [
                routes.delete_address(self._index, ip_interface(a)).tolerate(errno.EADDRNOTAVAIL)
                for a in addresses
            ]
        )

    def clear(self) -> None:
        """Remove the device."""
        self._netlink.transact([links.delete_link(DEVICE).tolerate(errno.ENODEV)])
        self._index, self._own_device = 0, False
