"""The program as nftables values: one inet table of ours.

    egress (postrouting hook, before source NAT)
      established, related -> accept
      source in @egress4/6 -> the number of its profile, which @egress-profiles turns into a jump to
        the profile's chain, or accept if no policy selects it
      an address of this node's pods that is not known -> drop (fails closed)
    ingress (postrouting hook, after egress)
      the same by destination

    A direction that no policy affects has no such chain: packets pass its hook for nothing.

    Exempt are packets of the node itself and of a pod to itself: chains ask before they deny.

Postrouting is where every packet to or from a pod passes after destination NAT: those that the node
forwards, and those that IPVS or a transparent proxy sends on, which never see the forward hook.

``accept`` ends one base chain only, so a packet that egress accepts still meets ingress. (A jump from
one to the other would make the kernel validate every path through both.)

A new connection costs what it looks up, so it looks up little: known pods are found by the map that
leads to their profiles, and where pods speak one family the map has told it, no rule asks again.
The number between address and chain is for changes: after every new verdict of a map the kernel walks
all paths from the hooks, through each element; a pod that changes its profile brings none.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_network
from typing import Any

from kubewire.lang.nftables.expressions import (
    ACCEPT,
    DPORT,
    DROP,
    L4PROTO,
    RETURN,
    SPORT,
    CtState,
    FibLocal,
    Match,
    Verdict,
)
from kubewire.lang.nftables.families import ADDRESS, DADDR, FAMILY, SADDR
from kubewire.lang.nftables.lookups import Lookup
from kubewire.lang.nftables.model import Chain, Data, Rule, Set, Table
from kubewire.lang.nftables.types import MARK, PORT, PROTO, integer_bytes
from kubewire.networkpolicy.backends.nftables.expressions import (
    ByProfile,
    Counter,
    Inside,
    Log,
    Midstream,
    PortRange,
    Queue,
)
from kubewire.networkpolicy.labels import (
    ANSWERS,
    CUT,
    LOG_GROUP,
    PROTOCOLS,
    QUEUE,
    UNKNOWN,
    label_text,
    log_prefix,
)
from kubewire.networkpolicy.program import (
    AddressSet,
    AnySet,
    PortSet,
    Program,
    Step,
    differing,
    dns_set,
)
from kubewire.networkpolicy.program import Chain as ProgramChain

LOG_BYTES = 126
"""What the kernel takes as a prefix of log records."""
BASE = ("egress", "ingress")
"""Names of the base chains, in the order of their priorities."""
EXEMPT, DENY_CUT, DENY_UNKNOWN = "exempt", "cut", "unknown"
PRIORITY = 90
"""Of the first one; source NAT has 100."""
_FROM_DNS = Match(SPORT, (53).to_bytes(2, "big"))


class Compiler:
    """Programs -> tables; what is the same value in the program before is the same in the table."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._program: Program | None = None
        self._table = Table(name)
        self._led: dict[str, dict[bytes, str]] = {}
        """Address -> chain of each base chain, "" for a pod that no policy selects."""
        self._numbers: dict[str, bytes] = {"": _number(0)}
        """Chain of a profile -> what stands for it in the maps of addresses."""
        self._count = 0

    def table(self, program: Program) -> Table:
        """Spell a program."""
        old = self._program
        sets = self._sets(program, old)
        if old is None or program.known is not old.known:
            sets |= _known(program.known)
        else:
            sets |= {n: self._table.sets[n] for n in ("known4", "known6", "self4", "self6")}
        sets |= _asking(program.asking)
        if old is None or program.chains is not old.chains:
            self._numbers = {c: n for c, n in self._numbers.items() if not c or c in program.chains}
        for way in BASE:
            sets |= self._dispatch(way, program) | self._profiles(way, program, old)
        self._table = Table(self.name, "inet", sets, self._chains(program, old))
        self._program = program
        return self._table

    def _sets(self, program: Program, old: Program | None) -> dict[str, Set]:
        before = old.sets if old else {}
        known = self._table.sets
        return {
            name: known[name] if before.get(name) is found else _spell(found)
            for name, found in program.sets.items()
        }

    def _chains(self, program: Program, old: Program | None) -> Mapping[str, Chain]:
        if old and program.chains is old.chains and _head(program) == _head(old):
            return self._table.chains
        alone = len(program.families) == 1
        before = old.chains if old and old.families == program.families else {}
        known = self._table.chains
        chains = {
            name: known[name] if before.get(name) is chain else _chain(chain, alone=alone)
            for name, chain in program.chains.items()
        }
        chains |= {name: Chain(name, tuple(rules)) for name, rules in _exceptions(program)}
        for priority, way in enumerate(BASE, PRIORITY):
            if way in program.ways:
                rules = tuple(_base(way, program))
                chains[way] = Chain(way, rules, "filter", "postrouting", priority)
        return chains

    def _dispatch(self, way: str, program: Program) -> dict[str, Set]:
        selected: dict[bytes, str] = getattr(program, way)
        entries = dict.fromkeys(program.known, "") | selected
        found: dict[str, Set] = {}
        apart = differing(entries, self._led.get(way, {}))
        self._led[way] = entries
        for family, size in ((4, 4), (6, 16)):
            name = f"{way}{family}"
            known = self._table.sets.get(name)
            changed = [k for k in apart if len(k) == size]
            if known is None or changed:
                elements = dict(known.elements) if known else {}
                for key in changed:
                    elements.pop(key, None)
                    if key in entries:
                        elements[key] = self._numbered(entries[key])
                known = Set(name, (ADDRESS[family],), (MARK, MARK), elements=elements)
            found[name] = known
        return found

    def _numbered(self, chain: str) -> bytes:
        if chain not in self._numbers:
            self._count += 1
            self._numbers[chain] = _number(self._count)
        return self._numbers[chain]

    def _profiles(self, way: str, program: Program, old: Program | None) -> dict[str, Set]:
        """Number -> chain of every profile that the program has."""
        name = profiles_of(way)
        if old is not None and program.chains is old.chains:
            return {name: self._table.sets[name]}
        chains = ("", *(c for c in program.chains if c.startswith(f"{way}/")))
        elements: dict[bytes, Data] = {self._numbered(c)[4:]: _jump(c) for c in chains}
        return {name: Set(name, (MARK,), verdicts=True, elements=elements)}


