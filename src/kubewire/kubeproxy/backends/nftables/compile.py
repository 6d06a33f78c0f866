"""Services as nftables: a few chains by *shape*, and maps that hold everything else.

A packet's (address . protocol . port) leads by a verdict map to a chain that says how many
endpoints there are and how to treat the source; the endpoint itself comes from one big map by
(address . protocol . port . index). Ten thousand Services with ten endpoints each need one such
chain; a change of a Service touches its elements only.

```
services4:  daddr . proto . dport          -> goto SHAPE
endpoints4: daddr . proto . dport . index  -> address . port      index 0.. cluster, 65536.. local
sticky4:    the same of Services with affinity, behind the Service's own port
SHAPE:      [source is a pod | of this node]  mark?  dnat to ... numgen random mod N map @endpoints4
```

Hooks: sources of LoadBalancers are checked before DNAT; DNAT in prerouting and output; what has no
endpoint is refused in the filter hooks (a nat chain cannot reject); masquerading in postrouting by
the mark set at DNAT time, and for connections that come back to their own pod.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, inet_pton
from typing import NamedTuple

from kubewire.kubeproxy.config import Config, parse_network
from kubewire.kubeproxy.plan import SOURCES, Decision, Frontend, FrontendKey, Source
from kubewire.kubeproxy.proxier import Stay
from kubewire.kubeproxy.topology import Target
from kubewire.lang.nftables import readback
from kubewire.lang.nftables.expressions import (
    ACCEPT,
    DPORT,
    DROP,
    IIFNAME,
    IP_DADDR,
    L4PROTO,
    RETURN,
    ChangeMark,
    CtState,
    CtStatus,
    FibLocal,
    Load,
    MarkSet,
    Masquerade,
    Match,
    Numgen,
    Reject,
    Verdict,
)
from kubewire.lang.nftables.families import ADDRESS, DADDR, FAMILY, SADDR
from kubewire.lang.nftables.lookups import DnatMap, Lookup, RememberingDnat, StickyDnat, Vmap
from kubewire.lang.nftables.model import PRIORITIES, Chain, Data, Rule, Set, Table
from kubewire.lang.nftables.types import (
    INDEX,
    PORT,
    PROTO,
    ifname_bytes,
    integer_bytes,
    ip_bytes,
    port_bytes,
    proto_bytes,
)
from kubewire.lang.packet import PROTOCOLS

NAME = "kubewire-proxy"
LOCAL = 1 << 16
"""Indexes of the local endpoint set begin here."""
REMEMBERED = 1 << 20
"""Clients whose endpoints are remembered, in each family: one more than that would get nowhere."""
VERSIONS = (4, 6)
REFUSE = "refuse"
GUARD = "guard-loopback"
"""Keeps others off 127.0.0.0/8, which route_localnet opens for nodePorts."""
LOOPBACK = "loopback"

Elements = dict[str, dict[bytes, Data]]
"""Set name -> its elements."""

_KEYS: dict[int, tuple[Load, ...]] = {v: (DADDR[v], L4PROTO, DPORT) for v in VERSIONS}


class Part(NamedTuple):
    """How one class of source is treated."""

    action: str
    size: int = 0
    local: bool = False
    masquerade: bool = False

    def __str__(self) -> str:
        if self.action != "balance":
            return self.action
        return f"{'l' if self.local else 'c'}{self.size}{'m' if self.masquerade else ''}"


class Shape(NamedTuple):
    """What a chain must do; frontends of equal shape share it."""

    version: int
    parts: tuple[Part, ...]
    """For pods, processes of this node, others; a single one if all are alike."""
    affinity: int | None = None

    @property
    def chain(self) -> str:
        """Name of its chain."""
        sticky = f"-sticky{self.affinity}" if self.affinity is not None else ""
        return f"ipv{self.version}-{'-'.join(map(str, self.parts))}{sticky}"


@dataclass(slots=True)
class Compiled:
    """What one frontend needs."""

    elements: Elements = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, Set] = field(default_factory=dict)


def compile_frontend(frontend: Frontend, config: Config) -> Compiled:
    """Spell one frontend; cost follows its endpoints."""
    version = 6 if ":" in frontend.key.address else 4
    key = frontend_key(frontend)
    compiled = Compiled()
    add = _adder(compiled.elements, version)
    actions = {frontend.decisions[s].action for s in SOURCES}
    if actions == {"reject"}:
        add("refused", key, Verdict("goto", REFUSE))
    elif actions == {"drop"}:
        add("refused", key, DROP)
    else:
        _balance(frontend, key, version, config, compiled)
    if frontend.source_ranges is not None:
        chain, ranges = _firewall(frontend, version)
        compiled.chains |= {chain.name: chain} | _FIREWALLS
        compiled.sets[ranges.name] = ranges
        add("firewall", key, Verdict("goto", chain.name))
    return compiled


def where(frontend: Frontend, config: Config) -> list[str]:
    """Every element of the table that is there for a frontend, and the chain that it leads to."""
    base = base_table(config)
    compiled = compile_frontend(frontend, config)
    sets = {**base.sets, **compiled.sets}
    lines = [
        f"element {name}: {readback.element_text(readback.kind_of(sets[name]), key, data)}"
        for name, elements in compiled.elements.items()
        for key, data in elements.items()
    ]
    return lines + [
        f"rule {chain.name}: {rule.render()}"
        for chain in compiled.chains.values()
        if not chain.hook
        for rule in chain.rules
    ]


def frontend_key(frontend: Frontend) -> bytes:
    """daddr . proto . dport."""
    key = frontend.key
    return (
        ip_bytes(key.address) + proto_bytes(PROTOCOLS[key.protocol.lower()]) + port_bytes(key.port)
    )


def _adder(elements: Elements, version: int) -> Callable[[str, bytes, Data], None]:
    def add(name: str, key: bytes, data: Data) -> None:
        elements.setdefault(f"{name}{version}", {})[key] = data

    return add


def _balance(
    frontend: Frontend, key: bytes, version: int, config: Config, compiled: Compiled
) -> None:
    add = _adder(compiled.elements, version)
    decisions = [frontend.decisions[source] for source in SOURCES]
    sets = _sets(decisions)
    parts = [_part(decision, sets) for decision in decisions]
    # Hot: a full sync comes here for every endpoint of every frontend.
    kind = "endpoints" if frontend.affinity is None else "sticky"
    ends = compiled.elements.setdefault(f"{kind}{version}", {}) if sets else {}
    family = AF_INET6 if version == 6 else AF_INET
    lead = b"" if frontend.affinity is None else _port(frontend.key.port)
    # The first set is indexed from 0; a second one can only be the other of cluster, local.
    for second, endpoints in enumerate(sets):
        packed = [lead + inet_pton(family, t.ip) + _port(t.port) for t in endpoints]
        keys = map(key.__add__, _indexes(len(packed), local=bool(second)))
        ends.update(zip(keys, packed, strict=True))
        for target in endpoints:
            if target.near:
                add("hairpin", ip_bytes(target.ip) * 2, None)
        if frontend.affinity is not None:
            for data in packed:
                add("local-valid" if second else "valid", key + data[4:], None)
    shape = Shape(version, (parts[0],) if len(set(parts)) == 1 else tuple(parts), frontend.affinity)
    chain = shape_chain(
        shape,
        config.mark,
        _pods(config.detect_local, config.bridge_interface, config.interface_name_prefix, version),
    )
    compiled.chains[chain.name] = chain
    add("services", key, _goto(chain.name))


_port = lru_cache(maxsize=1024)(port_bytes)


@lru_cache(maxsize=1024)
def _goto(chain: str) -> Verdict:
    return Verdict("goto", chain)


@lru_cache(maxsize=256)
def _indexes(count: int, *, local: bool) -> tuple[bytes, ...]:
    first = LOCAL if local else 0
    return tuple(integer_bytes(index) for index in range(first, first + count))


def _sets(decisions: Iterable[Decision]) -> list[tuple[Target, ...]]:
    """The different sets of endpoints; compared, for a hash would look at every field of all."""
    found: list[tuple[Target, ...]] = []
    for decision in decisions:
        if decision.action == "balance" and decision.endpoints not in found:
            found.append(decision.endpoints)
    return found


def _part(decision: Decision, sets: list[tuple[Target, ...]]) -> Part:
    if decision.action != "balance":
        return Part("drop")
    ends = decision.endpoints
    return Part("balance", len(ends), ends != sets[0], decision.masquerade)


@lru_cache(maxsize=64)
def _pods(detect: str, bridge: str, prefix: str, version: int) -> Match | Lookup:
    """How a packet of a pod is known: by its address, or by the interface that it comes in by."""
    if detect == "BridgeInterface":
        return Match(IIFNAME, ifname_bytes(bridge))
    if detect == "InterfaceNamePrefix":
        return Match(IIFNAME, prefix.encode())
    return Lookup((SADDR[version],), f"pods{version}")


@lru_cache(maxsize=4096)
def shape_chain(shape: Shape, mark: int, pods: Match | Lookup) -> Chain:
    """The rules of a shape."""
    rules: list[Rule] = []
    sources: tuple[Source | None, ...] = (None,) if len(shape.parts) == 1 else SOURCES
    for source, part in zip(sources, shape.parts, strict=True):
        condition = _condition(source, pods)
        if part.action != "balance":
            rules.append(Rule((*condition, DROP), "no endpoint on this node"))
            continue
        marked = (*condition, ChangeMark(mark)) if part.masquerade else condition
        for dnat in _dnats(shape, part):
            rules.append(Rule((*marked, dnat), f"to one of {part.size}"))
    return Chain(shape.chain, tuple(rules))


def _condition(source: Source | None, pods: Match | Lookup) -> tuple[object, ...]:
    if source == "pod":
        return (pods,)
    return (FibLocal(source=True),) if source == "node" else ()


def _dnats(shape: Shape, part: Part) -> tuple[object, ...]:
    version = shape.version
    choice = (*_KEYS[version], Numgen(part.size, LOCAL if part.local else 0))
    if shape.affinity is None:
        return (DnatMap(choice, f"endpoints{version}", version),)
    memory, valid = f"affinity{version}", f"{'local-' if part.local else ''}valid{version}"
    return (
        StickyDnat(SADDR[version], _KEYS[version], memory, valid, shape.affinity, version),
        RememberingDnat(
            SADDR[version], choice, f"sticky{version}", memory, shape.affinity, version
        ),
    )


def _firewall(frontend: Frontend, version: int) -> tuple[Chain, Set]:
    ranges = frontend.source_ranges or ()
    name = hashlib.sha256(",".join(ranges).encode()).hexdigest()[:12]
    chain = Chain(
        f"sources{version}-{name}",
        (
            Rule(
                (Lookup((SADDR[version],), f"range{version}-{name}"), RETURN),
                "loadBalancerSourceRanges",
            ),
            Rule((DROP,), "not in loadBalancerSourceRanges"),
        ),
    )
    return chain, interval_set(f"range{version}-{name}", version, ranges)


def _firewalls() -> Iterable[Chain]:
    """Only where there are source ranges: a hook costs every packet something."""
    new = CtState(("new",))
    rules = tuple(Rule((FAMILY[v], new, Vmap(_KEYS[v], f"firewall{v}"))) for v in VERSIONS)
    for hook in ("prerouting", "output"):
        yield Chain(f"firewall-{hook}", rules, "filter", hook, PRIORITIES["dstnat"] - 10)


_FIREWALLS = {chain.name: chain for chain in _firewalls()}


def interval_set(name: str, version: int, networks: Iterable[str]) -> Set:
    """A set of networks; overlapping ones are merged."""
    import ipaddress

    parsed = [n for n in map(parse_network, networks) if n is not None and n.version == version]
    merged = ipaddress.collapse_addresses(parsed)  # type: ignore[type-var]
    elements: dict[bytes, Data] = {
        n.network_address.packed: n.broadcast_address.packed for n in merged
    }
    return Set(name, (ADDRESS[version],), elements=elements, interval=True)


_NAMES = {number: name.upper() for name, number in PROTOCOLS.items()}


def remembered(version: int, key: bytes, data: bytes) -> Stay:
    """What an element of an affinity map says."""
    size = 4 if version == 4 else 16
    client, address = (str(ip_address(key[at : at + size])) for at in (0, size))
    protocol = _NAMES[key[2 * size]]
    port = int.from_bytes(key[2 * size + 4 : 2 * size + 6], "big")
    end = str(ip_address(data[4 : 4 + size])), int.from_bytes(data[4 + size : 6 + size], "big")
    return Stay(FrontendKey(address, protocol, port), client, end)


def memory(stay: Stay) -> tuple[bytes, bytes]:
    """Key and value of such an element."""
    frontend, (ip, port) = stay.frontend, stay.endpoint
    key = ip_bytes(stay.client) + ip_bytes(frontend.address)
    key += proto_bytes(PROTOCOLS[frontend.protocol.lower()]) + port_bytes(frontend.port)
    return key, port_bytes(frontend.port) + ip_bytes(ip) + port_bytes(port)


def base_table(config: Config, service_cidrs: Iterable[str] = ()) -> Table:
    """The table without any Service: base chains and empty maps."""
    cidrs = tuple(service_cidrs)
    sets: dict[str, Set] = {}
    for version in VERSIONS:
        address = ADDRESS[version]
        frontend = (address, PROTO, PORT)
        for one in (
            Set(f"services{version}", frontend, verdicts=True),
            Set(f"refused{version}", frontend, verdicts=True),
            Set(f"firewall{version}", frontend, verdicts=True),
            Set(f"endpoints{version}", (*frontend, INDEX), (address, PORT)),
            Set(f"hairpin{version}", (address, address)),
            Set(f"valid{version}", (*frontend, address, PORT)),
            Set(f"local-valid{version}", (*frontend, address, PORT)),
            Set(f"sticky{version}", (*frontend, INDEX), (PORT, address, PORT)),
            Set(
                f"affinity{version}",
                (address, *frontend),
                (PORT, address, PORT),
                dynamic=True,
                size=REMEMBERED,
            ),
            Set(f"cluster-ips{version}", (address,)),
            interval_set(f"pods{version}", version, config.cluster_cidrs),
            interval_set(f"service-range{version}", version, cidrs),
        ):
            sets[one.name] = one
    if config.node_ports_on_loopback:
        sets[LOOPBACK] = interval_set(LOOPBACK, 4, ["127.0.0.0/8"])
    return Table(NAME, "inet", sets, {c.name: c for c in _base_chains(config)})


def _base_chains(config: Config) -> Iterable[Chain]:
    new = CtState(("new",))
    yield Chain(REFUSE, (Rule((Reject(),)),))
    if config.node_ports_on_loopback:
        # Before anything is translated back: only what was sent so can still have this address.
        outside = (Match(IIFNAME, ifname_bytes("lo"), equal=False), FAMILY[4])
        own = Lookup((IP_DADDR,), LOOPBACK)
        rule = Rule((*outside, own, DROP), "127.0.0.0/8 from outside (CVE-2020-8558)")
        yield Chain(GUARD, (rule,), "filter", "prerouting", PRIORITIES["raw"])
    services = tuple(Rule((FAMILY[v], Vmap(_KEYS[v], f"services{v}"))) for v in VERSIONS)
    for hook in ("prerouting", "output"):
        yield Chain(f"nat-{hook}", services, "nat", hook, PRIORITIES["dstnat"])
    # Nearly all packets belong to connections that were judged: one rule for them, not six.
    known = Rule((CtState(("established", "related")), ACCEPT))
    refused = [known, *(Rule((FAMILY[v], new, Vmap(_KEYS[v], f"refused{v}"))) for v in VERSIONS)]
    unknown = [rule for v in VERSIONS for rule in _unknown(v, new)]
    yield Chain("filter-input", tuple(refused), "filter", "input", PRIORITIES["filter"] - 10)
    for hook in ("forward", "output"):
        yield Chain(
            f"filter-{hook}", (*refused, *unknown), "filter", hook, PRIORITIES["filter"] - 10
        )
    yield Chain(
        "nat-postrouting", tuple(_masquerading(config)), "nat", "postrouting", PRIORITIES["srcnat"]
    )


def _unknown(version: int, new: CtState) -> Iterable[Rule]:
    """Ports that a ClusterIP does not have are refused, addresses that nobody has are dropped."""
    daddr = (_KEYS[version][0],)
    yield Rule(
        (FAMILY[version], new, Lookup(daddr, f"cluster-ips{version}"), Verdict("goto", REFUSE)),
        "no such port of this ClusterIP",
    )
    yield Rule(
        (FAMILY[version], new, Lookup(daddr, f"service-range{version}"), DROP),
        "no Service has this ClusterIP",
    )


def _masquerading(config: Config) -> Iterable[Rule]:
    yield Rule(
        (MarkSet(config.mark), ChangeMark(config.mark, on=False), Masquerade()), "masquerade"
    )
    for version in VERSIONS:
        pair = (SADDR[version], _KEYS[version][0])
        yield Rule(
            (FAMILY[version], CtStatus("dnat"), Lookup(pair, f"hairpin{version}"), Masquerade()),
            "hairpin",
        )


def with_frontends(
    base: Table, frontends: Iterable[Frontend], cluster_ips: Iterable[str], config: Config
) -> Table:
    """The whole table of these frontends."""
    return assembled(base, (compile_frontend(f, config) for f in frontends), cluster_ips)


def assembled(base: Table, compiled: Iterable[Compiled], cluster_ips: Iterable[str]) -> Table:
    """The base and everything that was compiled, as one table."""
    elements: Elements = {}
    chains = dict(base.chains)
    sets = dict(base.sets)
    for one in compiled:
        chains |= one.chains
        sets |= one.sets
        for name, found in one.elements.items():
            elements.setdefault(name, {}).update(found)
    for ip in cluster_ips:
        elements.setdefault(f"cluster-ips{6 if ':' in ip else 4}", {})[ip_bytes(ip)] = None
    for name, found in elements.items():
        sets[name] = replace(sets[name], elements=found)
    return replace(base, sets=sets, chains=chains)
