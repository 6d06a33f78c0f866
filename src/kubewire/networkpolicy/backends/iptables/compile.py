"""The program as iptables and ipset values, one mangle table and its sets for each family.

    POSTROUTING -> KWP-EGRESS
      established, related -> ACCEPT
      the source's chain (tree.py); every way out of it is DROP or KWP-INGRESS
      an address of this node's pods that is not known -> DROP (fails closed)
      all others -> KWP-INGRESS
    KWP-INGRESS
      the destination's chain; every way out of it is DROP or ACCEPT
      an address of this node's pods that is not known -> DROP
      all others -> ACCEPT
    KWP-EXEMPT, asked before something is denied
      of the node itself -> ACCEPT; a pod to itself -> ACCEPT

In the mangle table an ACCEPT ends our part only: the filter table of others still sees the packet.
A family of which this node has no pod has the heads of these chains only.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network, summarize_address_range
from typing import NamedTuple

from kubewire.lang.iptables import matches as m
from kubewire.lang.iptables.ipset import DEFAULT_SIZE, PLAIN, IpSet, Options
from kubewire.lang.iptables.model import Chain, Rule, Table
from kubewire.lang.iptables.targets import ACCEPT, DROP, RETURN, Jump, Nflog, Target
from kubewire.networkpolicy.backends.iptables.matches import Itself, Midstream, Queue
from kubewire.networkpolicy.backends.iptables.names import (
    EGRESS,
    EXEMPT,
    INGRESS,
    SET_PREFIX,
    chain_name,
    set_name,
)
from kubewire.networkpolicy.backends.iptables.tree import Tree
from kubewire.networkpolicy.labels import (
    ANSWERS,
    CUT,
    LOG_GROUP,
    QUEUE,
    UNKNOWN,
    label_text,
    log_prefix,
)
from kubewire.networkpolicy.model import Direction
from kubewire.networkpolicy.program import (
    AddressSet,
    AnySet,
    PortSet,
    Program,
    RangeSet,
    Step,
    differing,
    dns_set,
    family_of,
)
from kubewire.networkpolicy.program import Chain as ProgramChain

LOG_BYTES = 63
"""What iptables takes as a prefix of log records."""
FAMILIES = (4, 6)
WAYS: tuple[Direction, ...] = ("ingress", "egress")
"""Callees first."""
REPLIES = m.CtState(("ESTABLISHED", "RELATED"))


class Rules(NamedTuple):
    """Everything of ours in the kernel: sets by name, the mangle table of each family."""

    sets: Mapping[str, IpSet]
    tables: Mapping[int, Table]


@lru_cache(maxsize=65536)
def _text(address: bytes) -> str:
    return str(ip_address(address))


class Compiler:
    """Programs -> rules; what is the same value in the program before is the same in the rules."""

    def __init__(self) -> None:
        self._program: Program | None = None
        self._rules = Rules({}, {})
        self._trees = {(way, family): Tree(way, family) for way in WAYS for family in FAMILIES}
        self._chains: dict[tuple[Direction, int], dict[str, Chain]] = {}
        """Chains of the program as they are spelled."""

    def rules(self, program: Program) -> Rules:
        """Spell a program."""
        old = self._program
        grown = {family for way in WAYS for family in self._lead(way, program, old)}
        sets = self._sets(program, old)
        tables = {f: self._table(f, program, old, grown=f in grown) for f in FAMILIES}
        self._rules, self._program = Rules(sets, tables), program
        return self._rules

    def _sets(self, program: Program, old: Program | None) -> dict[str, IpSet]:
        before = old.sets if old else {}
        known = self._rules.sets
        found = {}
        for name, one in program.sets.items():
            own = set_name(name, one.family)
            found[own] = known[own] if before.get(name) is one else _spell(own, one)
        for family in FAMILIES if program.asking else ():
            own = asking_set(family)
            mine = (a for a in program.asking if family_of(a) == family)
            found[own] = _addresses(own, family, mine)
        for family in FAMILIES:
            own = known_set(family)
            if old is not None and program.known is old.known:
                found[own] = known[own]
            else:
                mine = (a for a in program.known if family_of(a) == family)
                found[own] = _addresses(own, family, mine)
        return found

    def _lead(self, way: Direction, program: Program, old: Program | None) -> Iterator[int]:
        """Lead addresses to their chains; gives the families whose rules change by that."""
        entries: dict[bytes, str] = getattr(program, way)
        changed = differing(entries, getattr(old, way) if old else {})
        lost = old is not None and not old.chains.keys() <= program.chains.keys()
        for family in FAMILIES:
            mine = [a for a in changed if family_of(a) == family]
            tree = self._trees[way, family]
            if mine or (lost and tree.overgrown):
                tree.update(entries, mine, lost=lost)
                yield family

    def _table(self, family: int, program: Program, old: Program | None, *, grown: bool) -> Table:
        """Chains after those that they lead to."""
        if old and not grown and program.chains is old.chains and _head(program) == _head(old):
            return self._rules.tables[family]
        chains: dict[str, Chain] = {EXEMPT: Chain(EXEMPT, tuple(_exempt(family)))}
        heads = {"ingress": (INGRESS, _ingress), "egress": (EGRESS, _egress)}
        for way in WAYS:
            tree = self._trees[way, family]
            chains |= self._spelled(way, family, program, old) if tree.leaves else {}
            chains |= tree.chains()
            name, head = heads[way]
            chains[name] = Chain(name, tuple(head(program, family, tree.roots)))
        chains["POSTROUTING"] = Chain("POSTROUTING", (Rule((), Jump(EGRESS)),), "ACCEPT")
        return Table("mangle", chains)

    def _spelled(
        self, way: Direction, family: int, program: Program, old: Program | None
    ) -> dict[str, Chain]:
        known = self._chains.get((way, family), {})
        before = old.chains if old and known else {}
        if program.chains is not before:
            known = {
                own: known[own] if before.get(n) is c else _program_chain(own, c, family)
                for n, c in program.chains.items()
                if c.direction == way
                for own in (chain_name(n),)
            }
            self._chains[way, family] = known
        return known


def known_set(family: int) -> str:
    """Name of the set of this node's pods whose policies are in force."""
    return f"{SET_PREFIX}{family}-known"


