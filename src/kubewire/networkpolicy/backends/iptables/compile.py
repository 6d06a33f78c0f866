"""The program as iptables and ipset values, one mangle table and its sets for each family.

    POSTROUTING -> KWP-EGRESS
      established, related -> ACCEPT; of the node itself -> ACCEPT; a pod to itself -> ACCEPT
      an address of this node's pods that is not known -> DROP (fails closed)
      source in the set of a profile -> its chain; every way out of it is DROP or KWP-INGRESS
      all others -> KWP-INGRESS
    KWP-INGRESS
      destination in the set of a profile -> its chain; every way out of it is DROP or ACCEPT
      all others -> ACCEPT

In the mangle table an ACCEPT ends our part only: the filter table of others still sees the packet.
Where nftables looks a pod's chain up in a map, a set per profile holds the addresses of its pods, so
that a new pod touches sets and no rule.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network, summarize_address_range
from typing import NamedTuple

from kubewire.lang.iptables import matches as m
from kubewire.lang.iptables.ipset import DEFAULT_SIZE, PLAIN, IpSet, Options
from kubewire.lang.iptables.model import Chain, Rule, Table
from kubewire.lang.iptables.targets import ACCEPT, DROP, RETURN, Jump, Nflog, Target
from kubewire.networkpolicy.backends.iptables.matches import Itself, Midstream, Queue
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
    dns_set,
    family_of,
)
from kubewire.networkpolicy.program import Chain as ProgramChain

PREFIX = "KWP-"
SET_PREFIX = "kwp"
EGRESS, INGRESS = "KWP-EGRESS", "KWP-INGRESS"
LOG_BYTES = 63
"""What iptables takes as a prefix of log records."""
FAMILIES = (4, 6)
FEW = 32
"""So many profiles are asked for one by one."""
REPLIES = m.CtState(("ESTABLISHED", "RELATED"))


class Rules(NamedTuple):
    """Everything of ours in the kernel: sets by name, the mangle table of each family."""

    sets: Mapping[str, IpSet]
    tables: Mapping[int, Table]


def chain_name(name: str) -> str:
    """A chain's name within iptables' 28 bytes."""
    return PREFIX + _digest(name)


def set_name(name: str, family: int) -> str:
    """A set's name within ipset's 31 bytes."""
    return f"{SET_PREFIX}{family}-{_digest(name)}"


@lru_cache(maxsize=65536)
def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:20]


@lru_cache(maxsize=65536)
def _text(address: bytes) -> str:
    return str(ip_address(address))


class Compiler:
    """Programs -> rules; what is the same value in the program before is the same in the rules."""

    def __init__(self) -> None:
        self._program: Program | None = None
        self._rules = Rules({}, {})

    def rules(self, program: Program) -> Rules:
        """Spell a program."""
        old = self._program
        sets = self._sets(program, old)
        for way in ("egress", "ingress"):
            sets |= self._pods(way, program, old)
        self._rules = Rules(sets, self._tables(program, old))
        self._program = program
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

    def _pods(self, way: Direction, program: Program, old: Program | None) -> dict[str, IpSet]:
        """A set for every profile (or bucket of them) and family, with the addresses of its pods."""
        entries: dict[bytes, str] = getattr(program, way)
        before: dict[bytes, str] = getattr(old, way) if old else {}
        changed = {a for a, _ in entries.items() ^ before.items()}
        dirty = {c for a in changed for c in (entries.get(a), before.get(a)) if c}
        by_chain: dict[str, list[bytes]] = {}
        for address, chain in entries.items():
            by_chain.setdefault(chain, []).append(address)
        found = {}
        for name, chains in _groups(program, way):
            for family in FAMILIES:
                own = set_name(name, family)
                known = self._rules.sets.get(own)
                if known is None or not dirty.isdisjoint(chains):
                    mine = (
                        a for c in chains for a in by_chain.get(c, ()) if family_of(a) == family
                    )
                    known = _addresses(own, family, mine)
                found[own] = known
        return found

    def _tables(self, program: Program, old: Program | None) -> Mapping[int, Table]:
        if old and program.chains is old.chains and _head(program) == _head(old):
            return self._rules.tables
        return {family: _table(program, family) for family in FAMILIES}


def profiles(program: Program, way: Direction) -> Iterator[str]:
    """Names of the chains that pods are led to."""
    return (name for name in program.chains if name.startswith(f"{way}/"))


def _buckets(program: Program, way: Direction) -> dict[str, list[str]]:
    """Many profiles are asked for in two steps: which bucket, which of its profiles."""
    names = list(profiles(program, way))
    found: dict[str, list[str]] = {}
    for name in names if len(names) > FEW else ():
        found.setdefault(f"bucket-{way}-{_digest(name)[0]}", []).append(name)
    return found


def _groups(program: Program, way: Direction) -> Iterator[tuple[str, list[str]]]:
    """Names of sets and the profiles whose pods they hold."""
    yield from ((name, [name]) for name in profiles(program, way))
    yield from _buckets(program, way).items()


def known_set(family: int) -> str:
    """Name of the set of this node's pods whose policies are in force."""
    return f"{SET_PREFIX}{family}-known"


