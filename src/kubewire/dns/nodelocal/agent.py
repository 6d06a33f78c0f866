"""Puts a node's cache in place around the server: device, addresses, rules.

All of it is looked after while the server runs, since firewalls are flushed and devices deleted by
others, and taken away when it ends; after a crash it stays, and the next start takes it over.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_interface
from typing import Self

from kubewire.dns.metrics import Book
from kubewire.dns.nodelocal.metrics import ERRORS, book
from kubewire.dns.nodelocal.plan import TABLE, NodeLocal
from kubewire.kernel import links, routes
from kubewire.kernel.netlink import NetlinkError
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.lang.nftables import model

log = logging.getLogger("kubewire.dns.nodelocal")

INTERVAL = 60.0
"""Seconds between looks."""
_ABSENT = (errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENOENT)


class Agent:
    """A context: inside it the node leads DNS packets to the server of this process."""

    def __init__(
        self,
        plan: NodeLocal,
        *,
        interface: str = "nodelocaldns",
        interval: float = INTERVAL,
        stays: bool = False,
        counters: Book | None = None,
    ) -> None:
        self._plan = plan
        self._interface = interface
        self._interval = interval
        self._stays = stays
        """Leave everything in place at the end."""
        self._counters = counters or book()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nodelocal", daemon=True)

    def __enter__(self) -> Self:
        self.ensure()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if not self._stays:
            self.remove()

    def ensure(self) -> None:
        """Put in place what is missing."""
        with self._counting("interface_add"), RtNetlink() as netlink:
            index = self._device(netlink)
            wanted = [ip_interface(ip) for ip in self._plan.local_ips]
            netlink.transact([routes.put_address(index, address) for address in wanted])
        with self._counting("iptables"), Nfnetlink() as nft:
            if TABLE not in nft.tables():
                nft.commit(model.replace(self._plan.table()))

    @contextmanager
    def _counting(self, kind: str) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._counters.add(ERRORS, kind)
            raise

    def remove(self) -> None:
        """Take everything away that ``ensure`` puts there."""
        change = model.Transaction("inet")
        change.add_table(TABLE)
        change.delete_table(TABLE)
        with Nfnetlink() as nft:
            nft.commit(change)
        with RtNetlink() as netlink:
            netlink.transact([links.delete_link(self._interface).tolerate(*_ABSENT)])
            loopback = netlink.index("lo")
            wanted = [ip_interface(ip) for ip in self._plan.local_ips]
            netlink.transact(
                [routes.delete_address(loopback, a).tolerate(*_ABSENT) for a in wanted]
            )

    def _device(self, netlink: RtNetlink) -> int:
        """Index of the dummy device; of the loopback where the kernel has no dummy."""
        try:
            create = links.add_dummy(self._interface).tolerate(errno.EEXIST)
            netlink.transact([create, links.set_link(self._interface, up=True)])
            return netlink.index(self._interface)
        except NetlinkError as error:
            if not any(f.errno == errno.EOPNOTSUPP for f in error.failures):
                raise
            return netlink.index("lo")

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self.ensure()
            except OSError as error:
                log.error("the way to the cache cannot be kept: %s", error)
