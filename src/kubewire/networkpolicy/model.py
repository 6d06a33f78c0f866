"""What policies mean: both kinds of policy, trimmed to one small model.

A ``Policy`` has a subject (pods), a tier and, per direction that it affects, rules in order. A rule
matches when one of its peers and one of its ports match; ``None`` stands for "any". Everything here
is hashable, so equal selectors are one value and can share one set.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, NamedTuple

import msgspec

from kubewire.api.clusternetworkpolicy import (
    ClusterIngressRule,
    ClusterNetworkPolicy,
    NamespacedPods,
    Peer,
    Protocol,
)
from kubewire.api.fielderrors import parse_cidr
from kubewire.api.meta import Key
from kubewire.api.networkpolicy import (
    AUDIT_ANNOTATION,
    LOG_ANNOTATION,
    NetworkPolicy,
    PolicyPeer,
    PolicyPort,
)
from kubewire.api.selectors import LabelSelector, Operator

Direction = Literal["ingress", "egress"]
Tier = Literal["Admin", "NetworkPolicy", "Baseline"]
Action = Literal["Accept", "Deny", "Pass"]
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Term(NamedTuple):
    """One requirement on labels."""

    key: str
    operator: Operator
    values: tuple[str, ...]


Terms = tuple[Term, ...]
"""A selector: every term must hold; () selects everything."""


def terms(selector: LabelSelector | None) -> Terms:
    """Normal form of a selector: equal selectors give equal terms. None gives ()."""
    if selector is None:
        return ()
    return tuple(
        dict.fromkeys(
            Term(r.key, r.operator, tuple(r.values or ())) for r in selector.requirements()
        )
    )


class PodSet(NamedTuple):
    """Pods by labels, in one namespace or in those that a selector matches.

    Never holds pods of the host's network nor finished ones.
    """

    namespace: str | None
    namespaces: Terms
    pods: Terms


class NodeSet(NamedTuple):
    """The addresses of the nodes with these labels."""

    nodes: Terms


class Block(NamedTuple):
    """Addresses of one family by prefix, minus some prefixes."""

    network: Network
    excepts: tuple[Network, ...] = ()

    def contains(self, address: Address) -> bool:
        """Tell whether the address is in the block and in none of the exceptions."""
        return (
            address.version == self.network.version
            and address in self.network
            and not any(address in e for e in self.excepts)
        )


class Domains(NamedTuple):
    """Addresses that DNS gave for these names; ``*.`` stands for one or more labels."""

    names: tuple[str, ...]

    def matches(self, name: str) -> bool:
        """Tell whether a name is one of these; ``*.a`` is every name below a, not a itself."""
        return any(
            name.endswith(p[1:]) and len(name) > len(p) - 1 if p.startswith("*.") else name == p
            for p in self.names
        )


Selection = PodSet | NodeSet | Block | Domains


class Ports(NamedTuple):
    """A range of ports of one protocol; the whole range stands for the protocol."""

    protocol: str
    low: int
    high: int

    @property
    def all(self) -> bool:
        """No port was given: packets of that protocol without ports match too."""
        return self.low == 0 and self.high == 65535


class NamedPort(NamedTuple):
    """A container port of the destination pod by name; protocol "" is any."""

    name: str
    protocol: str


PortMatch = Ports | NamedPort


class Rule(msgspec.Struct, frozen=True):
    """One rule of a policy; ``path`` is its place in the object."""

    path: str
    action: Action
    peers: tuple[Selection, ...] | None
    ports: tuple[PortMatch, ...] | None
    name: str = ""
    failed_closed: str = ""


class Policy(msgspec.Struct, frozen=True):
    """A policy of either kind. A direction that it does not affect is None."""

    kind: str
    key: Key
    tier: Tier
    priority: int
    subject: PodSet
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None
    audit: bool = False
    log: bool = False

    @property
    def id(self) -> str:
        """``NetworkPolicy ns/name``, as every answer names it."""
        return f"{self.kind} {self.key}"

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        """Rules of one direction."""
        return self.ingress if direction == "ingress" else self.egress

    @property
    def order(self) -> tuple[int, int, Key]:
        """Evaluation order: tier, priority, then name."""
        tiers: tuple[Tier, ...] = ("Admin", "NetworkPolicy", "Baseline")
        return tiers.index(self.tier), self.priority, self.key


def from_network_policy(policy: NetworkPolicy) -> Policy:
    """Read a v1 NetworkPolicy that upstream's validation accepts."""
    namespace = policy.metadata.namespace
    ingress = tuple(
        _rule(f"spec.ingress[{i}]", r.from_, r.ports, namespace)
        for i, r in enumerate(policy.spec.ingress or ())
    )
    egress = tuple(
        _rule(f"spec.egress[{i}]", r.to, r.ports, namespace)
        for i, r in enumerate(policy.spec.egress or ())
    )
    return Policy(
        kind="NetworkPolicy",
        key=policy.key,
        tier="NetworkPolicy",
        priority=0,
        subject=PodSet(namespace, (), terms(policy.spec.pod_selector)),
        ingress=ingress if policy.isolates_ingress else None,
        egress=egress if policy.isolates_egress else None,
        audit=policy.annotations.get(AUDIT_ANNOTATION) == "audit",
        log=policy.annotations.get(LOG_ANNOTATION) == "true",
    )


