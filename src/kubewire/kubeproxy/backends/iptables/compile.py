"""Frontends as iptables rules: what a Service port needs of its own, and what all share.

A Service port has chains in the nat table that only it leads to (``Compiled.chains``), and a few
entries in chains that all ports share (``Compiled.entries``); their order among each other never
matters. The module ``base`` has what is there without any Service. The rules are kube-proxy's own, one by one;
where they differ, README.md says so and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from kubewire.kubeproxy.backends.iptables import names
from kubewire.kubeproxy.backends.iptables.base import (
    EXTERNAL,
    FIREWALL,
    NODEPORTS,
    REFUSED,
    SERVICES,
    TO_MASQ,
    Place,
    Setting,
    answering,
    base,
    host,
    node_port_addresses,
)
from kubewire.kubeproxy.backends.iptables.names import ServicePort
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import Decision, Frontend
from kubewire.kubeproxy.plan import Source as ClientSide
from kubewire.kubeproxy.topology import Target
from kubewire.kubeproxy.trace import endpoint_text
from kubewire.lang.iptables.matches import (
    AddrType,
    Comment,
    Destination,
    InInterface,
    Match,
    Ports,
    Proto,
    Random,
    Recent,
    Source,
)
from kubewire.lang.iptables.model import HOOKS, Chain, Rule, Table
from kubewire.lang.iptables.targets import (
    DROP,
    REJECT,
    Dnat,
    Jump,
)  # fmt: skip
from kubewire.lang.iptables.targets import (
    Target as Action,
)

_LOCAL_SOURCE = AddrType(side="src")

LARGE = 1000
"""With more endpoints than this the rules of endpoints carry no comments, as kube-proxy's."""


@dataclass(slots=True)
class Compiled:
    """What one Service port needs."""

    chains: dict[str, Chain] = field(default_factory=dict)
    """In the nat table; callees before callers."""
    entries: list[tuple[Place, Rule]] = field(default_factory=list)

    def chain(self, name: str, rules: Iterable[Rule]) -> None:
        """Add a chain."""
        self.chains[name] = Chain(name, tuple(rules))


def grouped(frontends: Iterable[Frontend]) -> dict[ServicePort, list[Frontend]]:
    """Frontends by the port that they belong to."""
    found: dict[ServicePort, list[Frontend]] = {}
    for frontend in frontends:
        found.setdefault(ServicePort.of(frontend), []).append(frontend)
    return found


def compile_port(port: ServicePort, frontends: Iterable[Frontend], setting: Setting) -> Compiled:
    """Spell all frontends of one Service port; cost follows its endpoints."""
    compiled = Compiled()
    sets: dict[bool, tuple[Target, ...]] = {}
    inside = [f for f in frontends if f.kind == "ClusterIP"]
    outside = [f for f in frontends if f.kind != "ClusterIP"]
    affinity = None
    for frontend in (*inside, *outside):
        affinity = frontend.affinity
        for decision in frontend.decisions.values():
            if decision.action == "balance":
                sets[decision.local] = decision.endpoints
    masquerading = _cluster_ips(port, inside, setting, compiled)
    if outside:
        _external(port, outside, setting, compiled)
    callers, compiled.chains = compiled.chains, {}
    ends = [_End.of(port, t) for t in dict.fromkeys(t for ends in sets.values() for t in ends)]
    for end in ends:
        compiled.chain(end.chain, _endpoint(port, end, affinity, setting))
    for local, endpoints in sets.items():
        name = _policy_chain(port, local)
        chosen = ends if len(sets) == 1 else [_End.of(port, t) for t in endpoints]
        head = masquerading.get(name, ())
        compiled.chain(name, (*head, *_balance(port, chosen, affinity, setting)))
    compiled.chains |= callers
    return compiled


class _End(NamedTuple):
    """An endpoint, as rules name it."""

    host: str
    text: str
    chain: str

    @classmethod
    def of(cls, port: ServicePort, target: Target) -> _End:
        text = endpoint_text(target)
        return cls(host(target.ip, port.version), text, port.endpoint_chain(text))


def _policy_chain(port: ServicePort, local: bool) -> str:
    return port.chain("KUBE-SVL-" if local else "KUBE-SVC-")


# -- frontends ------------------------------------------------------------------------------------


def _addressed(port: ServicePort, frontend: Frontend, comment: str, action: Action) -> Rule:
    """A rule for packets to one frontend."""
    head = Destination(host(frontend.key.address, port.version))
    return _to_port(port, frontend.key.port, comment, action, (head,))


def _to_port(
    port: ServicePort,
    number: int,
    comment: str,
    action: Action,
    head: tuple[Match, ...] = (),
    more: tuple[Match, ...] = (),
) -> Rule:
    ports = Ports(port.protocol, str(number))
    return Rule((*head, Proto(port.protocol), Comment(comment), *more, ports), action)


