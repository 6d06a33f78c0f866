"""Changes as ``iptables-restore --noflush`` reads them: chains written anew, rules put in and taken out.

With ``--noflush`` a declared chain of one's own is made, or emptied if it is there, and everything
that is not named stays. All that one table's part says happens at once or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kubewire.lang.iptables.model import HOOKS, Chain, Rule, Table


@dataclass(slots=True)
class Change:
    """What is to be done to one table."""

    table: str
    written: dict[str, Iterable[str]] = field(default_factory=dict)
    """Chain -> its rules as lines; the chain is made or emptied first."""
    removed_rules: list[str] = field(default_factory=list)
    """``CHAIN rule`` lines that are there exactly so."""
    inserted: list[str] = field(default_factory=list)
    """``CHAIN rule`` lines to put first; the last one comes to stand first."""
    appended: list[str] = field(default_factory=list)
    """``CHAIN rule`` lines to put last."""
    removed: list[str] = field(default_factory=list)
    """Chains that nothing leads to any more."""

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
        """As ``iptables-restore --noflush`` reads it.

        Deletions come before insertions (a rule may move), chains end when nothing leads to them.
        """
        yield f"*{self.table}"
        for name in (*self.written, *self.removed):
            yield f":{name} - [0:0]"
        for line in self.removed_rules:
            yield f"-D {line}"
        for rules in self.written.values():
            yield from rules
        for line in self.inserted:
            chain, _, rule = line.partition(" ")
            yield f"-I {chain} 1 {rule}"
        for line in self.appended:
            yield f"-A {line}"
        for name in self.removed:
            yield f"-X {name}"
        yield "COMMIT"

    def render(self) -> str:
        """`lines` as one text."""
        return "\n".join(self.lines()) + "\n"


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