def _rule(
    path: str, peers: list[PolicyPeer] | None, ports: list[PolicyPort] | None, namespace: str
) -> Rule:
    return Rule(
        path,
        "Accept",
        tuple(p for peer in peers for p in _peer(peer, namespace)) if peers else None,
        tuple(_port(p) for p in ports) if ports else None,
    )


def _peer(peer: PolicyPeer, namespace: str) -> Iterable[Selection]:
    if peer.ip_block is not None:
        network = parse_cidr(peer.ip_block.cidr)
        excepts = [parse_cidr(e) for e in peer.ip_block.except_ or ()]
        return [Block(network, tuple(e for e in excepts if e))] if network else []
    if peer.namespace_selector is not None:
        return [PodSet(None, terms(peer.namespace_selector), terms(peer.pod_selector))]
    if peer.pod_selector is not None:
        return [PodSet(namespace, (), terms(peer.pod_selector))]
    return []


def _port(port: PolicyPort) -> PortMatch:
    protocol = port.protocol or "TCP"
    if isinstance(port.port, str):
        return NamedPort(port.port, protocol)
    if port.port is None:
        return Ports(protocol, 0, 65535)
    return Ports(protocol, port.port, port.end_port or port.port)


def from_cluster_network_policy(policy: ClusterNetworkPolicy) -> Policy:
    """Read a v1alpha2 ClusterNetworkPolicy; what is unknown in it fails closed."""
    spec = policy.spec
    subject = PodSet(None, terms(spec.subject.namespaces), ())
    if spec.subject.pods is not None:
        subject = _namespaced(spec.subject.pods)
    return Policy(
        kind="ClusterNetworkPolicy",
        key=policy.key,
        tier="Admin" if spec.tier == "Admin" else "Baseline",
        priority=spec.priority,
        subject=subject,
        ingress=tuple(
            _cluster_rule(f"spec.ingress[{i}]", r.action, _sources(r), r.protocols, r.name)
            for i, r in enumerate(spec.ingress or ())
        )
        or None,
        egress=tuple(
            _cluster_rule(f"spec.egress[{i}]", r.action, r.to, r.protocols, r.name)
            for i, r in enumerate(spec.egress or ())
        )
        or None,
        audit=policy.annotations.get(AUDIT_ANNOTATION) == "audit",
        log=policy.annotations.get(LOG_ANNOTATION) == "true",
    )


def _sources(rule: ClusterIngressRule) -> tuple[Peer, ...]:
    """Peers of from[]; the other kinds of peers are unknown there."""
    return tuple(Peer(namespaces=p.namespaces, pods=p.pods) for p in rule.from_)


def _cluster_rule(
    path: str, action: str, peers: tuple[Peer, ...], protocols: list[Protocol] | None, name: str
) -> Rule:
    ports = [_cluster_port(p) for p in protocols or ()]
    unknown = _unknown(action, peers, ports)
    if unknown:
        if action == "Accept":
            return Rule(path, "Accept", (), None, name, unknown)
        return Rule(path, "Deny", None, None, name, unknown)
    return Rule(
        path,
        action,  # type: ignore[arg-type]
        tuple(s for p in peers for s in _cluster_peer(p)),
        tuple(p for p in ports if p) if ports else None,
        name,
    )


def _unknown(action: str, peers: tuple[Peer, ...], ports: list[PortMatch | None]) -> str:
    if action not in ("Accept", "Deny", "Pass"):
        return f"unknown action {action}"
    if not peers or not all(p.known for p in peers):
        return "unknown peer"
    if action != "Accept" and any(p.domain_names for p in peers):
        return "domainNames in a rule that is not Accept"
    return "" if all(ports) else "unknown protocol"


def _namespaced(pods: NamespacedPods) -> PodSet:
    return PodSet(None, terms(pods.namespace_selector), terms(pods.pod_selector))


def _cluster_peer(peer: Peer) -> Iterable[Selection]:
    if peer.namespaces is not None:
        yield PodSet(None, terms(peer.namespaces), ())
    elif peer.pods is not None:
        yield _namespaced(peer.pods)
    elif peer.nodes is not None:
        yield NodeSet(terms(peer.nodes))
    elif peer.networks is not None:
        yield from (Block(n) for n in map(parse_cidr, peer.networks) if n)
    elif peer.domain_names is not None:
        yield Domains(tuple(n.rstrip(".").lower() for n in peer.domain_names))


def _cluster_port(protocol: Protocol) -> PortMatch | None:
    if protocol.destination_named_port:
        return NamedPort(protocol.destination_named_port, "")
    for name, spec in (("TCP", protocol.tcp), ("UDP", protocol.udp), ("SCTP", protocol.sctp)):
        if spec is None:
            continue
        port = spec.destination_port
        if port is None:
            return Ports(name, 0, 65535)
        if port.range is not None:
            return Ports(name, port.range.start, port.range.end)
        return Ports(name, port.number, port.number) if port.number else None
    return None