def profiles_of(way: str) -> str:
    """Name of the map from the numbers of profiles to their chains."""
    return f"{way}-profiles"


def _number(value: int) -> bytes:
    """A number behind a word of nothing (see ``ByProfile``)."""
    return bytes(4) + integer_bytes(value)


@lru_cache(maxsize=65536)
def _jump(chain: str) -> Verdict:
    return Verdict("jump", chain) if chain else ACCEPT


def _chain(chain: ProgramChain, *, alone: bool) -> Chain:
    egress = chain.direction == "egress"
    return Chain(chain.name, tuple(r for s in chain.steps for r in _rules(s, egress, alone)))


def _spell(found: AnySet) -> Set:
    kind = ADDRESS[found.family]
    if isinstance(found, AddressSet):
        return Set(found.name, (kind,), elements=dict.fromkeys(found.elements))
    if isinstance(found, PortSet):
        keys: Mapping[bytes, Data] = {
            a + bytes((PROTOCOLS[p], 0, 0, 0)) + n.to_bytes(2, "big") + b"\0\0": None
            for a, p, n in found.elements
        }
        return Set(found.name, (kind, PROTO, PORT), elements=keys)
    return Set(found.name, (kind,), elements=dict(found.elements), interval=True)


def _known(known: frozenset[bytes]) -> dict[str, Set]:
    found: dict[str, Set] = {}
    for family, size in ((4, 4), (6, 16)):
        kind = ADDRESS[family]
        mine = [a for a in known if len(a) == size]
        one, two = f"known{family}", f"self{family}"
        found[one] = Set(one, (kind,), elements=dict.fromkeys(mine))
        found[two] = Set(two, (kind, kind), elements={a + a: None for a in mine})
    return found


def _asking(asking: frozenset[bytes]) -> dict[str, Set]:
    found = {}
    for family, size in ((4, 4), (6, 16)) if asking else ():
        name = f"asking{family}"
        mine = dict.fromkeys(a for a in asking if len(a) == size)
        found[name] = Set(name, (ADDRESS[family],), elements=mine)
    return found


def _rules(step: Step, egress: bool, alone: bool) -> Iterator[Rule]:
    reason = label_text(step.label) if step.label else ""
    for match in _matches(step, egress, alone):
        yield Rule((*match, *_action(step)), reason)