def asking_set(family: int) -> str:
    """Name of the set of this node's pods whose DNS answers are read."""
    return f"{SET_PREFIX}{family}-asking"


def _head(program: Program) -> tuple[object, ...]:
    return program.guarded, program.strict, bool(program.asking)


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


def _table(program: Program, family: int) -> Table:
    """Chains after those that they lead to."""
    chains = [
        *_program_chains(program, family, "ingress"),
        *_bucket_chains(program, family, "ingress", "dst"),
        Chain(INGRESS, tuple(_ingress(program, family))),
        *_program_chains(program, family, "egress"),
        *_bucket_chains(program, family, "egress", "src"),
        Chain(EGRESS, tuple(_egress(program, family))),
        Chain("POSTROUTING", (Rule((), Jump(EGRESS)),), "ACCEPT"),
    ]
    return Table("mangle", {c.name: c for c in chains})


def _program_chains(program: Program, family: int, way: Direction) -> list[Chain]:
    return [_program_chain(c, family) for c in program.chains.values() if c.direction == way]


def _answers(program: Program, family: int) -> Iterator[Rule]:
    """Answers of the cluster's DNS, or of a cache on this node, to pods whose policies name domains."""
    asks = m.InSet(asking_set(family), ("dst",))
    servers = m.InSet(set_name(dns_set(family), family), ("src",)), m.AddrType("LOCAL", "src")
    for protocol in ("udp", "tcp") if program.asking else ():
        for server in servers:
            head = (m.Proto(protocol), m.Ports(protocol, sport="53"), asks, server)
            yield Rule((*head, m.Comment(ANSWERS)), Queue(QUEUE))


def _egress(program: Program, family: int) -> Iterator[Rule]:
    yield from _answers(program, family)
    yield Rule((REPLIES,), ACCEPT)
    yield Rule((m.AddrType("LOCAL", "src"),), ACCEPT)
    yield Rule((Itself(family),), ACCEPT)
    known = known_set(family)
    for block in program.guarded:
        network = ip_network(block, strict=False)
        if network.version == family:
            for side, at in (("src", m.Source(str(network))), ("dst", m.Destination(str(network)))):
                unknown = m.InSet(known, (side,), invert=True)
                yield Rule((at, unknown, m.Comment(UNKNOWN)), DROP)
    if program.strict:
        for side in ("src", "dst"):
            ours = m.InSet(known, (side,))
            yield Rule((m.Proto("tcp"), Midstream(), ours, m.Comment(CUT)), DROP)
    yield from _dispatch(program, "egress", "src", family)
    yield Rule((), Jump(INGRESS, goto=True))


def _ingress(program: Program, family: int) -> Iterator[Rule]:
    yield from _dispatch(program, "ingress", "dst", family)
    yield Rule((), ACCEPT)


def _dispatch(program: Program, way: Direction, side: str, family: int) -> Iterator[Rule]:
    if buckets := _buckets(program, way):
        # A pod that moves may be in two of them for a moment: what a bucket does not know returns.
        yield from (_leads(name, side, family, goto=False) for name in buckets)
    else:
        yield from (_leads(name, side, family) for name in profiles(program, way))


def _leads(name: str, side: str, family: int, *, goto: bool = True) -> Rule:
    return Rule((m.InSet(set_name(name, family), (side,)),), Jump(chain_name(name), goto))


def _bucket_chains(program: Program, family: int, way: Direction, side: str) -> list[Chain]:
    return [
        Chain(chain_name(name), tuple(_leads(c, side, family) for c in chains))
        for name, chains in _buckets(program, way).items()
    ]


def _program_chain(chain: ProgramChain, family: int) -> Chain:
    egress = chain.direction == "egress"
    rules = [r for s in chain.steps if s.family in (0, family) for r in _rules(s, family, egress)]
    if chain.name.startswith(f"{chain.direction}/"):
        rules.append(Rule((), _allowed(egress)))
    return Chain(chain_name(chain.name), tuple(rules))


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
