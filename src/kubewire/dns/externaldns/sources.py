"""Which names Services and Ingresses ask for: annotations and hosts -> records, pure.

Both prefixes of the annotations are read; where an object has both, the newer one holds. An
object whose ``controller`` annotation names another controller is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kubewire.api.core import Node, Pod
from kubewire.api.ingress import Ingress
from kubewire.api.meta import Key
from kubewire.api.service import LoadBalancerStatus, Service
from kubewire.dns.externaldns.record import Record, normal, records

PREFIXES = ("external-dns.kubernetes.io/", "external-dns.alpha.kubernetes.io/")
CONTROLLER = "dns-controller"
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the command line says about the sources."""

    publish_internal: bool = False
    """Also ClusterIPs of Services with a ``hostname`` annotation."""
    ignore_hostname_annotation: bool = False
    ignore_ingress_tls: bool = False
    ignore_ingress_rules: bool = False
    service_types: frozenset[str] = frozenset()
    """Empty: every type."""


@dataclass(frozen=True, slots=True)
class World:
    """The objects that names are made of."""

    services: Iterable[Service] = ()
    ingresses: Iterable[Ingress] = ()
    pods: Mapping[Key, tuple[tuple[Pod, bool], ...]] = field(default_factory=dict)
    """Headless Service -> its pods that are ready, and whether the slice is."""
    nodes: Iterable[Node] = ()


def annotation(annotations: Mapping[str, str], name: str) -> str | None:
    """One annotation of ours, by either prefix."""
    return next((annotations[p + name] for p in PREFIXES if p + name in annotations), None)


def listed(annotations: Mapping[str, str], name: str) -> list[str]:
    """An annotation that is a comma separated list of names."""
    return [normal(x) for x in (annotation(annotations, name) or "").split(",") if x.strip()]


def ttl_of(annotations: Mapping[str, str]) -> int | None:
    """Seconds of the ``ttl`` annotation: a number or a Go duration; None if it is neither."""
    text = annotation(annotations, "ttl") or ""
    if re.fullmatch(r"\d{1,10}", text):
        seconds = int(text)
    else:
        parts = re.findall(r"(\d+)(ms|h|m|s)", text)
        if not parts or "".join(n + u for n, u in parts) != text:
            return None
        seconds = int(sum(int(n) * _UNITS[u] for n, u in parts))
    return seconds if 0 < seconds < 1 << 31 else None


def ours(annotations: Mapping[str, str]) -> bool:
    """Nobody else's controller is named."""
    return annotation(annotations, "controller") in (None, CONTROLLER)


def service_records(service: Service, world: World, rules: Rules) -> Iterator[Record]:
    """Every record that a Service asks for."""
    notes = service.annotations
    if not ours(notes) or (rules.service_types and service.spec.type not in rules.service_types):
        return
    ttl, resource = ttl_of(notes), f"service/{service.key}"
    hosts = [] if rules.ignore_hostname_annotation else listed(notes, "hostname")
    targets = listed(notes, "target")
    for host in hosts:
        if service.headless and not targets:
            yield from _headless(service, host, world, ttl)
            continue
        yield from records(host, targets or _outside(service, world, rules), ttl, resource)
        if service.spec.type == "NodePort" and not targets:
            yield from _node_ports(service, host, ttl)
    if not rules.ignore_hostname_annotation:
        for host in listed(notes, "internal-hostname"):
            if service.headless:
                yield from _headless(service, host, world, ttl)
            else:
                yield from records(host, service.cluster_ips, ttl, resource)


def _outside(service: Service, world: World, rules: Rules) -> list[str]:
    """Where the outside reaches a Service, by its type."""
    if service.spec.type == "LoadBalancer":
        return list(service.spec.external_ips or ()) or addresses(service.status.load_balancer)
    if service.spec.type == "ExternalName":
        return [service.spec.external_name] if service.spec.external_name else []
    if service.spec.type == "NodePort":
        return _node_addresses(service, world)
    if service.spec.external_ips:
        return list(service.spec.external_ips)
    return list(service.cluster_ips) if rules.publish_internal else []


def addresses(status: LoadBalancerStatus) -> list[str]:
    """IPs and host names of a status.loadBalancer."""
    return [x for point in status.ingress or () for x in (point.ip, point.hostname) if x]


def _node_addresses(service: Service, world: World) -> list[str]:
    """Addresses of the nodes that answer: external ones, or internal if none has any.

    The ``access`` annotation (public, private) chooses by itself.
    """
    access = annotation(service.annotations, "access")
    local = service.spec.external_traffic_policy == "Local"
    on = {p.spec.node_name for p, _ in world.pods.get(service.key, ())}
    nodes = [n for n in world.nodes if not local or n.metadata.name in on]
    external = [
        a.address for n in nodes for a in n.status.addresses or () if a.type == "ExternalIP"
    ]
    internal = [
        a.address for n in nodes for a in n.status.addresses or () if a.type == "InternalIP"
    ]
    if access == "public":
        return external
    if access == "private":
        return internal
    return external or internal


def _node_ports(service: Service, host: str, ttl: int | None) -> Iterator[Record]:
    """``_svc._proto.HOST`` SRV, so that clients find the port."""
    by_name: dict[str, list[str]] = {}
    for port in service.spec.ports or ():
        if port.node_port:
            owner = f"_{service.metadata.name}._{port.protocol.lower()}.{host}"
            by_name.setdefault(owner, []).append(f"0 50 {port.node_port} {normal(host)}.")
    for owner, targets in by_name.items():
        resource = f"service/{service.key}"
        yield Record(normal(owner), "SRV", tuple(sorted(targets)), ttl, resource)


def _headless(service: Service, host: str, world: World, ttl: int | None) -> Iterator[Record]:
    """The pods under the host name, and each that has a hostname under its own."""
    found: dict[str, list[str]] = {}
    for pod, ready in world.pods.get(service.key, ()):
        if not (ready or service.spec.publish_not_ready_addresses):
            continue
        found.setdefault(host, []).extend(pod.ips)
        if pod.spec.hostname:
            found.setdefault(f"{pod.spec.hostname}.{host}", []).extend(pod.ips)
    for name, ips in found.items():
        yield from records(name, ips, ttl, f"service/{service.key}")


def ingress_records(ingress: Ingress, rules: Rules) -> Iterator[Record]:
    """Every record that an Ingress asks for."""
    notes = ingress.annotations
    if not ours(notes):
        return
    targets = listed(notes, "target") or addresses(ingress.status.load_balancer)
    only = annotation(notes, "ingress-hostname-source")
    hosts: list[str] = []
    if only != "annotation-only":
        if not rules.ignore_ingress_rules:
            hosts += [rule.host for rule in ingress.spec.rules]
        if not rules.ignore_ingress_tls:
            hosts += [host for tls in ingress.spec.tls for host in tls.hosts]
    if only != "defined-hosts-only" and not rules.ignore_hostname_annotation:
        hosts += listed(notes, "hostname")
    for host in dict.fromkeys(normal(h) for h in hosts if h.strip()):
        yield from records(host, targets, ttl_of(notes), f"ingress/{ingress.key}")


def wanted(world: World, rules: Rules) -> Iterator[Record]:
    """The records of all objects; targets of a name are not yet merged."""
    for service in world.services:
        yield from service_records(service, world, rules)
    for ingress in world.ingresses:
        yield from ingress_records(ingress, rules)
