"""Chains and tables as values, and what they do to a packet.

``walk`` follows a packet through one hook and returns every way that the dice may fall, each with
its chance: a statistic match splits the walk. ``evaluate`` sums the ways up as the other languages
do: all targets that the packet may be sent to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from kubewire.lang.iptables.matches import Comment, Match, World
from kubewire.lang.iptables.targets import Jump, NoTarget, Target
from kubewire.lang.packet import Outcome, Packet

HOOKS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
"""Table -> its built-in chains, in the order in which they are listed."""
ORDER = {
    "PREROUTING": ("raw", "mangle", "nat"),
    "INPUT": ("mangle", "nat", "filter", "security"),
    "FORWARD": ("mangle", "filter", "security"),
    "OUTPUT": ("raw", "mangle", "nat", "filter", "security"),
    "POSTROUTING": ("mangle", "nat"),
}
"""Built-in chain -> the tables that a packet meets there, in order."""
NOTHING = NoTarget()


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches that must all hold (in canonical order), and a target."""

    matches: tuple[Match, ...] = ()
    target: Target = NOTHING
    counters: tuple[int, int] | None = field(default=None, compare=False)
    """Packets and bytes, where they were read with ``-c``."""

    def render(self) -> str:
        """As ``iptables-save`` prints it, without the chain."""
        words = [m.render() for m in self.matches]
        if self.target is not NOTHING and (target := self.target.render()):
            words.append(target)
        return " ".join(words)

    @property
    def comment(self) -> str:
        """The text of its comment match."""
        return next((m.text for m in self.matches if isinstance(m, Comment)), "")

    def chance(self, packet: Packet, world: World) -> float:
        """The chance that all matches hold."""
        chance = 1.0
        for match in self.matches:
            chance *= match.holds(packet, world)
            if not chance:
                return 0.0
        return chance


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; a built-in one has a policy."""

    name: str
    rules: tuple[Rule, ...] = ()
    policy: str = ""
    """ACCEPT or DROP; "" for a chain of one's own."""

    def head(self) -> str:
        """The line that declares it."""
        return f":{self.name} {self.policy or '-'} [0:0]"

    def lines(self) -> Iterator[str]:
        """Its rules as lines."""
        prefix = f"-A {self.name} "
        return (prefix + rule.render() for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the names of chains are its keys."""

    name: str
    chains: Mapping[str, Chain] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The whole table as ``iptables-save`` prints it, and as ``iptables-restore`` reads it."""
        yield f"*{self.name}"
        for chain in self.chains.values():
            yield chain.head()
        for chain in self.chains.values():
            yield from chain.lines()
        yield "COMMIT"

    def render(self) -> str:
        """`lines` as one text."""
        return "\n".join(self.lines()) + "\n"


Tables = Mapping[str, Table]
"""Name -> table, of one family."""


def tables(*given: Table) -> dict[str, Table]:
    """Index tables by name."""
    return {table.name: table for table in given}


# -- evaluation -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """One way through a hook."""

    packet: Packet
    """As it goes on: mark and addresses as the rules left them."""
    verdict: str = ""
    """accept, drop or reject; "" while it is still on its way."""
    chance: float = 1.0
    target: tuple[str, int] | None = None
    masquerade: bool = False
    rules: tuple[tuple[str, Rule], ...] = ()
    """(chain, rule) of every rule that held."""


def walk(found: Tables, hook: str, packet: Packet, world: World | None = None) -> tuple[Way, ...]:
    """Send a packet through the tables of a hook (PREROUTING ...), by their order."""
    world = world or World()
    ways = [Way(packet)]
    for name in ORDER[hook]:
        table = found.get(name)
        if table is None or hook not in table.chains:
            continue
        if name == "nat" and packet.ct_state not in ("new", "related"):
            continue
        ways = [after for way in ways for after in _through(table, hook, way, world)]
    return tuple(replace(w, verdict=w.verdict or "accept") for w in ways)


def _through(table: Table, hook: str, way: Way, world: World) -> Iterator[Way]:
    """One table: an accept ends it only for this table."""
    if way.verdict:
        yield way
        return
    policy = table.chains[hook].policy.lower()
    for after in _chain(table, hook, way, world):
        verdict = after.verdict or policy
        yield replace(after, verdict="" if verdict in ("accept", "return") else verdict)


def _chain(table: Table, name: str, way: Way, world: World) -> Iterator[Way]:
    """Every way through a chain; without a verdict it goes on in the caller's chain."""
    rules = table.chains[name].rules
    pending = [(0, way)]
    while pending:
        index, now = pending.pop()
        while index < len(rules):
            rule = rules[index]
            index += 1
            chance = rule.chance(now.packet, world)
            if not chance:
                continue
            held = replace(now, chance=now.chance * chance, rules=(*now.rules, (name, rule)))
            for after in _act(table, rule, held, world):
                if after.verdict == "return":
                    yield replace(after, verdict="")
                elif after.verdict:
                    yield after
                else:
                    pending.append((index, after))
            if chance == 1.0:
                break
            now = replace(now, chance=now.chance * (1 - chance))
        else:
            yield now


def _act(table: Table, rule: Rule, way: Way, world: World) -> Iterator[Way]:
    if isinstance(rule.target, Jump):
        for after in _chain(table, rule.target.chain, way, world):
            returned = rule.target.goto and not after.verdict
            yield replace(after, verdict="return") if returned else after
        return
    effect = rule.target.apply(way.packet)
    yield replace(
        way,
        packet=effect.packet,
        verdict=effect.verdict,
        target=effect.target or way.target,
        masquerade=way.masquerade or effect.masquerade,
    )


def evaluate(found: Tables, hook: str, packet: Packet, world: World | None = None) -> Outcome:
    """All ways together: every target, and accept if any way accepts."""
    ways = walk(found, hook, packet, world)
    verdicts = [w.verdict for w in ways]
    verdict = "accept" if "accept" in verdicts else "reject" if "reject" in verdicts else "drop"
    chosen = [w for w in ways if w.verdict == verdict]
    return Outcome(
        verdict,
        tuple(dict.fromkeys(w.target for w in chosen if w.target)),
        any(w.masquerade for w in chosen),
        chosen[0].packet.mark,
        tuple(dict.fromkeys(c for w in chosen for _, r in w.rules if (c := r.comment))),
    )


def reachable(table: Table, roots: Iterable[str]) -> set[str]:
    """Chains that can be reached from some chains, these included."""
    found: set[str] = set()
    pending = [name for name in roots if name in table.chains]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        for rule in table.chains[name].rules:
            if isinstance(rule.target, Jump) and rule.target.chain in table.chains:
                pending.append(rule.target.chain)
    return found
