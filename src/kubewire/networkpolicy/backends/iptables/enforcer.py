"""The iptables back end: sets by ``ipset restore``, rules by ``iptables-restore``.

Three steps, each at once for what it touches: what sets gain, the rules, what sets lose. A pod
becomes known last and unknown first.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address

from kubewire.kernel import ipset
from kubewire.kernel.iptables import Iptables, IptablesError, detect
from kubewire.kernel.netns import Netns, entered
from kubewire.lang.iptables import ipset as sets_of
from kubewire.lang.iptables import parse as tables_of
from kubewire.lang.iptables.change import Change, difference
from kubewire.lang.iptables.ipset import IpSet, replacement
from kubewire.lang.iptables.model import Chain, Table
from kubewire.networkpolicy.backends.iptables.compile import (
    FAMILIES,
    Compiler,
    Rules,
    known_set,
)
from kubewire.networkpolicy.backends.iptables.names import EGRESS, PREFIX, SET_PREFIX, set_name
from kubewire.networkpolicy.backends.kernel import KernelEnforcer
from kubewire.networkpolicy.labels import ANSWERS
from kubewire.networkpolicy.program import Program

NOTHING = Rules({}, {})
HOOKS = {"POSTROUTING": EGRESS}
KNOWN = frozenset(map(known_set, FAMILIES))


class IptablesEnforcer(KernelEnforcer):
    """An enforcer that runs ``iptables-restore`` and ``ipset restore``."""

    def __init__(self, netns: Netns | None = None) -> None:
        super().__init__(netns)
        self._compiler = Compiler()
        self._applied: Rules | None = None
        self._programs: dict[int, Iptables] = {}

    async def apply(self, old: Program | None, new: Program) -> None:
        """By the difference to ``old``, or to what the kernel holds."""
        await asyncio.to_thread(self.replace if old is None else self.change, new)

    async def clear(self) -> None:
        """Remove our chains and sets."""
        with contextlib.suppress(IptablesError):
            # Where the programs are missing nothing of ours can be.
            await asyncio.to_thread(self._clear)
        self._compiler, self._applied = Compiler(), None

    def _clear(self) -> None:
        with self._inside():
            there = any(n.startswith(SET_PREFIX) for n in ipset.names())
        if there:
            self._bring(None, NOTHING)

    def replace(self, program: Program) -> None:
        """Bring a program into the kernel in place of whatever there is."""
        self._compiler = Compiler()
        self._bring(None, self._compiler.rules(program))

    def change(self, program: Program) -> None:
        """Bring a program into the kernel by its difference to the one before."""
        before, self._applied = self._applied, None
        rules = self._compiler.rules(program)
        self._bring(before, rules)

    def members(self, names: Iterable[str]) -> dict[str, frozenset[bytes]]:
        """Addresses in sets that are in the kernel."""
        own = {set_name(n, f): n for n in names for f in FAMILIES}
        with self._inside():
            known = sets_of.parse(ipset.save())
        return {
            name: frozenset(ip_address(e).packed for e in known[n].elements)
            for n, name in own.items()
            if n in known
        }

    def counters(self) -> Counter[str]:
        """Packets that the rules decided, by the text of their label."""
        found: Counter[str] = Counter()
        with self._inside():
            listings = [p.save("mangle", counters=True) for p in self._families().values()]
        for version, text in zip(self._families(), listings, strict=True):
            for chain in _own(tables_of.parse(text, version).get("mangle")).chains.values():
                for rule in chain.rules:
                    if rule.comment != ANSWERS and rule.comment and rule.counters:
                        found[rule.comment] += rule.counters[0]
        return found

    def _bring(self, before: Rules | None, after: Rules) -> None:
        with self._inside():
            old = before or self._listed()
            families = self._families()
            _feed(ipset.restore, _before_rules(old.sets, after.sets))
            for version, program in families.items():
                change = _difference(old.tables.get(version), after.tables.get(version))
                _feed(program.restore, change.lines(program.section()))
            _feed(ipset.restore, _after_rules(old.sets, after.sets))
        self._applied = after

    def _inside(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.netns is None else entered(self.netns)

    def _families(self) -> dict[int, Iptables]:
        """The programs of each family that this kernel has."""
        if not self._programs:
            variant = detect()
            for version in FAMILIES:
                program = Iptables(version, variant)
                try:
                    program.save("mangle")
                except IptablesError:
                    if version == 4:
                        raise
                    continue
                self._programs[version] = program
        return self._programs

    def _listed(self) -> Rules:
        """What an agent before this one has left."""
        known = sets_of.parse(ipset.save())
        sets = {n: s for n, s in known.items() if n.startswith(SET_PREFIX)}
        tables = {
            version: _own(tables_of.parse(program.save("mangle"), version).get("mangle"))
            for version, program in self._families().items()
        }
        return Rules(sets, tables)


def _own(table: Table | None) -> Table:
    """Our chains, and our rules in those of the kernel."""
    chains: dict[str, Chain] = {}
    for name, chain in table.chains.items() if table else ():
        if name.startswith(PREFIX):
            chains[name] = chain
        elif name in HOOKS:
            ours = tuple(r for r in chain.rules if r.target.render() == f"-j {HOOKS[name]}")
            chains[name] = Chain(name, ours, chain.policy)
    return Table("mangle", chains)


def _difference(old: Table | None, new: Table | None) -> Change:
    """The change of one family; our hooks come first, before an ACCEPT of somebody else."""
    old, new = old or Table("mangle"), new or Table("mangle")
    # Nearly all chains are those of before.
    after = {n: c for n, c in new.chains.items() if old.chains.get(n) is not c}
    before = {
        n: _same(c, new.chains.get(n)) for n, c in old.chains.items() if new.chains.get(n) is not c
    }
    # What is only put in front of a chain is not the whole chain anew.
    grown = {n for n, c in after.items() if n in before and _grown(before[n], c)}
    change = difference(_without(before, grown), _without(after, grown))
    change.inserted, change.appended = change.appended, []
    for name in grown:
        for rule in reversed(after[name].rules[: -len(before[name].rules)]):
            change.insert(name, rule)
    return change


def _grown(old: Chain, new: Chain) -> bool:
    most = len(old.rules)
    return 0 < most < len(new.rules) and new.rules[-most:] == old.rules


def _without(chains: Mapping[str, Chain], names: set[str]) -> Table:
    return Table("mangle", {n: c for n, c in chains.items() if n not in names})


def _same(old: Chain, new: Chain | None) -> Chain:
    """The chain that is meant, where a listing says the same in other values."""
    if new is None or len(old.rules) != len(new.rules):
        return old
    return new if list(old.lines()) == list(new.lines()) else old


def _before_rules(old: Mapping[str, IpSet], new: Mapping[str, IpSet]) -> Iterator[str]:
    """What sets gain, and who is no longer known."""
    for name, one in new.items():
        before = old.get(name)
        if before is one:
            continue
        if before is None:
            yield from (one.create_line(),) if name in KNOWN else one.lines()
        elif _kind(before) == _kind(one):
            yield from _removed(before, one) if name in KNOWN else _added(before, one)
        elif name not in KNOWN:
            yield from replacement(one)


def _after_rules(old: Mapping[str, IpSet], new: Mapping[str, IpSet]) -> Iterator[str]:
    """What sets lose, and who is known now."""
    for name, before in old.items():
        one = new.get(name)
        if one is None:
            yield f"destroy {name}"
        elif one is not before and _kind(before) == _kind(one) and name not in KNOWN:
            yield from _removed(before, one)
    for name in KNOWN & new.keys():
        known = old.get(name)
        if known is None or _kind(known) == _kind(new[name]):
            yield from _added(known, new[name])
        else:
            yield from replacement(new[name])


def _added(old: IpSet | None, new: IpSet) -> Iterator[str]:
    before = old.elements.keys() if old else ()
    return (new.add_line(e) for e in new.elements.keys() - before)


def _removed(old: IpSet, new: IpSet) -> Iterator[str]:
    return (f"del {new.name} {e}" for e in old.elements.keys() - new.elements.keys())


def _kind(one: IpSet) -> tuple[object, ...]:
    return one.type, one.family, one.max_elements


def _feed(restore: Callable[[Iterable[str]], None], lines: Iterator[str]) -> None:
    """Run a program only if there is something to say."""
    if first := next(lines, ""):
        restore(itertools.chain((first,), lines))