def asking_set(family: int) -> str:
    """Name of the set of this node's pods whose DNS answers are read."""
    return f"{SET_PREFIX}{family}-asking"


def _head(program: Program) -> tuple[object, ...]:
    return program.guarded, program.strict, bool(program.asking), program.ways


def _addresses(name: str, family: int, elements: Iterable[bytes]) -> IpSet:
    return _sized(name, "hash:ip", family, {_text(a): PLAIN for a in elements})


def _sized(name: str, kind: str, family: int, elements: dict[str, Options]) -> IpSet:
    """A set with room for twice what it holds, in powers of two: it rarely has to be made anew."""
    room = max(DEFAULT_SIZE, 1 << (2 * len(elements)).bit_length())
    return IpSet(name, kind, elements, family, room)


def _spell(name: str, found: AnySet) -> IpSet:
    if isinstance(found, AddressSet):
        return _addresses(name, found.family, found.elements)
    if isinstance(found, PortSet):
        elements = {f"{_text(a)},{p.lower()}:{n}": PLAIN for a, p, n in found.elements}
        return _sized(name, "hash:ip,port", found.family, elements)
    return _sized(name, "hash:net", found.family, dict.fromkeys(_networks(found), PLAIN))


def _networks(found: RangeSet) -> Iterator[str]:
    """Prefixes of ranges as ipset writes them; it has none of length 0."""
    for low, high in found.elements:
        for network in summarize_address_range(ip_address(low), ip_address(high)):
            halves = network.subnets() if network.prefixlen == 0 else (network,)
            for part in halves:
                whole = part.prefixlen == part.max_prefixlen
                yield str(part.network_address) if whole else str(part)


# -- chains ---------------------------------------------------------------------------------------


