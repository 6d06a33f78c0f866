"""Who decides about one packet: the plan asked for a source, a destination and a port.

The packet is judged as the kernel sees it after destination NAT: at the source's node (egress) and
at the destination's node (ingress). Both must allow.
"""

from ipaddress import ip_network
from typing import Literal

import msgspec

from kubewire.networkpolicy.model import (
    Address,
    Block,
    Direction,
    Domains,
    NamedPort,
    NodeSet,
    PodSet,
    Policy,
    PortMatch,
    Rule,
    Selection,
    Term,
    Terms,
)
from kubewire.networkpolicy.plan import Plan, PodFacts, Profile

Outcome = Literal["allow", "deny"]

UNNUMBERED = (ip_network("10.244.0.0/16"),)
"""Where a pod without an address will get one: a block matches it only if it holds all of this."""


class Party(msgspec.Struct, frozen=True):
    """One end of a flow: a pod, a node's address, or any other address.

    ``fixed``: the question named this address, not the pod.
    """

    text: str
    pod: PodFacts | None = None
    address: Address | None = None
    node: str = ""
    on_node: bool = False
    fixed: bool = False
    name: str = ""
    """The domain name by which it was asked for."""

    @property
    def subject(self) -> PodFacts | None:
        """The pod that policies may select, if it is one."""
        return self.pod if self.pod and self.pod.selectable else None


class Judgement(msgspec.Struct, frozen=True):
    """The verdict of one direction and the one policy and rule that decided it."""

    verdict: Outcome
    reason: str
    policy: str | None = None
    rule: str | None = None
    policies: tuple[str, ...] = ()
    audit: str | None = None


class Flow(msgspec.Struct, frozen=True):
    """A packet after destination NAT; ``port`` None for protocols without ports."""

    source: Party
    target: Party
    protocol: str
    port: int | None
    established: bool = False

    def other(self, direction: Direction) -> Party:
        """The peer, seen from the pod that is judged."""
        return self.target if direction == "egress" else self.source

    def own(self, direction: Direction) -> Party:
        """The end that is judged."""
        return self.source if direction == "egress" else self.target


def party(plan: Plan, address: Address, text: str = "") -> Party:
    """Who has an address: a pod that policies may select, a node, or somebody else."""
    for key in sorted(plan.by_address.get(address, ())):
        return Party(str(key), plan.pods[key], address, fixed=True)
    node = plan.node_of_address.get(address)
    return Party(
        text or str(address), None, address, node or "", on_node=node is not None, fixed=True
    )


def judge(plan: Plan, flow: Flow, direction: Direction) -> Judgement:
    """Decide one direction of a flow."""
    own, other = flow.own(direction), flow.other(direction)
    if own.pod is not None and own.pod.finished:
        return Judgement("allow", f"{own.text} has finished: no policy applies to it")
    pod = own.subject
    if pod is None:
        what = "is on the host's network" if own.on_node else "is not a pod"
        return Judgement("allow", f"{own.text} {what}: no policy applies to its {direction}")
    if other.subject is not None and other.subject.key == pod.key:
        return Judgement("allow", "a pod always reaches itself")
    if other.on_node and other.node and other.node == pod.node:
        way = "reaches it" if direction == "ingress" else "is reached by it"
        return Judgement("allow", f"{other.text} is on the pod's own node, which always {way}")
    profile = plan.profile(pod.key, direction)
    if not profile:
        return Judgement("allow", f"no policy selects {own.text} for {direction}")
    decided = _enforced(plan, profile, flow)
    if profile.audit:
        return msgspec.structs.replace(decided, audit=_audited(plan, profile, flow))
    return decided


def _enforced(plan: Plan, profile: Profile, flow: Flow) -> Judgement:
    own = flow.own(profile.direction).text
    for tier in ("admin", "network", "baseline"):
        policies = [plan.policies[i] for i in getattr(profile, tier)]
        for policy in policies:
            for rule in policy.rules(profile.direction) or ():
                reason = _match(plan, rule, flow, profile.direction)
                if reason is None:
                    continue
                if rule.action == "Pass":
                    break
                verdict: Outcome = "allow" if rule.action == "Accept" else "deny"
                return Judgement(verdict, reason, policy.id, rule.path, (policy.id,))
            else:
                continue
            break
        if tier == "network" and policies:
            return _isolated(policies, profile.direction, own, flow)
    if profile.admin or profile.baseline:
        return Judgement("allow", f"no rule that applies to {own} matches")
    return Judgement("allow", f"no policy that is enforced selects {own} for {profile.direction}")


