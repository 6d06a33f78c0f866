"""Changes as ``iptables-restore --noflush`` reads them: chains written anew, rules put in and taken out.

With ``--noflush`` a declared chain of one's own is made, or emptied if it is there, and everything
that is not named stays. All that one section (``*table`` to ``COMMIT``) says happens at once or not at all.

A change is one section if it is short. A long one may be cut (``limit``, in characters), because
the nft variant needs it. The cuts are such that packets always find whole chains: what is new comes
before what leads to it, and what is gone goes last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kubewire.lang.iptables.model import HOOKS, Chain, Rule, Table

ENDLESS = 1 << 62
Written = tuple[str, Iterable[str]]
"""A chain and its rules as lines."""


@dataclass(slots=True)
class Change:
    """What is to be done to one table; single rules are given as ``CHAIN rule``."""

    table: str
    written: Iterable[Written] = ()
    """Chains that are made, or emptied first; callees before callers. It may be an iterator that
    fills the other fields in passing."""
    inserted: list[str] = field(default_factory=list)
    """Rules to put first; the last one comes to stand first."""
    appended: list[str] = field(default_factory=list)
    """Rules to put last."""
    removed_rules: list[str] = field(default_factory=list)
    """Rules that are there exactly so."""
    removed: list[str] = field(default_factory=list)
    """Chains that nothing else leads to any more."""

    def insert(self, chain: str, rule: Rule) -> None:
        """Put a rule first."""
        self.inserted.append(f"{chain} {rule.render()}")

    def append(self, chain: str, rule: Rule) -> None:
        """Put a rule last."""
        self.appended.append(f"{chain} {rule.render()}")

    def remove_rule(self, chain: str, rule: Rule) -> None:
        """Take out a rule that is there exactly so."""
        self.removed_rules.append(f"{chain} {rule.render()}")

    def settle(self) -> bool:
        """Take what iterators would write, so that it can be asked for again; whether there is anything."""
        self.written = [(name, list(rules)) for name, rules in self.written]
        parts = (self.inserted, self.appended, self.removed_rules, self.removed)
        return bool(self.written) or any(parts)

    @property
    def rules(self) -> int:
        """How many rules it puts in, once it is settled."""
        written = sum(len(list(rules)) for _, rules in self.written)
        return written + len(self.inserted) + len(self.appended)

    def lines(self, limit: int = ENDLESS) -> Iterator[str]:
        """What ``iptables-restore`` reads; nothing if nothing is to be done."""
        length = 0
        for piece in self._pieces(limit):
            size = sum(map(len, piece))
            if length and length + size > limit:
                yield "COMMIT"
                length = 0
            if not length:
                yield f"*{self.table}"
            yield from piece
            length += size
        if length:
            yield "COMMIT"

    def render(self) -> str:
        """`lines` as one text."""
        return "".join(f"{line}\n" for line in self.lines())

    def _pieces(self, limit: int) -> Iterator[list[str]]:
        """Lines between which there may be a cut, in the order in which they must come."""
        for name, rules in self.written:
            yield from _chain(name, list(rules), limit)
        for line in self.inserted:
            yield [_insertion(line)]
        for line in self.appended:
            yield [f"-A {line}"]
        for line in self.removed_rules:
            yield [f"-D {line}"]
        # They may lead to each other: all are emptied before the first one goes.
        for name in self.removed:
            yield [_head(name)]
        for name in self.removed:
            yield [f"-X {name}"]


def _head(chain: str) -> str:
    return f":{chain} - [0:0]"


def _insertion(line: str) -> str:
    chain, _, rule = line.partition(" ")
    return f"-I {chain} 1 {rule}"


def _chain(name: str, rules: Sequence[str], limit: int) -> Iterator[list[str]]:
    """A chain as pieces of at most ``limit`` characters; nearly always one.

    Of a longer one the end is there first, and what comes before it is put in front, rule by rule:
    the end of a chain that balances is itself a chain that balances, over fewer.
    """
    start, room = len(rules), limit
    while start and (room := room - len(rules[start - 1])) >= 0:
        start -= 1
    yield [_head(name), *rules[start:]]
    for rule in reversed(rules[:start]):
        yield [_insertion(rule.partition(" ")[2])]


def difference(old: Table | None, new: Table) -> Change:
    """What makes a table that is there into the one that is meant.

    Chains of one's own are written whole if they differ. In built-in chains only the rules that
    differ are touched: ours go in at the end, and what others put there stays.
    """
    written: list[Written] = []
    change = Change(new.name, written)
    before = old.chains if old else {}
    built_in = HOOKS[new.name]
    for name, chain in new.chains.items():
        if name in built_in:
            _hook(change, before.get(name, Chain(name)), chain)
        elif before.get(name) != chain:
            written.append((name, chain.lines()))
    for name, chain in before.items():
        if name not in new.chains and name not in built_in:
            change.removed.append(name)
        elif name not in new.chains:
            _hook(change, chain, Chain(name))
    return change


def _hook(change: Change, old: Chain, new: Chain) -> None:
    for rule in old.rules:
        if rule not in new.rules:
            change.remove_rule(new.name, rule)
    for rule in new.rules:
        if rule not in old.rules:
            change.append(new.name, rule)
