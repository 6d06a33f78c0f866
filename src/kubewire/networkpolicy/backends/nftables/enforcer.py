"""The nftables back end: programs in the kernel of the namespace that it was made in.

A whole program is loaded into a table of its own, which has no hook yet, in as many transactions as
the socket's buffer asks for (an ordinary user cannot enlarge it); the last one adds the hook and
deletes the table of before, so packets meet the old rules or the new ones. Changes are one
transaction.
"""

import asyncio
import contextlib
import itertools
import logging
import operator
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec

from kubewire.kernel.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NetlinkError,
    attributes,
)
from kubewire.kernel.netns import Netns
from kubewire.kernel.nfnetlink import Nfnetlink, NftablesError
from kubewire.lang.nftables import wire
from kubewire.lang.nftables.model import (
    COMMENT_BYTES,
    NEWRULE,
    Chain,
    Data,
    Rule,
    Set,
    Table,
    Transaction,
    difference,
)
from kubewire.networkpolicy.backends.kernel import KernelEnforcer
from kubewire.networkpolicy.backends.nftables.compile import BASE, Compiler
from kubewire.networkpolicy.backends.nftables.expressions import Queue
from kubewire.networkpolicy.labels import QUEUE
from kubewire.networkpolicy.program import Program

PREFIX = "kubewire-policy"
log = logging.getLogger(__name__)


class Netfilter(KernelEnforcer):
    """An enforcer that speaks nf_tables."""

    def __init__(self, netns: Netns | None = None) -> None:
        super().__init__(netns)
        self._kernel = Nfnetlink(netns)
        self._compiler: Compiler | None = None
        self._table: Table | None = None
        self._queues: bool | None = None
        """Whether this kernel can hand packets to programs."""

    def close(self) -> None:
        """Close the socket; the rules stay."""
        self._kernel.close()

    async def apply(self, old: Program | None, new: Program) -> None:
        """One transaction from ``old`` to ``new``; None: whatever there is, is replaced."""
        if old is None:
            await asyncio.to_thread(self.replace, new)
        else:
            self.change(new)

    async def clear(self) -> None:
        """Remove every table of ours."""
        try:
            tables = self.tables()
        except NetlinkError:
            # A kernel without nf_tables holds none, and none is needed before the first policy.
            tables = []
        self._kernel.commit(_deletions(tables))
        self._table = self._compiler = None

    def change(self, program: Program) -> None:
        """Send the difference to what was loaded; too much for one transaction is a whole load."""
        if self._compiler is None or self._table is None:
            self.replace(program)
            return
        table = self._compiler.table(self._possible(program))
        change = difference(*_apart(self._table, table))
        if not self._kernel.fits(change):
            self.replace(program)
        else:
            self._kernel.commit(change)
            self._table = table

    def replace(self, program: Program) -> None:
        """Load a program beside what there is, then switch."""
        before = self.tables()
        names = (f"{PREFIX}-{n}" for n in range(len(before) + 1))
        compiler = Compiler(next(n for n in names if n not in before))
        table = compiler.table(self._possible(program))
        load = _load(table)
        try:
            if self._kernel.fits(load):
                self._kernel.commit(load)
            else:
                self._kernel.commit_in_parts(load)
            switch = _hook(table)
            switch.messages += _deletions(before).messages
            self._kernel.commit(switch)
        except NftablesError:
            with contextlib.suppress(NftablesError):
                self._kernel.commit(_deletions([table.name]))
            raise
        self._compiler, self._table = compiler, table

    def _possible(self, program: Program) -> Program:
        """The program, without what this kernel has not: peers by name then match nothing."""
        if not program.asking:
            return program
        if self._queues is None:
            self._queues = self._try_queue()
        return program if self._queues else msgspec.structs.replace(program, asking=frozenset())

    def _try_queue(self) -> bool:
        trial = Table(
            f"{PREFIX}-trial", "inet", {}, {"try": Chain("try", (Rule((Queue(QUEUE),)),))}
        )
        change = _load(trial)
        change.messages += _deletions([trial.name]).messages
        try:
            self._kernel.commit(change)
        except NftablesError as error:
            log.warning("peers by name match nothing: this kernel lacks NFQUEUE (%s)", error)
            return False
        return True

    def tables(self) -> list[str]:
        """Names of our tables."""
        return sorted(t for t in self._kernel.tables() if t.startswith(PREFIX))

    def members(self, names: Iterable[str]) -> dict[str, frozenset[bytes]]:
        """Addresses in sets of the table that is in force."""
        wanted = set(names)
        return {
            name: frozenset(elements)
            for table in self.tables()
            for name, elements in self._kernel.elements(table, wanted).items()
        }

    def counters(self) -> Counter[str]:
        """Packets that the rules decided, by the text of their label."""
        found: Counter[str] = Counter()
        for table in self.tables():
            for rule in itertools.chain.from_iterable(self._kernel.rules(table).values()):
                packets = _packets(rule.expressions)
                if packets is not None and rule.comment:
                    found[rule.comment] += packets
        return found