def _refusal(port: ServicePort, decision: Decision) -> tuple[str, Action]:
    if decision.action == "reject":
        return f"{port} has no endpoints", REJECT[port.version]
    return f"{port} has no local endpoints", DROP


def _cluster_ips(
    port: ServicePort, frontends: list[Frontend], setting: Setting, compiled: Compiled
) -> dict[str, tuple[Rule, ...]]:
    """Entries of ClusterIPs; returns what their chain says first, about masquerading."""
    first: dict[str, tuple[Rule, ...]] = {}
    for frontend in frontends:
        decision = frontend.decisions["pod"]
        comment = f"{port} cluster IP"
        if decision.action != "balance":
            refusal = _addressed(port, frontend, *_refusal(port, decision))
            compiled.entries.append((REFUSED, refusal))
            continue
        name = _policy_chain(port, decision.local)
        compiled.entries.append((SERVICES, _addressed(port, frontend, comment, Jump(name))))
        own = first.get(name, ())
        if decision.masquerade:
            first[name] = (*own, _addressed(port, frontend, comment, TO_MASQ))
        elif frontend.decisions["other"].masquerade:
            first[name] = (*own, _unless_pod(port, frontend, comment, setting))
    return first


def _unless_pod(port: ServicePort, frontend: Frontend, comment: str, setting: Setting) -> Rule:
    pods = setting.pods(port.version)
    if len(pods) != 1:
        return _addressed(port, frontend, comment, Jump(names.NOT_POD))
    rule = _addressed(port, frontend, comment, TO_MASQ)
    only = _inverted(pods[0])
    return Rule(tuple(sorted((only, *rule.matches), key=lambda m: m.rank)), TO_MASQ)


def _inverted(match: Match) -> Match:
    if isinstance(match, Source):
        return Source(match.network, invert=True)
    assert isinstance(match, InInterface)
    return InInterface(match.name, invert=True)


def _external(
    port: ServicePort, frontends: list[Frontend], setting: Setting, compiled: Compiled
) -> None:
    """NodePorts, LoadBalancer addresses and externalIPs; all are decided alike."""
    decisions = frontends[0].decisions
    other = decisions["other"]
    balanced = any(d.action == "balance" for d in decisions.values())
    if balanced:
        compiled.chain(port.chain("KUBE-EXT-"), _ext(port, decisions, setting))
    for frontend in frontends:
        if frontend.source_ranges is not None:
            _guarded(port, frontend, compiled, balanced=balanced)
        elif frontend.kind != "NodePort" and balanced:
            what = "external IP" if frontend.kind == "ExternalIP" else "loadbalancer IP"
            jump = Jump(port.chain("KUBE-EXT-"))
            compiled.entries.append((SERVICES, _addressed(port, frontend, f"{port} {what}", jump)))
        if frontend.kind != "NodePort" and other.action != "balance":
            _refused(port, frontend, other, compiled)
    _node_port(port, frontends, other, setting, compiled, balanced=balanced)


def _refused(port: ServicePort, frontend: Frontend, decision: Decision, compiled: Compiled) -> None:
    comment, action = _refusal(port, decision)
    sources: tuple[tuple[Match, ...], ...] = ((),)
    if frontend.source_ranges is not None:
        # The others are dropped by the firewall's chain, which comes after this one.
        sources = tuple((Source(r),) for r in frontend.source_ranges)
    head = Destination(host(frontend.key.address, port.version))
    for source in sources:
        rule = _to_port(port, frontend.key.port, comment, action, (*source, head))
        compiled.entries.append((EXTERNAL, rule))


def _node_port(
    port: ServicePort,
    frontends: list[Frontend],
    other: Decision,
    setting: Setting,
    compiled: Compiled,
    *,
    balanced: bool,
) -> None:
    """To endpoints one entry, whatever the node's addresses: KUBE-SERVICES leads here for those only."""
    addresses = {f.key.address: f.key.port for f in frontends if f.kind == "NodePort"}
    if not addresses:
        return
    number = next(iter(addresses.values()))
    if balanced:
        jump = Jump(port.chain("KUBE-EXT-"))
        compiled.entries.append((NODEPORTS, _to_port(port, number, str(port), jump)))
    if other.action != "balance":
        comment, action = _refusal(port, other)
        for head, more in answering(port.version, setting.config, addresses):
            rule = _to_port(port, number, comment, action, head, more)
            compiled.entries.append((EXTERNAL, rule))