def _isolated(policies: list[Policy], direction: Direction, own: str, flow: Flow) -> Judgement:
    names = tuple(p.id for p in policies)
    others = f" (nor in {', '.join(names[1:])})" if names[1:] else ""
    packet = flow.protocol if flow.port is None else f"{flow.protocol} {flow.port}"
    way = "to" if direction == "egress" else "from"
    return Judgement(
        "deny",
        f"{names[0]} isolates {own} for {direction} and no rule in it{others} allows "
        f"{packet} {way} {flow.other(direction).text}",
        names[0],
        None,
        names,
    )


def _audited(plan: Plan, profile: Profile, flow: Flow) -> str | None:
    """Name the policy in audit mode that would deny the flow if it were enforced."""
    rehearsed = _enforced(plan, plan.rehearsed(profile), flow)
    if rehearsed.verdict == "allow" or (rehearsed.rule is None and profile.network):
        return None
    audited = {plan.policies[i].id for i in profile.audit}
    return rehearsed.policy if rehearsed.policy in audited else None


def _match(plan: Plan, rule: Rule, flow: Flow, direction: Direction) -> str | None:
    """Say why the rule matches; None if it does not."""
    if rule.failed_closed and rule.action == "Deny":
        return f"{rule.path}: {rule.failed_closed}, so it denies everything"
    ports = _match_ports(rule.ports, flow)
    if ports is None:
        return None
    peer = "any peer"
    if rule.peers is not None:
        found = next((p for p in rule.peers if _holds(plan, p, flow, direction)), None)
        if found is None:
            return None
        peer = describe(found)
    name = f" ({rule.name})" if rule.name else ""
    verb = {"Accept": "allows", "Deny": "denies", "Pass": "passes"}[rule.action]
    return f"{rule.path}{name} {verb} {peer} on {ports}"


def _holds(plan: Plan, selection: Selection, flow: Flow, direction: Direction) -> bool:
    party = flow.other(direction)
    pod = party.subject
    if isinstance(selection, Block) and party.address is None and pod is not None:
        return any(
            n.version == selection.network.version
            and n.subnet_of(selection.network)  # type: ignore[arg-type]
            and not any(n.overlaps(e) for e in selection.excepts)
            for n in UNNUMBERED
        )
    return plan.holds(selection, pod, party.address, name=party.name, established=flow.established)


def _match_ports(ports: tuple[PortMatch, ...] | None, flow: Flow) -> str | None:
    if ports is None:
        return "any port"
    for match in ports:
        if isinstance(match, NamedPort):
            if flow.port in named_port(flow.target.subject, match, flow.protocol):
                return f"port {match.name}"
        elif match.protocol == flow.protocol:
            if match.all:
                return f"any {match.protocol} port"
            if flow.port is not None and match.low <= flow.port <= match.high:
                span = f"{match.low}" if match.low == match.high else f"{match.low}-{match.high}"
                return f"{match.protocol} {span}"
    return None


def named_port(pod: PodFacts | None, match: NamedPort, protocol: str) -> set[int]:
    """Numbers that a port's name stands for on a pod."""
    if pod is None or (match.protocol and match.protocol != protocol):
        return set()
    return {n for name, proto, n in pod.ports if name == match.name and proto == protocol}


def describe(selection: Selection) -> str:
    """Say a peer in words."""
    if isinstance(selection, PodSet):
        pods = f"pods {_terms(selection.pods)}" if selection.pods else "all pods"
        if selection.namespace is not None:
            return f"{pods} in namespace {selection.namespace}"
        where = (
            f"namespaces {_terms(selection.namespaces)}"
            if selection.namespaces
            else "all namespaces"
        )
        return f"{pods} in {where}"
    if isinstance(selection, NodeSet):
        return f"nodes {_terms(selection.nodes)}" if selection.nodes else "all nodes"
    if isinstance(selection, Domains):
        return f"domain names {', '.join(selection.names)}"
    if selection.excepts:
        return f"{selection.network} except {', '.join(map(str, selection.excepts))}"
    return str(selection.network)


def _terms(selector: Terms) -> str:
    return ",".join(map(_term, selector))


def _term(term: Term) -> str:
    values = ",".join(term.values)
    match term.operator:
        case "In":
            return f"{term.key}={values}" if len(term.values) == 1 else f"{term.key} in ({values})"
        case "NotIn":
            return f"{term.key} notin ({values})"
        case "DoesNotExist":
            return f"!{term.key}"
    return term.key
