"""The iptables back end: sets by ``ipset restore``, rules by ``iptables-restore``.

Three steps, each at once for what it touches: what sets gain, the rules, what sets lose. In between
a pod that moves from one profile to another is in both, so one of the two is in force; it is never
in none. A pod becomes known last and unknown first.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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
    EGRESS,
    FAMILIES,
    PREFIX,
    SET_PREFIX,
    Compiler,
    Rules,
    known_set,
    set_name,
)
from kubewire.networkpolicy.backends.kernel import KernelEnforcer
from kubewire.networkpolicy.labels import ANSWERS
from kubewire.networkpolicy.program import Program

NOTHING = Rules({}, {})
HOOKS = {"POSTROUTING": EGRESS}


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
            _feed_sets(_gains(old.sets, after.sets))
            for version, program in families.items():
                change = _difference(old.tables.get(version), after.tables.get(version))
                program.restore(change.lines(program.section()))
            _feed_sets(_losses(old.sets, after.sets))
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
    if old is new:
        return Change("mangle")
    before = {n: _same(c, new.chains.get(n)) for n, c in old.chains.items()}
    change = difference(Table("mangle", before), new)
    change.inserted, change.appended = change.appended, []
    return change


def _same(old: Chain, new: Chain | None) -> Chain:
    """The chain that is meant, where a listing says the same in other values."""
    if new is None or old is new or len(old.rules) != len(new.rules):
        return old
    return new if list(old.lines()) == list(new.lines()) else old


def _gains(old: Mapping[str, IpSet], new: Mapping[str, IpSet]) -> Iterator[str]:
    for name in sorted(new, key=_known_last):
        one, before = new[name], old.get(name)
        if before is one:
            continue
        if before is None:
            yield from one.lines()
        elif _kind(before) != _kind(one):
            yield from replacement(one)
        else:
            yield from (one.add_line(e) for e in one.elements.keys() - before.elements.keys())


def _losses(old: Mapping[str, IpSet], new: Mapping[str, IpSet]) -> Iterator[str]:
    for name in sorted(old, key=_known_last, reverse=True):
        one, before = new.get(name), old[name]
        if one is None:
            yield f"destroy {name}"
        elif one is not before and _kind(before) == _kind(one):
            yield from (f"del {name} {e}" for e in before.elements.keys() - one.elements.keys())


def _known_last(name: str) -> bool:
    return name in map(known_set, FAMILIES)


def _kind(one: IpSet) -> tuple[object, ...]:
    return one.type, one.family, one.max_elements


def _feed_sets(lines: Iterator[str]) -> None:
    """Run ``ipset`` only if there is something to say."""
    if found := list(lines):
        ipset.restore(found)
