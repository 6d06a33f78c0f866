"""Keeps the node's iptables rules equal to the Services, by ``iptables-restore --noflush``.

A change writes only what is different: the chains of its Service, and its entries in the chains that
all share, one by one. (kube-proxy's partial sync writes the shared chains whole each time.) Rules of
others, and the built-in chains beyond our jumps, are never touched.

``sync`` reads the kernel first and writes only what differs from it, so a restart over rules that
are in place writes nothing.

The legacy variant takes a table only whole. Single changes are written there without the program,
which would fetch the table for each (``kernel.xtables``); what that cannot write the program does.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from kubewire.api.errors import InputError
from kubewire.api.meta import Key
from kubewire.kernel import sysctl
from kubewire.kernel.iptables import VARIANTS, Iptables, IptablesError, detect
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kernel.xtables import Info, Tables
from kubewire.kubeproxy.backends.iptables import listing
from kubewire.kubeproxy.backends.iptables.base import SERVICES, VERSIONS
from kubewire.kubeproxy.backends.iptables.family import Family, removal
from kubewire.kubeproxy.backends.iptables.listing import Listing
from kubewire.kubeproxy.backends.iptables.names import CANARY, KUBELET_FIREWALL
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import FrontendKey
from kubewire.kubeproxy.proxier import Dump, RuleCount, Stay
from kubewire.kubeproxy.table import Change
from kubewire.lang.iptables.change import Change as Rules
from kubewire.lang.iptables.entries import UnfitError

log = logging.getLogger(__name__)

ROUTE_LOCALNET = "net.ipv4.conf.all.route_localnet"
_NFT_FAMILIES = {4: 2, 6: 10}
RECENT = Path("/proc/thread-self/net/xt_recent")
LOOKED_AT = ("mangle", "nat", "filter")
LIBERAL = "net.netfilter.nf_conntrack_tcp_be_liberal"


class IptablesProxier:
    """Both families, in the variant that the rest of the machine uses."""

    def __init__(
        self, config: Config, service_cidrs: Iterable[str] = (), *, variant: str = ""
    ) -> None:
        if not any(Iptables(4, v).available for v in (variant, *VARIANTS)):
            raise InputError("mode iptables: iptables-restore: not found; install iptables")
        self._config = config
        self._found = variant or None
        self._nft: bool | None = None
        self._families: dict[int, Family] = {}
        self._generation = 0
        """Of the kernel's nftables rules when ours were last known to be right; 0: unknown."""
        self._seen = 0
        """The generation at which a quick look found nothing wrong; 0 as well: it cannot tell."""
        self._last: Counter[tuple[int, str]] = Counter()
        """(family, table) -> rules that the last sync wrote."""
        self._tables: dict[int, Tables] = {}
        """The legacy variant's, by family."""
        self._shapes: dict[tuple[int, str], Info] = {}
        """Theirs when ours were last known to be in them."""

    @property
    def variant(self) -> str:
        """nft or legacy; found out when it is first needed."""
        if self._found is None:
            self._found = detect()
        return self._found

    @property
    def _uses_nft(self) -> bool:
        if self._nft is None:
            self._nft = Iptables(4, self.variant).uses_nft
        return self._nft

    def close(self) -> None:
        """Forget what the tables hold; the rules stay."""
        for tables in self._tables.values():
            tables.close()
        self._tables, self._shapes = {}, {}

    # -- writing ----------------------------------------------------------------------------------

    def sync(self, changes: Iterable[Change], cluster_ips: dict[Key, tuple[str, ...]]) -> None:
        """Bring about all of it, whatever there is."""
        frontends = [c.new for c in changes if c.new]
        for family in self._all().values():
            family.take(frontends, liberal=_liberal())
        self._repair()

    def _repair(self) -> bool:
        before, sections = self._now(), 0
        self._last = Counter()
        for version, family in self._all().items():
            if not self._uses_nft:
                self._legacy(version).keep(LOOKED_AT)
            actual = self._read(version)
            if version == 4 and not self._config.localhost_node_ports:
                _close_loopback(actual)
            written = self._write(version, family.repair(actual))
            if not self._uses_nft and not written:
                self._legacy(version).approve()
            sections += written
        if self._config.node_ports_on_loopback:
            # Only now that the guard is in may packets to 127.0.0.0/8 be routed at all.
            sysctl.write(ROUTE_LOCALNET, 1)
        self._remember(before + sections)
        return bool(sections)

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

    def _write(self, version: int, changes: Iterable[Rules]) -> int:
        """Feed everything to one process, if there is anything; returns how many sections it was."""
        programs = Iptables(version, self.variant)
        limit = programs.section()
        lines = (line for change in changes for line in change.lines(limit))
        first = next(lines, None)
        if first is None:
            return 0
        sections = 0

        def counted() -> Iterator[str]:
            nonlocal sections
            table = ""
            for line in itertools.chain([first], lines):
                sections += line == "COMMIT"
                if line[0] == "*":
                    table = line[1:]
                elif line.startswith(("-A KUBE-", "-I KUBE-")):
                    self._last[version, table] += 1
                yield line

        programs.restore(counted())
        return sections

    def apply(self, changes: Iterable[Change], cluster_ips: dict[Key, tuple[str, ...]]) -> None:
        """Write what changed, one section for each table."""
        told, before, sections = list(changes), self._generation, 0
        self._last = Counter()
        for version, family in self._all().items():
            sections += self._change(version, family.apply(told))
        self._remember(before + sections if before else 0)

    def _change(self, version: int, changes: list[Rules]) -> int:
        """Write a few rules, the shortest way."""
        due = [change for change in changes if change.settle()]
        if self._uses_nft or not due:
            return self._write(version, due)
        try:
            self._legacy(version).apply(due)
            for change in due:
                self._last[version, change.table] += change.rules
        except UnfitError as error:
            log.info("written by %s: %s", Iptables(version, self.variant).program("restore"), error)
            return self._write(version, due)
        return len(due)

    def _legacy(self, version: int) -> Tables:
        if version not in self._tables:
            self._tables[version] = Tables(version)
        return self._tables[version]

    def rule_counts(self) -> Iterator[RuleCount]:
        """Of the tables that kube-proxy counts."""
        for version, family in self._families.items():
            for table in ("filter", "nat"):
                total, last = family.total(table), self._last[version, table]
                yield RuleCount(table, version, total, last)

    # -- reading ----------------------------------------------------------------------------------

    def _read(self, version: int, variant: str = "") -> Listing:
        return listing.read(Iptables(version, variant or self.variant).save())

    def _remember(self, expected: int) -> None:
        """Known to be right only if nobody else has changed anything meanwhile."""
        self._generation = expected if self._now() == expected else 0
        self._shapes = {} if self._uses_nft else self._shapes_now()

    def _shapes_now(self) -> dict[tuple[int, str], Info]:
        places = itertools.product(self._all(), LOOKED_AT)
        return {(v, table): self._legacy(v).info(table) for v, table in places}

    def _now(self) -> int:
        """The legacy variant has no number that says whether anything has changed."""
        if not self._uses_nft:
            return 0
        with Nfnetlink() as netlink:
            return netlink.generation()

    def heal(self) -> bool:
        """Compare the kernel with what is meant; write what differs."""
        closed = self._config.node_ports_on_loopback and sysctl.read(ROUTE_LOCALNET) != "1"
        if not closed and self._is_right():
            return False
        return self._repair() or closed

    def _is_right(self) -> bool:
        """Without reading and comparing all of it as text."""
        if self._uses_nft:
            return self._generation != 0 and self._now() == self._generation
        return all(self._legacy(version).are_right(LOOKED_AT) for version in self._all())

    def intact(self) -> bool:
        """Chains that a foreign flush takes away are there; legacy tables have not become smaller."""
        if not self._uses_nft:
            return self._as_large_as_before()
        generation = self._now()
        if generation in (self._generation, self._seen):
            return True
        with Nfnetlink() as netlink:
            whole = all(
                netlink.has_chain(_NFT_FAMILIES[version], table, chain)
                for version in self._all()
                for table, chain in (SERVICES, *((t, CANARY) for t in LOOKED_AT))
            )
        if whole:
            self._seen = generation
        return whole

    def forget(self) -> None:
        """No client has an endpoint of its own any more."""
        for remembered in RECENT.glob("KUBE-SEP-*"):
            remembered.write_text("/")

    def stays(self) -> Iterator[Stay]:
        """The clients in the lists of endpoints; of several lists the one with the last visit."""
        found: dict[tuple[FrontendKey, str], tuple[int, tuple[str, int]]] = {}
        for family in self._all().values():
            for name, place, frontends in family.sticky():
                for client, seen in _clients(RECENT / name):
                    for key in frontends:
                        one = max(found.get((key, client), (seen, place)), (seen, place))
                        found[key, client] = one
        for (key, client), (_, place) in found.items():
            yield Stay(key, client, place)

    def keep(self, stays: Iterable[Stay]) -> None:
        """Put them into the lists of endpoints that there are."""
        names = {
            (key, place): RECENT / name
            for family in self._all().values()
            for name, place, frontends in family.sticky()
            for key in frontends
        }
        for stay in stays:
            remembered = names.get((stay.frontend, stay.endpoint))
            if remembered and remembered.exists():
                remembered.write_text(f"+{stay.client}")

    def _as_large_as_before(self) -> bool:
        """Others' new rules are none of our business; where any have gone, ours may be among them."""
        before, self._shapes = self._shapes, self._shapes_now()
        return all(
            now.size >= before[place].size for place, now in self._shapes.items() if place in before
        )

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
        self.close()

    def _clear(self, version: int, variant: str) -> None:
        try:
            found = self._read(version, variant)
        except IptablesError as error:
            log.debug("%s: nothing to remove: %s", variant, error)
            return
        if not found.chains:
            return
        if version == 4:
            _close_loopback(found)
        programs = Iptables(version, variant)
        limit = programs.section()
        programs.restore(line for c in removal(found) for line in c.lines(limit))
        programs.drop_unused({table for table, _ in (*found.chains, *found.jumps)})


def _clients(remembered: Path) -> Iterator[tuple[str, int]]:
    """(client, when it was last seen, in the kernel's time) of a list; none if there is no list."""
    lines = remembered.read_text().splitlines() if remembered.exists() else ()
    for line in lines:
        words = line.split()
        yield str(ip_address(words[0].removeprefix("src="))), int(words[4])


def _close_loopback(found: Listing) -> None:
    """Before the guard of an earlier run goes; a kubelet's stays."""
    if ("filter", KUBELET_FIREWALL) in found.chains and not found.kubelet:
        sysctl.write(ROUTE_LOCALNET, 0)


def _liberal() -> bool:
    return sysctl.exists(LIBERAL) and sysctl.read(LIBERAL) != "0"
