"""Keeps the node's nftables table equal to the Services: whole at first, then change by change.

It remembers what it committed: the frontends (to compile again what should be there), how many need
each shared thing, and the rules as the kernel shows them. ``heal`` reads the kernel back only if
its generation says that somebody has changed something since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any

from kubewire.api.meta import Key
from kubewire.kernel import sysctl
from kubewire.kernel.netlink import NetlinkError
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kubeproxy.backends.nftables import compile as nftables
from kubewire.kubeproxy.backends.nftables.compile import Compiled, Elements
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import Frontend, FrontendKey
from kubewire.kubeproxy.proxier import Dump, Stay
from kubewire.kubeproxy.table import Change
from kubewire.lang.nftables import readback
from kubewire.lang.nftables.model import Chain, Set, Table, Transaction, replace
from kubewire.lang.nftables.readback import Actual, KernelRule
from kubewire.lang.nftables.types import ip_bytes

Shared = tuple[str, bytes]
"""An element that several frontends may need: (set, key)."""
SHARED = ("hairpin4", "hairpin6")


def table_names(name: str) -> tuple[str, str]:
    """A table that is too large for one batch is loaded under the other name."""
    return name, f"{name}-b"


NAMES = table_names(nftables.NAME)
ROUTE_LOCALNET = "net.ipv4.conf.all.route_localnet"


@dataclass(slots=True)
class Users:
    """How many frontends need each thing that frontends share; or by how many that changes."""

    elements: Counter[Shared] = field(default_factory=Counter)
    chains: Counter[str] = field(default_factory=Counter)
    sets: Counter[str] = field(default_factory=Counter)

    def count(self, compiled: Compiled, by: int) -> None:
        """Add (1) or take away (-1) one frontend."""
        for name in SHARED:
            for key in compiled.elements.get(name, ()):
                self.elements[name, key] += by
        for name in compiled.chains:
            self.chains[name] += by
        for name in compiled.sets:
            self.sets[name] += by

    def apply(self, delta: Users) -> None:
        """Count a change in."""
        pairs: tuple[tuple[Counter[Any], Counter[Any]], ...] = (
            (self.elements, delta.elements),
            (self.chains, delta.chains),
            (self.sets, delta.sets),
        )
        for mine, theirs in pairs:
            for key, by in theirs.items():
                mine[key] += by
                if not mine[key]:
                    del mine[key]


class NftablesProxier:
    """Remembers what it committed; after a failure ``sync`` starts from nothing."""

    def __init__(
        self, config: Config, service_cidrs: Iterable[str] = (), name: str = nftables.NAME
    ) -> None:
        self._names = table_names(name)
        self._check = f"{name}-check"
        """A table without hooks, for the blink of an eye."""
        self._config = config
        self._base = nftables.base_table(config, service_cidrs)
        self._netlink = Nfnetlink()
        self._chains: dict[str, Chain] = {}
        self._sets: dict[str, Set] = {}
        self._users = Users()
        self._frontends: dict[FrontendKey, Frontend] = {}
        self._cluster_ips: dict[Key, tuple[str, ...]] = {}
        self._holders: Counter[str] = Counter()
        """ClusterIPs, and how many Services say that they have each."""
        self._rules: dict[str, list[KernelRule]] = {}
        self._generation = 0
        """Of the kernel's rules when they were last known to be as they should; 0: unknown."""
        self._seen = 0
        """The generation at which a quick look found nothing wrong."""
        self._counts: dict[str, int] = {}
        """Elements of the sets that nobody but us fills."""
        self._name = self._names[0]
        """Table that is in force."""

    def close(self) -> None:
        """Close the socket; the rules stay."""
        self._netlink.close()

    def clear(self) -> None:
        """Remove our tables, and what they guarded."""
        present = self._netlink.tables() & {*self._names, self._check}
        if any(nftables.GUARD in self._netlink.read(name).chains for name in present):
            sysctl.write(ROUTE_LOCALNET, 0)
        change = Transaction("inet")
        _drop_tables(change, present)
        self._netlink.commit(change)

    def sync(self, changes: Iterable[Change], cluster_ips: dict[Key, tuple[str, ...]]) -> None:
        """Put everything in place: what an earlier run left is mended, not made anew.

        A table that is replaced while packets flow loses a few (one that is between two look-ups
        finds the old maps empty), and clients would lose their affinity.
        """
        self._frontends = {c.key: c.new for c in changes if c.new}
        self._cluster_ips = dict(cluster_ips)
        self._holders = Counter(ip for ips in cluster_ips.values() for ip in ips)
        users = Users()
        table = self._wanted(users)
        live = self._netlink.hooked() & set(self._names)
        if len(live) == 1:
            (self._name,) = live
            self._rules = self._as_kept(table)
            if self._mend(table) is not None:
                self._settle(table, users)
                return
        self._load(table)
        self._settle(table, users)

    def _as_kept(self, table: Table) -> dict[str, list[KernelRule]]:
        """The rules as the kernel would keep them: it is asked, by a table that no packet meets."""
        plain = {n: Chain(n, c.rules) for n, c in table.chains.items()}
        bare = {
            n: one if one.interval else changed(one, elements={}) for n, one in table.sets.items()
        }
        check = changed(table, name=self._check, chains=plain, sets=bare)
        self._netlink.commit(replace(check))
        try:
            return self._netlink.rules(self._check)
        finally:
            change = Transaction("inet")
            change.delete_table(self._check)
            self._netlink.commit(change)

    def _mend(self, table: Table) -> bool | None:
        """Change what differs in the kernel; None if it must be made anew, else whether any did."""
        wanted = readback.meant(table, self._rules)
        try:
            actual = self._netlink.read(self._name)
        except NetlinkError:  # It went away in the middle.
            return None
        if not wanted.extends(actual):
            return None
        repair = self._repair(table, actual)
        if not self._netlink.fits(repair):
            return None
        self._netlink.commit(repair)
        return bool(repair)

    def _reload(self) -> None:
        users = Users()
        table = self._wanted(users)
        self._load(table)
        self._settle(table, users)

    def _settle(self, table: Table, users: Users) -> None:
        """Remember what is in force now."""
        if nftables.GUARD in table.chains:
            # The guard is in: only now may packets from outside be routed to 127.0.0.0/8 at all.
            sysctl.write(ROUTE_LOCALNET, 1)
        self._chains, self._sets = dict(table.chains), dict(table.sets)
        self._users = users
        plain = (one for one in table.sets.values() if not one.interval and not one.dynamic)
        self._counts = {one.name: len(one.elements) for one in plain}
        self._rules = self._netlink.rules(self._name)
        self._generation = self._netlink.generation()

    def _wanted(self, users: Users | None = None) -> Table:
        """The whole table; ``users`` counts what it holds."""

        def compiled() -> Iterator[Compiled]:
            for frontend in self._frontends.values():
                found = nftables.compile_frontend(frontend, self._config)
                if users is not None:
                    users.count(found, 1)
                yield found

        return nftables.assembled(self._base, compiled(), self._holders)

    def _load(self, table: Table) -> None:
        """Whole in one transaction; too large for that, beside the old one, then switch at once."""
        live = self._netlink.hooked() & set(self._names)
        # An agent that was killed in the middle may have left a table that no packet meets.
        self._name = min(live, default=self._names[0])
        change = replace(changed(table, name=self._name))
        if self._netlink.fits(change):
            _drop_tables(change, set(self._names) - {self._name})
            self._netlink.commit(change)
            return
        self._name = next((n for n in self._names if n not in live), self._names[0])
        hooks = [c for c in table.chains.values() if c.hook]
        rest = {n: c for n, c in table.chains.items() if not c.hook}
        self._netlink.commit_in_parts(replace(changed(table, name=self._name, chains=rest)))
        switch = Transaction("inet")
        for chain in hooks:
            switch.add_chain(self._name, chain)
            switch.add_rules(self._name, chain)
        _drop_tables(switch, set(self._names) - {self._name})
        self._netlink.commit(switch)

    def apply(self, changes: Iterable[Change], cluster_ips: dict[Key, tuple[str, ...]]) -> None:
        """Commit what changed; ``cluster_ips`` holds the changed Services (empty: gone)."""
        changes = list(changes)
        added: Elements = {}
        dropped: Elements = {}
        chains: dict[str, Chain] = {}
        sets: dict[str, Set] = {}
        delta = Users()
        for change in changes:
            old, new = self._compiled(change.old), self._compiled(change.new)
            _difference(old.elements, new.elements, added, dropped)
            delta.count(old, -1)
            delta.count(new, 1)
            chains |= {n: c for n, c in new.chains.items() if n not in self._chains}
            sets |= {n: s for n, s in new.sets.items() if n not in self._sets}
        self._share(delta, added, dropped)
        self._addresses(cluster_ips, added, dropped)
        gone = self._unused(delta)
        transaction = self._transaction(chains, sets, added, dropped, gone)
        for change in changes:
            _put(self._frontends, change.key, change.new)
        for service, ips in cluster_ips.items():
            _put(self._cluster_ips, service, ips or None)
        if not transaction:
            return
        if not self._netlink.fits(transaction):
            self._reload()
            return
        self._netlink.commit(transaction)
        for name in {**added, **dropped}:
            self._counts[name] += len(added.get(name, ())) - len(dropped.get(name, ()))
        self._remember(chains, sets, delta, gone)

    def _compiled(self, frontend: Frontend | None) -> Compiled:
        return nftables.compile_frontend(frontend, self._config) if frontend else Compiled()

    def _share(self, delta: Users, added: Elements, dropped: Elements) -> None:
        """An element is there while anybody needs it."""
        for (name, key), by in delta.elements.items():
            before = self._users.elements.get((name, key), 0)
            if by and not before:
                added.setdefault(name, {})[key] = None
            elif by and not before + by:
                dropped.setdefault(name, {})[key] = None

    def _unused(self, delta: Users) -> tuple[list[str], list[str]]:
        """Chains and sets that nothing needs any more."""
        users = self._users
        return (
            [n for n, by in delta.chains.items() if by < 0 and not users.chains[n] + by],
            [n for n, by in delta.sets.items() if by < 0 and not users.sets[n] + by],
        )

    def _transaction(
        self,
        chains: dict[str, Chain],
        sets: dict[str, Set],
        added: Elements,
        dropped: Elements,
        gone: tuple[list[str], list[str]],
    ) -> Transaction:
        transaction = Transaction("inet")
        every = {**self._sets, **sets}
        for one in sets.values():
            transaction.add_set(self._name, one)
            transaction.add_elements(self._name, one, one.elements)
        for chain in chains.values():
            transaction.add_chain(self._name, chain)
            transaction.add_rules(self._name, chain)
        for name, elements in dropped.items():
            transaction.delete_elements(self._name, every[name], elements)
        for name, elements in added.items():
            transaction.add_elements(self._name, every[name], elements)
        for name in gone[0]:
            transaction.flush_chain(self._name, name)
        for name in gone[0]:
            transaction.delete_chain(self._name, name)
        for name in gone[1]:
            transaction.delete_set(self._name, name)
        return transaction

    def _remember(
        self,
        chains: dict[str, Chain],
        sets: dict[str, Set],
        delta: Users,
        gone: tuple[list[str], list[str]],
    ) -> None:
        self._chains |= chains
        self._sets |= sets
        self._users.apply(delta)
        for name in chains:
            self._rules |= self._netlink.rules(self._name, name)
        for name in gone[0]:
            self._chains.pop(name)
            self._rules.pop(name, None)
        for name in gone[1]:
            self._sets.pop(name)
        generation = self._netlink.generation()
        self._generation = generation if generation == self._generation + 1 else 0

    def _addresses(
        self, cluster_ips: dict[Key, tuple[str, ...]], added: Elements, dropped: Elements
    ) -> None:
        told: Counter[str] = Counter()
        for service, ips in cluster_ips.items():
            told.subtract(self._cluster_ips.get(service, ()))
            told.update(ips)
        for ip, by in told.items():
            before, after = self._holders[ip], self._holders[ip] + by
            _put(self._holders, ip, after or None)
            if before and not after:
                dropped.setdefault(_cluster_ip_set(ip), {})[ip_bytes(ip)] = None
            elif after and not before:
                added.setdefault(_cluster_ip_set(ip), {})[ip_bytes(ip)] = None

    def forget(self) -> None:
        """No client has an endpoint of its own any more."""
        change = Transaction("inet")
        for version in nftables.VERSIONS:
            change.flush_set(self._name, f"affinity{version}")
        self._netlink.commit(change)

    def stays(self) -> Iterator[Stay]:
        """The clients in the maps."""
        names = {f"affinity{version}": version for version in nftables.VERSIONS}
        for name, elements in self._netlink.elements(self._name, names).items():
            for key, data in elements.items():
                if isinstance(data, bytes):
                    yield nftables.remembered(names[name], key, data)

    def keep(self, stays: Iterable[Stay]) -> None:
        """Put them into the maps; who is no endpoint any more is not led to, as always."""
        there = {(s.frontend, s.client) for s in self.stays()}
        entries: dict[str, list[tuple[bytes, bytes, int]]] = {}
        for stay in stays:
            frontend = self._frontends.get(stay.frontend)
            if frontend and frontend.affinity and (stay.frontend, stay.client) not in there:
                name = f"affinity{6 if ':' in stay.client else 4}"
                entries.setdefault(name, []).append((*nftables.memory(stay), frontend.affinity))
        change = Transaction("inet")
        for name, listed in entries.items():
            change.remember(self._name, self._base.sets[name], listed)
        self._netlink.commit(change)

    def heal(self) -> bool:
        """Compare the kernel with what was committed; mend this table, touch no other."""
        if self._netlink.generation() == self._generation:
            return False
        generation = self._netlink.generation()
        table = self._wanted()
        mended = self._mend(table) if self._guarded(table) else None
        if mended is None:
            self._reload()
            return True
        self._generation = generation + mended
        return mended

    def intact(self) -> bool:
        """Rules as they were committed, and as many elements; asked only if anything changed."""
        generation = self._netlink.generation()
        if generation in (self._generation, self._seen):
            return True
        whole = self._netlink.rules(self._name) == self._rules and self._counted()
        if whole:
            self._seen = generation
        return whole

    def _counted(self) -> bool:
        counts = self._netlink.counts(self._name)
        return all(self._counts.get(name, found) == found for name, found in counts.items())

    def _guarded(self, table: Table) -> bool:
        return nftables.GUARD not in table.chains or sysctl.read(ROUTE_LOCALNET) == "1"

    def _repair(self, table: Table, actual: Actual) -> Transaction:
        """Chains, sets and elements that are missing, wrong or too many."""
        repair, name = Transaction("inet"), self._name
        fresh = [c for n, c in table.chains.items() if n not in actual.chains]
        for key, one in table.sets.items():
            if key not in actual.sets:
                repair.add_set(name, one)
                repair.add_elements(name, one, one.elements)
        for chain in fresh:
            repair.add_chain(name, chain)
        for chain in fresh:
            repair.add_rules(name, chain)
        for key, one in table.sets.items():
            found = actual.elements.get(key)
            if found is None or one.interval or found == one.elements:
                continue
            wrong = {
                k: v for k, v in found.items() if k not in one.elements or one.elements[k] != v
            }
            missing = {k: v for k, v in one.elements.items() if k not in found or found[k] != v}
            repair.delete_elements(name, one, wrong)
            repair.add_elements(name, one, missing)
        gone = [n for n in actual.chains if n not in table.chains]
        for key in gone:
            repair.flush_chain(name, key)
        for key in gone:
            repair.delete_chain(name, key)
        for key in actual.sets.keys() - table.sets.keys():
            repair.delete_set(name, key)
        return repair

    def dump(self) -> Dump:
        """The table that was committed and the one that is there, line by line."""
        desired = readback.meant(self._wanted(), self._rules).lines() if self._chains else []
        live = min(self._netlink.hooked() & set(self._names), default=self._name)
        return Dump(desired, self._netlink.read(live).lines())


def _put(where: dict[Any, Any], key: object, value: object) -> None:
    if value is None:
        where.pop(key, None)
    else:
        where[key] = value


def _drop_tables(change: Transaction, names: Iterable[str]) -> None:
    for name in names:
        # Added first, so that the deletion never misses it.
        change.add_table(name)
        change.delete_table(name)


def _cluster_ip_set(ip: str) -> str:
    return f"cluster-ips{6 if ':' in ip else 4}"


def _difference(old: Elements, new: Elements, added: Elements, dropped: Elements) -> None:
    """Elements that one frontend has for itself."""
    for name in {**old, **new}:
        if name in SHARED:
            continue
        before, after = old.get(name, {}), new.get(name, {})
        for key, data in before.items():
            if key not in after or after[key] != data:
                dropped.setdefault(name, {})[key] = data
        for key, data in after.items():
            if key not in before or before[key] != data:
                added.setdefault(name, {})[key] = data