def _apart(old: Table, new: Table) -> tuple[Table, Table]:
    """Both tables without what is the same in both: nearly everything."""
    before, after = dict(old.sets), dict(new.sets)
    for name, found in new.sets.items():
        known = old.sets.get(name)
        if known is found:
            del before[name], after[name]
        elif known is not None:
            before[name], after[name] = _elements_apart(known, found)
    chains = ({}, {}) if old.chains is new.chains else (old.chains, new.chains)
    return Table(old.name, "inet", before, chains[0]), Table(new.name, "inet", after, chains[1])


def _elements_apart(old: Set, new: Set) -> tuple[Set, Set]:
    """Both sets without the elements that both have; what maps give is the same if identical."""
    gone: dict[bytes, Data] = dict(_missing(old, new))
    come: dict[bytes, Data] = dict(_missing(new, old))
    return replace(old, elements=gone), replace(new, elements=come)


def _missing(here: Set, there: Set) -> Iterator[tuple[bytes, Data]]:
    other = there.elements
    if here.verdicts or here.data:
        # What maps give is shared: equal values are the same.
        found = map(operator.is_not, map(other.get, here.elements), here.elements.values())
        return itertools.compress(here.elements.items(), found)
    return ((k, here.elements[k]) for k in here.elements.keys() - other.keys())


def _load(table: Table) -> Transaction:
    """Everything but the hook: nothing of it acts yet."""
    change = Transaction("inet")
    change.add_table(table.name)
    chains = [c for c in table.chains.values() if not c.hook]
    for each in chains:
        change.add_chain(table.name, each)
    for one in table.sets.values():
        change.add_set(table.name, one)
        change.add_elements(table.name, one, one.elements)
    for each in chains:
        _add_rules(change, table.name, each)
    return change


def _add_rules(change: Transaction, table: str, chain: Chain) -> None:
    """What ``Transaction.add_rules`` does, with each distinct expression encoded once."""
    head = wire.string(1, table) + wire.string(2, chain.name)
    for rule in chain.rules:
        expressions = b"".join(map(_encoded, rule.expressions))
        comment = rule.reason.encode()[:COMMENT_BYTES] + b"\0"
        body = head + wire.nest(4, expressions) + wire.attr(7, bytes((0, len(comment))) + comment)
        change.add(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body, f"rule of chain {chain.name}")


@lru_cache(maxsize=65536)
def _encoded(expression: Any) -> bytes:
    encoded: bytes = expression.encode()
    return encoded


def _hook(table: Table) -> Transaction:
    """The base chains: from here on the program decides."""
    return difference(_without_hook(table), table)


def _without_hook(table: Table) -> Table:
    chains = {n: c for n, c in table.chains.items() if n not in BASE}
    return Table(table.name, table.family, table.sets, chains)


def _deletions(names: list[str]) -> Transaction:
    change = Transaction("inet")
    for name in names:
        change.delete_table(name)
    return change


def _packets(expressions: bytes) -> int | None:
    for _, expression in attributes(expressions):
        fields = dict(attributes(expression))
        if fields.get(1, b"").rstrip(b"\0") == b"counter":
            values = dict(attributes(fields.get(2, b"")))
            return int(struct.unpack(">Q", values[2])[0])
    return None
