"""The decision table of one Service on one node, and why each of its endpoints is in or out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kubewire.api.errors import InputError
from kubewire.api.meta import JSON, Key
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.plan import SOURCES, Frontend, ServicePlan
from kubewire.kubeproxy.topology import Target, pod_name, refused, targets
from kubewire.kubeproxy.trace import Tracer, endpoint_text


def explained(
    tracer: Tracer,
    key: Key,
    source: str | None = None,
    connections: Iterable[Sequence[Any]] | None = None,
) -> JSON:
    """Everything that the plan says about a Service; InputError if there is none of that name.

    ``connections`` are those that the node's kernel tracks: (address, protocol, port, end).
    """
    service = next((s for s in tracer.objects.services if s.key == key), None)
    if service is None:
        raise InputError(f'services "{key.name}" not found in namespace "{key.namespace}"')
    classes = SOURCES if source is None else (tracer.source_class(source),)
    frontends = [f for f in tracer.plan.frontends.values() if f.service == key]
    note = ""
    if not frontends:
        what = "headless" if service.headless else service.spec.type
        note = f"nothing is programmed for it: it is {what} or has no address here"
    return {
        "service": str(key),
        "node": tracer.node.name,
        "note": note,
        "frontends": [
            _frontend(f, classes)
            | {"kernel": _where(f, tracer), "connections": _counted(f, connections)}
            for f in frontends
        ],
        "endpoints": list(_endpoints(tracer, key)),
        "conflicts": _conflicts(tracer.plan, key),
    }


def _where(frontend: Frontend, tracer: Tracer) -> list[str]:
    if tracer.config.mode not in backends.built():
        return []
    return backends.where(frontend, tracer.config)


def _counted(
    frontend: Frontend, connections: Iterable[Sequence[Any]] | None
) -> dict[str, int] | None:
    """Tracked connections by endpoint; None where no kernel was looked at."""
    if connections is None:
        return None
    key = tuple(frontend.key)
    return dict(Counter(end for *to, end in connections if tuple(to) == key))


def _frontend(frontend: Frontend, classes: tuple[str, ...]) -> JSON:
    decisions = [
        {
            "from": source,
            "action": decision.action,
            "endpoints": list(map(endpoint_text, decision.endpoints)),
            "masquerade": decision.masquerade,
            "why": decision.why,
        }
        for source, decision in frontend.decisions.items()
        if source in classes
    ]
    return {
        "kind": frontend.kind,
        "address": frontend.key.address,
        "protocol": frontend.key.protocol,
        "port": frontend.key.port,
        "portName": frontend.port_name,
        "sticky": frontend.affinity,
        "sourceRanges": frontend.source_ranges,
        "decisions": decisions,
    }


def _endpoints(tracer: Tracer, key: Key) -> Iterator[JSON]:
    service = next(s for s in tracer.objects.services if s.key == key)
    slices = [
        s
        for s in tracer.objects.slices
        if s.metadata.namespace == key.namespace and s.service_name == key.name
    ]
    used = {
        (t.ip, t.port)
        for f in tracer.plan.frontends.values()
        if f.service == key
        for d in f.decisions.values()
        for t in d.endpoints
    }
    for port in service.spec.ports or ():
        for version in (4, 6):
            for target in targets(port, slices, tracer.node, version):
                chosen = (target.ip, target.port) in used
                yield {
                    "address": endpoint_text(target),
                    "portName": port.name,
                    "pod": target.pod or None,
                    "local": target.local,
                    "in": chosen,
                    "why": _why(target, chosen=chosen),
                }
        for piece, endpoint, why in refused(port, slices):
            yield {
                "address": next(iter(endpoint.addresses), ""),
                "portName": port.name,
                "pod": pod_name(piece, endpoint.target_ref) or None,
                "local": False,
                "in": False,
                "why": why,
            }


def _why(target: Target, *, chosen: bool) -> str:
    if target.ready:
        return "ready" if chosen else "ready, but hints or a Local policy leave it out on this node"
    if target.terminating and target.serving:
        end = "nothing is ready, so it still serves" if chosen else "others are ready"
        return f"terminating: {end}"
    return "conditions.ready is false"


def _conflicts(plan: ServicePlan, key: Key) -> list[str]:
    return [text for text in plan.conflicts if text.startswith(f"Service {key} ")]