def _answers(program: Program, family: int) -> Iterator[Rule]:
    """Answers of the cluster's DNS, or of a cache on this node, to pods whose policies name domains."""
    asks = m.InSet(asking_set(family), ("dst",))
    servers = m.InSet(set_name(dns_set(family), family), ("src",)), m.AddrType("LOCAL", "src")
    for protocol in ("udp", "tcp") if program.asking else ():
        for server in servers:
            head = (m.Proto(protocol), m.Ports(protocol, sport="53"), asks, server)
            yield Rule((*head, m.Comment(ANSWERS)), Queue(QUEUE))


def _exempt(family: int) -> Iterator[Rule]:
    yield Rule((m.AddrType("LOCAL", "src"),), ACCEPT)
    yield Rule((Itself(family),), ACCEPT)


def _egress(program: Program, family: int, roots: Iterable[Rule]) -> Iterator[Rule]:
    yield from _answers(program, family)
    yield Rule((REPLIES,), ACCEPT)
    if program.strict:
        for side in ("src", "dst"):
            cut = (m.Proto("tcp"), Midstream(), m.InSet(known_set(family), (side,)))
            yield Rule(cut, Jump(EXEMPT))
            yield Rule((*cut, m.Comment(CUT)), DROP)
    yield from roots
    yield from _guard(program, family, "src")
    yield Rule((), Jump(INGRESS, goto=True))


def _ingress(program: Program, family: int, roots: Iterable[Rule]) -> Iterator[Rule]:
    yield from roots
    yield from _guard(program, family, "dst")
    yield Rule((), ACCEPT)


def _guard(program: Program, family: int, side: str) -> Iterator[Rule]:
    """Who has no profile may be a pod that is not known yet."""
    if ("egress" if side == "src" else "ingress") not in program.ways:
        return
    unknown = m.InSet(known_set(family), (side,), invert=True)
    other = m.AddrType("LOCAL", "src", invert=True)
    for block in program.guarded:
        network = ip_network(block, strict=False)
        if network.version == family:
            at = (m.Source if side == "src" else m.Destination)(str(network))
            yield Rule((at, unknown, other, m.Comment(UNKNOWN)), DROP)


def _program_chain(name: str, chain: ProgramChain, family: int) -> Chain:
    egress = chain.direction == "egress"
    rules = [r for s in chain.steps if s.family in (0, family) for r in _rules(s, family, egress)]
    if chain.name.startswith(f"{chain.direction}/"):
        rules.append(Rule((), _allowed(egress)))
    return Chain(name, tuple(rules))


def _allowed(egress: bool) -> Target:
    return Jump(INGRESS, goto=True) if egress else ACCEPT


def _rules(step: Step, family: int, egress: bool) -> Iterator[Rule]:
    comment = (m.Comment(label_text(step.label)),) if step.label else ()
    for match in _matches(step, family, egress):
        if step.does in ("drop", "count") and step.label:
            audit = step.does == "count"
            prefix = log_prefix(step.label, audit=audit, most=LOG_BYTES)
            yield Rule(match, Nflog(LOG_GROUP, prefix))
        yield Rule((*match, *comment), _target(step, egress))


def _target(step: Step, egress: bool) -> Target:
    match step.does:
        case "next":
            return _allowed(egress)
        case "drop":
            return DROP
        case "count" | "pass":
            return RETURN
        case "call":
            return Jump(chain_name(step.target))
        case "goto":
            return Jump(chain_name(step.target), goto=True)
        case "exempt":
            return Jump(EXEMPT)


def _matches(step: Step, family: int, egress: bool) -> Iterator[tuple[m.Match, ...]]:
    """One alternative for each range of ports; what iptables-save lists first comes first."""
    side = "dst" if egress else "src"
    peers = (m.InSet(set_name(step.peers, family), (side,)),) if step.peers else ()
    if step.named:
        yield (*peers, m.InSet(set_name(step.named, family), ("dst", "dst")))
        return
    if not step.protocol:
        yield peers
        return
    protocol = step.protocol.lower()
    if not step.ports:
        yield (m.Proto(protocol), *peers)
    for low, high in step.ports:
        port = str(low) if low == high else f"{low}:{high}"
        yield (m.Proto(protocol), m.Ports(protocol, port), *peers)
