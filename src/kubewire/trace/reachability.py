"""Who reaches whom: every pod to every pod, judged by the plan, and what a change would alter.

    before = matrix(objects)
    after = matrix(overlay(objects, new))
    opened, closed = difference(before, after)

Ports are those that the pods declare and those that policies name, unless the caller says which.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from kubewire.api.core import Node, Pod
from kubewire.api.errors import InputError
from kubewire.api.meta import Key
from kubewire.networkpolicy.judge import Flow, Party, judge
from kubewire.networkpolicy.model import Address, Ports
from kubewire.networkpolicy.objects import Objects
from kubewire.networkpolicy.plan import Plan, PodFacts, PolicyId

PortKey = tuple[str, int]
"""(protocol, port)."""


class Cell(NamedTuple):
    """One flow between two pods."""

    source: Key
    target: Key
    protocol: str
    port: int


class Decided(NamedTuple):
    """Whether it may pass, and who says so."""

    allowed: bool
    by: str
    reason: str


Matrix = Mapping[Cell, Decided]


def ports_of(objects: Iterable[Objects]) -> list[PortKey]:
    """Every port that policies name, and TCP 80 for all that they do not."""
    found: set[PortKey] = {("TCP", 80)}
    for plan in (plan_of(o) for o in objects):
        for policy in plan.policies.values():
            for rule in (*(policy.ingress or ()), *(policy.egress or ())):
                numbers = (p for p in rule.ports or () if isinstance(p, Ports) and not p.all)
                found |= {(p.protocol, end) for p in numbers for end in (p.low, p.high)}
    return sorted(found)


def plan_of(objects: Objects) -> Plan:
    """Plan of a set of objects."""
    return Plan.of(objects.policies, objects.pods, objects.namespaces, objects.nodes)


def matrix(
    objects: Objects, ports: Iterable[PortKey] | None = None, *, declared: bool = True
) -> dict[Cell, Decided]:
    """Judge every pod to every other pod, on these ports and (``declared``) the target's own."""
    plan = plan_of(objects)
    wanted = list(ports) if ports is not None else ports_of([objects])
    pods = [p for p in plan.pods.values() if not p.finished]
    tried = {b.key: sorted({*wanted, *((t, n) for _, t, n in b.ports if declared)}) for b in pods}
    return {
        Cell(a.key, b.key, protocol, port): _decide(plan, a, b, protocol, port)
        for a in pods
        for b in pods
        for protocol, port in tried[b.key]
        if a.key != b.key
    }


def _decide(plan: Plan, a: PodFacts, b: PodFacts, protocol: str, port: int) -> Decided:
    family = next(
        (x for x in a.addresses if any(x.version == y.version for y in b.addresses)), None
    )
    flow = Flow(_party(a, family), _party(b, family), protocol, port)
    egress = judge(plan, flow, "egress")
    if egress.verdict == "deny":
        return Decided(False, egress.policy or "", egress.reason)
    ingress = judge(plan, flow, "ingress")
    last = ingress if ingress.policy else egress
    return Decided(ingress.verdict == "allow", last.policy or "", last.reason)


def _party(pod: PodFacts, family: Address | None) -> Party:
    mine = (a for a in pod.addresses if family is None or a.version == family.version)
    node = pod.node if pod.host_network else ""
    return Party(str(pod.key), pod, next(mine, None), node, on_node=pod.host_network)


def difference(before: Matrix, after: Matrix) -> tuple[list[Cell], list[Cell]]:
    """Flows that open and flows that close; flows of pods that only one side has do not count."""
    both = [c for c in before if c in after]
    opened = [c for c in both if after[c].allowed and not before[c].allowed]
    closed = [c for c in both if before[c].allowed and not after[c].allowed]
    return sorted(opened), sorted(closed)


def overlay(objects: Objects, new: Objects) -> Objects:
    """Apply objects over others: the same kind and name is replaced, but what runs stays running."""

    def merged(field: str) -> list[object]:
        old = {(type(o), o.key): o for o in getattr(objects, field)}
        for one in getattr(new, field):
            place = (type(one), one.key)
            old[place] = _running(old[place], one) if place in old else one
        return list(old.values())

    return Objects(**{f: merged(f) for f in msgspec.structs.asdict(objects)})  # type: ignore[arg-type]


def without(objects: Objects, policies: Iterable[PolicyId]) -> Objects:
    """The objects without some policies; InputError names one that is not there."""
    gone = set(policies)
    there = {(type(p).__name__, p.key) for p in objects.policies}
    for kind, key in sorted(gone - there):
        raise InputError(f'{kind} "{key}" not found')
    kept = [p for p in objects.policies if (type(p).__name__, p.key) not in gone]
    return msgspec.structs.replace(objects, policies=kept)


def _running(old: object, new: object) -> object:
    """A manifest knows neither addresses nor the node of the pod that it is applied to."""
    if isinstance(old, Node) and isinstance(new, Node) and not new.status.addresses:
        blocks = new.spec if new.pod_cidrs else old.spec
        return msgspec.structs.replace(new, spec=blocks, status=old.status)
    if isinstance(old, Pod) and isinstance(new, Pod) and not new.ips:
        node = new.spec.node_name or old.spec.node_name
        spec = msgspec.structs.replace(new.spec, node_name=node)
        return msgspec.structs.replace(new, spec=spec, status=old.status)
    return new