def _matches(step: Step, egress: bool, alone: bool) -> Iterator[tuple[Any, ...]]:
    """One alternative for each range of ports."""
    head: tuple[Any, ...] = (FAMILY[step.family],) if step.family and not alone else ()
    if step.peers:
        side = DADDR if egress else SADDR
        head += (Lookup((side[step.family],), step.peers),)
    if step.named:
        yield (*head, Lookup((DADDR[step.family], L4PROTO, DPORT), step.named))
        return
    if step.protocol:
        head += (Match(L4PROTO, bytes((PROTOCOLS[step.protocol],))),)
    if not step.ports:
        yield head
    for low, high in step.ports:
        port = Match(DPORT, low.to_bytes(2, "big")) if low == high else PortRange(low, high)
        yield (*head, port)


def _action(step: Step) -> tuple[Any, ...]:
    counter = (Counter(),) if step.label else ()
    match step.does:
        case "next":
            return (*counter, ACCEPT)
        case "drop":
            return (*counter, *_log(step), DROP)
        case "count":
            return (*counter, *_log(step), RETURN)
        case "pass":
            return (*counter, RETURN)
        case "call":
            return (Verdict("jump", step.target),)
        case "goto":
            return (*counter, Verdict("goto", step.target))
        case "exempt":
            return (Verdict("jump", EXEMPT),)


def _log(step: Step) -> tuple[Any, ...]:
    if step.label is None:
        return ()
    prefix = log_prefix(step.label, audit=step.does == "count", most=LOG_BYTES)
    return (Log(LOG_GROUP, prefix),)


def _head(program: Program) -> tuple[object, ...]:
    return program.guarded, program.strict, bool(program.asking), program.families, program.ways


def _exceptions(program: Program) -> Iterator[tuple[str, Iterator[Rule]]]:
    """Chains for packets that no profile judges."""
    yield EXEMPT, _exempt()
    yield DENY_UNKNOWN, _deny(UNKNOWN)
    if program.strict:
        yield DENY_CUT, _deny(CUT)


def _exempt() -> Iterator[Rule]:
    yield Rule((FibLocal(source=True), ACCEPT), "of the node itself")
    for family in (4, 6):
        itself = Lookup((SADDR[family], DADDR[family]), f"self{family}")
        yield Rule((FAMILY[family], itself, ACCEPT), "a pod to itself")


def _deny(reason: str) -> Iterator[Rule]:
    yield Rule((Verdict("jump", EXEMPT),))
    yield Rule((Counter(), DROP), reason)


def _base(way: str, program: Program) -> Iterator[Rule]:
    if way == "egress":
        yield from _answers(program)
    yield Rule((CtState(("established", "related")), ACCEPT), "replies")
    if program.strict and way == program.ways[0]:
        yield from _cut()
    sides = SADDR if way == "egress" else DADDR
    for family in program.families:
        profile = ByProfile(sides[family], f"{way}{family}", profiles_of(way))
        yield Rule((FAMILY[family], profile), f"by the profile in {way}{family}")
    for block in program.guarded:
        network = ip_network(block, strict=False)
        load, known = sides[network.version], f"known{network.version}"
        unknown = (Inside(load, network), Lookup((load,), known, inverted=True))
        yield Rule((FAMILY[network.version], *unknown, Verdict("goto", DENY_UNKNOWN)))


def _cut() -> Iterator[Rule]:
    """A TCP connection that is not tracked and does not begin."""
    for family in (4, 6):
        for side in (SADDR, DADDR):
            ours = Lookup((side[family],), f"known{family}")
            yield Rule((FAMILY[family], Midstream(), ours, Verdict("goto", DENY_CUT)))


def _answers(program: Program) -> Iterator[Rule]:
    """Answers of the cluster's DNS, or of a cache on this node, to pods whose policies name domains."""
    if not program.asking:
        return
    for family in (4, 6):
        asks = Lookup((DADDR[family],), f"asking{family}")
        for protocol in ("UDP", "TCP"):
            head = (FAMILY[family], Match(L4PROTO, bytes((PROTOCOLS[protocol],))), _FROM_DNS)
            for server in (Lookup((SADDR[family],), dns_set(family)), FibLocal(source=True)):
                yield Rule((*head, asks, server, Queue(QUEUE)), ANSWERS)
