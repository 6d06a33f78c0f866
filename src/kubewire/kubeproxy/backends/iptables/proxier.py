"""Keeps the node's iptables rules equal to the Services, by ``iptables-restore --noflush``.

A change writes only what is different: the chains of its Service, and its entries in the chains that
all share, one by one. (kube-proxy's partial sync writes the shared chains whole each time.) Rules of
others, and the built-in chains beyond our jumps, are never touched.

``sync`` reads the kernel first and writes only what differs from it, so a restart over rules that
are in place writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import chain

from kubewire.api.errors import InputError
from kubewire.api.meta import Key
from kubewire.kernel import sysctl
from kubewire.kernel.iptables import VARIANTS, Iptables, IptablesError, detect
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kubeproxy.backends.iptables import listing
from kubewire.kubeproxy.backends.iptables.compile import VERSIONS
from kubewire.kubeproxy.backends.iptables.family import Family, removal
from kubewire.kubeproxy.backends.iptables.listing import Listing
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.proxier import Dump
from kubewire.kubeproxy.table import Change
from kubewire.lang.iptables.change import Change as Rules

log = logging.getLogger(__name__)

ROUTE_LOCALNET = "net.ipv4.conf.all.route_localnet"
LIBERAL = "net.netfilter.nf_conntrack_tcp_be_liberal"


class IptablesProxier:
    """Both families, in the variant that the rest of the machine uses."""

    def __init__(
        self, config: Config, service_cidrs: Iterable[str] = (), *, variant: str = ""
    ) -> None:
        if not any(Iptables(4, v).available for v in VARIANTS):
            raise InputError("mode iptables: iptables-restore: not found; install iptables")
        self._config = config
        self._variant = variant
        self._families: dict[int, Family] = {}
        self._generation = 0
        """Of the kernel's nftables rules when ours were last known to be right; 0: unknown."""

    @property
    def variant(self) -> str:
        """nft or legacy; found out when it is first needed."""
        self._variant = self._variant or detect()
        return self._variant

    def close(self) -> None:
        """Nothing is open; the rules stay."""

    # -- writing ----------------------------------------------------------------------------------

    def sync(self, changes: Iterable[Change], cluster_ips: dict[Key, tuple[str, ...]]) -> None:
        """Bring about all of it, whatever there is."""
        frontends = [c.new for c in changes if c.new]
        for version, family in self._all().items():
            family.take(frontends, liberal=_liberal())
            self._write(version, family.repair(self._read(version)))
        self._open_loopback()
        self._remember()

    def _all(self) -> dict[int, Family]:
        if not self._families:
            for version in VERSIONS:
                if self._works(version):
                    self._families[version] = Family(version, self._config, liberal=_liberal())
        return self._families

    def _works(self, version: int) -> bool:
        try:
            Iptables(version, self.variant).restore(["*nat", "COMMIT", "*filter", "COMMIT"])
        except IptablesError as error:
            if version == 4:
                raise
            log.warning("no rules for IPv6: %s", error)
            return False
        return True

    def _write(self, version: int, changes: Iterable[Rules]) -> bool:
        """Feed everything to one process; nothing runs if there is nothing to do."""
        programs = Iptables(version, self.variant)
        limit = programs.section()
        lines = (line for change in changes for line in change.lines(limit))
        first = next(lines, None)
        if first is None:
            return False
        programs.restore(chain([first], lines))
        return True

    def _open_loopback(self) -> None:
        """Only now that the guard is in may packets to 127.0.0.0/8 be routed at all."""
        if self._config.node_ports_on_loopback:
            sysctl.write(ROUTE_LOCALNET, 1)

    def apply(self, changes: Iterable[Change], cluster_ips: dict[Key, tuple[str, ...]]) -> None:
        """Write what changed, one section for each table."""
        told = list(changes)
        known = self._generation and self._generation == self._now()
        for version, family in self._all().items():
            self._write(version, family.apply(told))
        if known:
            self._remember()
        else:
            self._generation = 0

    # -- reading ----------------------------------------------------------------------------------

    def _read(self, version: int, variant: str = "") -> Listing:
        return listing.read(Iptables(version, variant or self.variant).save())

    def _remember(self) -> None:
        self._generation = self._now()

    def _now(self) -> int:
        """The legacy variant has no number that says whether anything has changed."""
        if self.variant != "nft":
            return 0
        with Nfnetlink() as netlink:
            return netlink.generation()

    def heal(self) -> bool:
        """Compare the kernel with what is meant; write what differs."""
        generation = self._now()
        if generation and generation == self._generation:
            return False
        written = [
            self._write(version, family.repair(self._read(version)))
            for version, family in self._all().items()
        ]
        self._open_loopback()
        self._remember()
        return any(written)

    def dump(self) -> Dump:
        """Our chains, and the jumps to them, of both families."""
        desired: list[str] = []
        actual: list[str] = []
        for version, family in self._all().items():
            prefix = f"ip{'' if version == 4 else 6} "
            desired += [prefix + line for line in family.meant().lines()]
            actual += [prefix + line for line in self._read(version).lines()]
        return Dump(desired, actual)

    def clear(self) -> None:
        """Remove what any run left, in either variant; closed before the guard goes."""
        for variant in VARIANTS:
            for version in VERSIONS:
                if Iptables(version, variant).available:
                    self._clear(version, variant)
        self._families, self._generation = {}, 0

    def _clear(self, version: int, variant: str) -> None:
        try:
            found = self._read(version, variant)
        except IptablesError as error:
            log.debug("%s: nothing to remove: %s", variant, error)
            return
        if not found.chains:
            return
        if version == 4 and ("filter", "KUBE-FIREWALL") in found.chains and not found.kubelet:
            sysctl.write(ROUTE_LOCALNET, 0)
        programs = Iptables(version, variant)
        limit = programs.section()
        programs.restore(line for c in removal(found) for line in c.lines(limit))


def _liberal() -> bool:
    return sysctl.exists(LIBERAL) and sysctl.read(LIBERAL) != "0"