def _ext(
    port: ServicePort, decisions: Mapping[ClientSide, Decision], setting: Setting
) -> Iterator[Rule]:
    """From anywhere but the Service's own address; Local policies spare others' addresses."""
    other, cluster = decisions["other"], Jump(_policy_chain(port, local=False))
    to = f"{port} external destinations"
    if other.masquerade:
        yield Rule((Comment(f"masquerade traffic for {to}"),), TO_MASQ)
        yield Rule((), cluster)
        return
    for pods in setting.pods(port.version):
        yield Rule((pods, Comment(f"pod traffic for {to}")), cluster)
    yield Rule((Comment(f"masquerade LOCAL traffic for {to}"), _LOCAL_SOURCE), TO_MASQ)
    yield Rule((Comment(f"route LOCAL traffic for {to}"), _LOCAL_SOURCE), cluster)
    if other.action == "balance":
        yield Rule((), Jump(_policy_chain(port, other.local)))


def _guarded(port: ServicePort, frontend: Frontend, compiled: Compiled, *, balanced: bool) -> None:
    """loadBalancerSourceRanges: who is not in one is not translated, and dropped for that."""
    name, comment = port.chain("KUBE-FW-"), f"{port} loadbalancer IP"
    if balanced:
        jump = Jump(port.chain("KUBE-EXT-"))
        rules = [Rule((Source(r), Comment(comment)), jump) for r in frontend.source_ranges or ()]
        last = f"other traffic to {port} will be dropped by {names.FIREWALL}"
        compiled.chain(name, (*rules, Rule((Comment(last),))))
        compiled.entries.append((SERVICES, _addressed(port, frontend, comment, Jump(name))))
    refused = f"{port} traffic not accepted by {name}"
    compiled.entries.append((FIREWALL, _addressed(port, frontend, refused, DROP)))


# -- endpoints ------------------------------------------------------------------------------------


def _balance(
    port: ServicePort, ends: Sequence[_End], affinity: int | None, setting: Setting
) -> Iterator[Rule]:
    """One jump per endpoint, each with an even chance of what is left."""
    comments: list[tuple[Match, ...]] = [
        (Comment(f"{port} -> {end.text}"),) if setting.comments else () for end in ends
    ]
    if affinity is not None:
        for end, comment in zip(ends, comments, strict=True):
            known = Recent("rcheck", end.chain, affinity, True, version=port.version)
            yield Rule((*comment, known), Jump(end.chain))
    for index, (end, comment) in enumerate(zip(ends, comments, strict=True)):
        left = len(ends) - index
        yield Rule((*comment, _dice(left)) if left > 1 else comment, Jump(end.chain))


@lru_cache(maxsize=2048)
def _dice(count: int) -> Random:
    return Random.one_in(count)


def _endpoint(
    port: ServicePort, end: _End, affinity: int | None, setting: Setting
) -> Iterator[Rule]:
    comment: tuple[Match, ...] = (Comment(str(port)),) if setting.comments else ()
    yield Rule((Source(end.host), *comment), TO_MASQ)
    known: tuple[Match, ...] = ()
    if affinity is not None:
        known = (Recent("set", end.chain, version=port.version),)
    ports = (Proto(port.protocol), *comment, *known, Ports(port.protocol))
    yield Rule(ports, Dnat(end.text))


# -- whole tables ---------------------------------------------------------------------------------


def tables(version: int, frontends: Iterable[Frontend], setting: Setting) -> dict[str, Table]:
    """Everything of one family as tables, for the tracer and for tests."""
    own = [f for f in frontends if (":" in f.key.address) is (version == 6)]
    fixed = base(version, setting, node_port_addresses(own))
    rules: dict[Place, list[Rule]] = {place: [] for place in fixed.chains}
    chains: dict[str, Chain] = {}
    for port, group in grouped(own).items():
        compiled = compile_port(port, group, setting)
        chains |= compiled.chains
        for place, rule in compiled.entries:
            rules[place].append(rule)
    found: dict[str, dict[str, Chain]] = {
        table: {hook: Chain(hook, policy="ACCEPT") for hook in HOOKS[table]}
        for table in ("mangle", "nat", "filter")
    }
    for (table, hook), rule in fixed.jumps:
        before = found[table][hook]
        found[table][hook] = Chain(hook, (*before.rules, rule), "ACCEPT")
    for (table, name), last in fixed.chains.items():
        found[table][name] = Chain(name, (*rules[table, name], *last))
    found["nat"] |= chains
    return {name: Table(name, chains) for name, chains in found.items()}


def where(frontend: Frontend, config: Config) -> list[str]:
    """Every rule that is there for a frontend's Service port, as ``iptables-save`` lists it.

    Those of other frontends of the same port are left out as far as they are theirs alone.
    """
    compiled = compile_port(ServicePort.of(frontend), [frontend], Setting(config))
    lines = [f"{table}: -A {chain} {rule.render()}" for (table, chain), rule in compiled.entries]
    return lines + [f"nat: {line}" for chain in compiled.chains.values() for line in chain.lines()]
