"""Keeps the node's nftables table equal to the Services: whole at first, then change by change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace as changed

from kubewire.api.meta import Key
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kubeproxy.backends.nftables import compile as nftables
from kubewire.kubeproxy.backends.nftables.compile import Elements
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.table import Change
from kubewire.lang.nftables.model import Chain, Data, Set, Table, Transaction, replace
from kubewire.lang.nftables.types import ip_bytes

Shared = tuple[str, bytes]
"""An element that several frontends may need: (set, key)."""
SHARED = ("hairpin4", "hairpin6")


def table_names(name: str) -> tuple[str, str]:
    """A table that is too large for one batch is loaded under the other name."""
    return name, f"{name}-b"


NAMES = table_names(nftables.NAME)


class NftablesProxier:
    """Remembers what it committed; after a failure ``sync`` starts from nothing."""

    def __init__(
        self, config: Config, service_cidrs: Iterable[str] = (), name: str = nftables.NAME
    ) -> None:
        self._names = table_names(name)
        self._config = config
        self._base = nftables.base_table(config, service_cidrs)
        self._netlink = Nfnetlink()
        self._chains: dict[str, Chain] = {}
        self._sets: dict[str, Set] = {}
        self._shared: Counter[Shared] = Counter()
        self._cluster_ips: dict[Key, tuple[str, ...]] = {}
        self._name = self._names[0]
        """Table that is in force."""

    def close(self) -> None:
        """Close the socket; the rules stay."""
        self._netlink.close()

    def heal(self) -> bool:
        """Whether the table had to be put back; what is in it is not looked at."""
        return False

    def clear(self) -> None:
        """Remove both tables."""
        change = Transaction("inet")
        _drop_tables(change, self._netlink.tables() & set(self._names))
        self._netlink.commit(change)

    def sync(self, changes: Iterable[Change], cluster_ips: dict[Key, tuple[str, ...]]) -> None:
        """Put the whole table in place, in one transaction: packets see the old or the new one."""
        frontends = [c.new for c in changes if c.new]
        addresses = [ip for ips in cluster_ips.values() for ip in ips]
        table = nftables.with_frontends(self._base, frontends, addresses, self._config)
        self._load(table)
        self._remember(table, frontends, cluster_ips)

    def _load(self, table: Table) -> None:
        """Whole in one transaction; too large for that, beside the old one, then switch at once."""
        present = self._netlink.tables() & set(self._names)
        self._name = next(iter(present)) if len(present) == 1 else self._names[0]
        change = replace(changed(table, name=self._name))
        if self._netlink.fits(change):
            _drop_tables(change, present - {self._name})
            self._netlink.commit(change)
            return
        self._name = next(
            n for n in self._names if n not in present or len(present) == len(self._names)
        )
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
        transaction = Transaction("inet")
        added: Elements = {}
        dropped: Elements = {}
        shared = Counter(self._shared)
        chains, sets = dict(self._chains), dict(self._sets)
        for change in changes:
            old, new = self._elements(change, transaction, chains, sets)
            _difference(old, new, added, dropped, shared)
        self._addresses(cluster_ips, added, dropped)
        for name, elements in dropped.items():
            transaction.delete_elements(self._name, sets[name], elements)
        for name, elements in added.items():
            transaction.add_elements(self._name, sets[name], elements)
        self._netlink.commit(transaction)
        self._chains, self._sets, self._shared = chains, sets, shared
        for service, ips in cluster_ips.items():
            self._cluster_ips[service] = ips

    def _elements(
        self,
        change: Change,
        transaction: Transaction,
        chains: dict[str, Chain],
        sets: dict[str, Set],
    ) -> tuple[Elements, Elements]:
        """Elements before and after; chains and sets that are new are created on the way."""
        old = nftables.compile_frontend(change.old, self._config).elements if change.old else {}
        if change.new is None:
            return old, {}
        compiled = nftables.compile_frontend(change.new, self._config)
        for name, one in compiled.sets.items():
            if name not in sets:
                sets[name] = one
                transaction.add_set(self._name, one)
                transaction.add_elements(self._name, one, one.elements)
        for name, chain in compiled.chains.items():
            if name not in chains:
                chains[name] = chain
                transaction.add_chain(self._name, chain)
                transaction.add_rules(self._name, chain)
        return old, compiled.elements

    def _addresses(
        self, cluster_ips: dict[Key, tuple[str, ...]], added: Elements, dropped: Elements
    ) -> None:
        for service, ips in cluster_ips.items():
            before = set(self._cluster_ips.get(service, ()))
            for ip in before - set(ips):
                dropped.setdefault(_cluster_ip_set(ip), {})[ip_bytes(ip)] = None
            for ip in set(ips) - before:
                added.setdefault(_cluster_ip_set(ip), {})[ip_bytes(ip)] = None

    def _remember(
        self, table: Table, frontends: Iterable[object], cluster_ips: dict[Key, tuple[str, ...]]
    ) -> None:
        self._chains = dict(table.chains)
        self._sets = dict(table.sets)
        self._cluster_ips = dict(cluster_ips)
        self._shared = Counter()
        for frontend in frontends:
            elements = nftables.compile_frontend(frontend, self._config).elements  # type: ignore[arg-type]
            self._shared.update((name, key) for name in SHARED for key in elements.get(name, ()))


def _drop_tables(change: Transaction, names: Iterable[str]) -> None:
    for name in names:
        # Added first, so that the deletion never misses it.
        change.add_table(name)
        change.delete_table(name)


def _cluster_ip_set(ip: str) -> str:
    return f"cluster-ips{6 if ':' in ip else 4}"


def _difference(
    old: Elements, new: Elements, added: Elements, dropped: Elements, shared: Counter[Shared]
) -> None:
    for name in {**old, **new}:
        before, after = old.get(name, {}), new.get(name, {})
        if name in SHARED:
            _count(name, before, after, added, dropped, shared)
            continue
        for key, data in before.items():
            if key not in after or after[key] != data:
                dropped.setdefault(name, {})[key] = data
        for key, data in after.items():
            if key not in before or before[key] != data:
                added.setdefault(name, {})[key] = data


def _count(
    name: str,
    before: dict[bytes, Data],
    after: dict[bytes, Data],
    added: Elements,
    dropped: Elements,
    shared: Counter[Shared],
) -> None:
    """An element is there while anybody needs it."""
    for key in after.keys() - before.keys():
        shared[name, key] += 1
        if shared[name, key] == 1 and dropped.get(name, {}).pop(key, key) is key:
            added.setdefault(name, {})[key] = None
    for key in before.keys() - after.keys():
        shared[name, key] -= 1
        if not shared[name, key]:
            del shared[name, key]
            if added.get(name, {}).pop(key, key) is key:
                dropped.setdefault(name, {})[key] = None
