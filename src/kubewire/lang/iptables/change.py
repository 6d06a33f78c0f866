"""Changes as ``iptables-restore --noflush`` reads them: chains written anew, rules put in and taken out.

With ``--noflush`` a declared chain of one's own is made, or emptied if it is there, and everything
that is not named stays. All that one section (``*table`` to ``COMMIT``) says happens at once or not
at all.

``lines`` is a whole change as one section. ``sections`` cuts it, because the nft variant needs it: an
ordinary user's netlink message ends at some 200 KB, and ``iptables-nft-restore`` takes time by the
square of what one section holds. The cuts are such that packets always find whole chains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kubewire.lang.iptables.model import HOOKS, Chain, Rule, Table


@dataclass(slots=True)
class Change:
    """What is to be done to one table; rules are given as ``CHAIN rule`` lines."""

    table: str
    written: dict[str, Iterable[str]] = field(default_factory=dict)
    """Chain -> its rules as lines; the chain is made or emptied first. Callees before callers."""
    removed_rules: list[str] = field(default_factory=list)
    """What is there exactly so."""
    inserted: list[str] = field(default_factory=list)
    """To put first; the last one comes to stand first."""
    appended: list[str] = field(default_factory=list)
    """To put last."""
    removed: list[str] = field(default_factory=list)
    """Chains that nothing leads to any more. Callers before callees."""

    def __bool__(self) -> bool:
        return bool(
            self.written or self.removed_rules or self.inserted or self.appended or self.removed
        )

    def write(self, chain: Chain) -> None:
        """Make a chain as it is meant."""
        self.written[chain.name] = chain.lines()

    def insert(self, chain: str, rule: Rule) -> None:
        """Put a rule first."""
        self.inserted.append(f"{chain} {rule.render()}")

    def append(self, chain: str, rule: Rule) -> None:
        """Put a rule last."""
        self.appended.append(f"{chain} {rule.render()}")

    def remove_rule(self, chain: str, rule: Rule) -> None:
        """Take out a rule that is there exactly so."""
        self.removed_rules.append(f"{chain} {rule.render()}")

    def lines(self) -> Iterator[str]:
        """The whole change as one section.

        Deletions come before insertions (a rule may move), chains end when nothing leads to them.
        """
        yield f"*{self.table}"
        for name in (*self.written, *self.removed):
            yield _head(name)
        for line in self.removed_rules:
            yield f"-D {line}"
        for rules in self.written.values():
            yield from rules
        yield from map(_insertion, self.inserted)
        for line in self.appended:
            yield f"-A {line}"
        for name in self.removed:
            yield f"-X {name}"
        yield "COMMIT"

    def render(self) -> str:
        """`lines` as one text."""
        return "\n".join(self.lines()) + "\n"

    def sections(self, limit: int) -> Iterator[list[str]]:
        """The change in one section of at most ``limit`` lines if it fits, else in several."""
        if not self:
            return
        self.written = {name: list(rules) for name, rules in self.written.items()}
        whole = list(self.lines())
        if len(whole) <= limit:
            yield whole
            return
        steps = (
            self._written(limit),
            # What is new comes before what it replaces goes.
            ([_insertion(line)] for line in self.inserted),
            ([f"-A {line}"] for line in self.appended),
            ([f"-D {line}"] for line in self.removed_rules),
            ([_head(name), f"-X {name}"] for name in self.removed),
        )
        for step in steps:
            yield from packed(self.table, step, limit)

    def _written(self, limit: int) -> Iterator[list[str]]:
        for name, rules in self.written.items():
            yield from chain_pieces(name, list(rules), limit)


def _head(chain: str) -> str:
    return f":{chain} - [0:0]"


def _insertion(line: str) -> str:
    chain, _, rule = line.partition(" ")
    return f"-I {chain} 1 {rule}"


def chain_pieces(name: str, rules: Sequence[str], limit: int) -> Iterator[list[str]]:
    """A chain as pieces of at most ``limit`` lines; nearly always one.

    Of a longer one the end is there first, and what comes before it is put in front, rule by rule:
    the end of a chain that balances is itself a chain that balances, over fewer.
    """
    start = max(0, len(rules) - limit + 1)
    yield [_head(name), *rules[start:]]
    for rule in reversed(rules[:start]):
        yield [_insertion(rule.partition(" ")[2])]


def packed(table: str, pieces: Iterable[list[str]], limit: int) -> Iterator[list[str]]:
    """Pieces as sections of about ``limit`` lines; heads come first in each."""
    found: list[str] = []
    for piece in pieces:
        if found and len(found) + len(piece) > limit:
            yield section(table, found)
            found = []
        found += piece
    if found:
        yield section(table, found)


def section(table: str, lines: Iterable[str]) -> list[str]:
    """Lines between ``*table`` and ``COMMIT``."""
    kept = list(lines)
    heads = [line for line in kept if line[0] == ":"]
    return [f"*{table}", *heads, *(line for line in kept if line[0] != ":"), "COMMIT"]


def difference(old: Table | None, new: Table) -> Change:
    """What makes a table that is there into the one that is meant.

    Chains of one's own are written whole if they differ. In built-in chains only the rules that
    differ are touched: ours go in at the end, and what others put there stays.
    """
    change = Change(new.name)
    before = old.chains if old else {}
    built_in = HOOKS[new.name]
    for name, chain in new.chains.items():
        if name in built_in:
            _hook(change, before.get(name, Chain(name)), chain)
        elif before.get(name) != chain:
            change.write(chain)
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
