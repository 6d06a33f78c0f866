"""Raw objects -> what a plan needs; malformed ones are InputErrors that name place and field.

Only what would make a rule wrong is refused: fields that nothing here reads may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from kubewire.api.core import Node, Pod
from kubewire.api.errors import InputError
from kubewire.api.fielderrors import located
from kubewire.api.meta import JSON
from kubewire.api.service import EndpointSlice, Service
from kubewire.kubeproxy.config import parse_address, parse_network

T = TypeVar("T")
Where = Callable[[str], str]
"""Field -> ``FILE[document N] kind ns/name: field``."""

PROTOCOLS = ("SCTP", "TCP", "UDP")
POLICIES = ("", "Cluster", "Local")


@dataclass(slots=True)
class Objects:
    """Every object that an answer may need."""

    services: list[Service] = field(default_factory=list)
    slices: list[EndpointSlice] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    service_cidrs: list[str] = field(default_factory=list)


def read(sources: Iterable[tuple[JSON, Where]]) -> Objects:
    """Decode what matters and skip other kinds; of two objects of one name the later holds."""
    found: dict[tuple[str, str, str], tuple[JSON, Where]] = {}
    for raw, where in sources:
        obj, kind = _named(raw, where), raw.get("kind", "")
        meta = obj["metadata"]
        found[kind, meta.get("namespace") or "", meta["name"]] = (obj, where)
    objects = Objects()
    for (kind, _, _), (obj, where) in found.items():
        _add(objects, kind, obj, where)
    return objects


def _named(obj: JSON, where: Where) -> JSON:
    meta = obj.get("metadata")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str) or not meta["name"]:
        raise InputError(f"{where('metadata.name')}: Required value")
    if not isinstance(meta.get("namespace") or "", str):
        raise InputError(f"{where('metadata.namespace')}: Invalid value: must be a string")
    if obj.get("kind") in ("Service", "EndpointSlice", "Pod") and not meta.get("namespace"):
        meta = {**meta, "namespace": "default"}
    return {**obj, "metadata": meta}


def _add(objects: Objects, kind: str, obj: JSON, where: Where) -> None:
    if kind == "Service":
        service = _typed(obj, Service, where)
        _refuse(_service_faults(service), where)
        objects.services.append(service)
    elif kind == "EndpointSlice":
        piece = _typed(obj, EndpointSlice, where)
        _refuse(_slice_faults(piece), where)
        objects.slices.append(piece)
    elif kind == "Node":
        objects.nodes.append(_typed(obj, Node, where))
    elif kind == "Pod":
        objects.pods.append(_typed(obj, Pod, where))
    elif kind == "ServiceCIDR":
        cidrs = (obj.get("spec") or {}).get("cidrs") or ()
        objects.service_cidrs.extend(map(str, cidrs))


def _typed(obj: JSON, type_: type[T], where: Where) -> T:
    try:
        return msgspec.convert(obj, type_)
    except msgspec.ValidationError as error:
        text, place = located(error)
        raise InputError(f"{where(place or 'object')}: {text}") from error


def _refuse(faults: Iterator[tuple[str, str]], where: Where) -> None:
    for name, text in faults:
        raise InputError(f"{where(name)}: {text}")


def _service_faults(service: Service) -> Iterator[tuple[str, str]]:
    spec = service.spec
    for index, port in enumerate(spec.ports or ()):
        place = f"spec.ports[{index}]"
        yield from _port(f"{place}.port", port.port)
        yield from _one_of(f"{place}.protocol", port.protocol, PROTOCOLS)
        if port.node_port:
            yield from _port(f"{place}.nodePort", port.node_port)
    types = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    yield from _one_of("spec.type", spec.type, types)
    yield from _one_of("spec.sessionAffinity", spec.session_affinity, ("ClientIP", "None", ""))
    yield from _one_of("spec.internalTrafficPolicy", spec.internal_traffic_policy, POLICIES)
    yield from _one_of("spec.externalTrafficPolicy", spec.external_traffic_policy, POLICIES)
    for index, ip in enumerate(service.cluster_ips):
        yield from _address(
            f"spec.clusterIPs[{index}]" if spec.cluster_ips else "spec.clusterIP", ip
        )
    for index, ip in enumerate(spec.external_ips or ()):
        yield from _address(f"spec.externalIPs[{index}]", ip)
    for index, cidr in enumerate(spec.load_balancer_source_ranges or ()):
        if parse_network(cidr) is None:
            fault = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            yield f"spec.loadBalancerSourceRanges[{index}]", f'Invalid value: "{cidr}": {fault}'
    affinity = spec.session_affinity_config
    if affinity and affinity.client_ip and not 0 < affinity.client_ip.timeout_seconds <= 86400:
        seconds = affinity.client_ip.timeout_seconds
        fault = "must be greater than 0 and less than 86400"
        yield (
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            f"Invalid value: {seconds}: {fault}",
        )
    for index, ingress in enumerate(service.status.load_balancer.ingress or ()):
        if ingress.ip:
            yield from _address(f"status.loadBalancer.ingress[{index}].ip", ingress.ip)
        place = f"status.loadBalancer.ingress[{index}].ipMode"
        yield from _one_of(place, ingress.ip_mode, ("", "Proxy", "VIP"))
    yield from _doubles(service)


def _doubles(service: Service) -> Iterator[tuple[str, str]]:
    """Ports of which one would hide the other."""
    ports = service.spec.ports or ()
    for suffix, keys in (
        ("", [f"{p.port}/{p.protocol}" for p in ports]),
        (".name", [p.name and f'"{p.name}"' for p in ports]),
    ):
        for index, key in enumerate(keys):
            if key and key in keys[:index]:
                yield f"spec.ports[{index}]{suffix}", f"Duplicate value: {key}"


def _slice_faults(piece: EndpointSlice) -> Iterator[tuple[str, str]]:
    yield from _one_of("addressType", piece.address_type, ("FQDN", "IPv4", "IPv6"))
    for index, port in enumerate(piece.ports or ()):
        if port.port is not None:
            yield from _port(f"ports[{index}].port", port.port)
        yield from _one_of(f"ports[{index}].protocol", port.protocol or "TCP", PROTOCOLS)
    if piece.address_type != "FQDN":
        for index, endpoint in enumerate(piece.endpoints or ()):
            for number, ip in enumerate(endpoint.addresses):
                yield from _address(f"endpoints[{index}].addresses[{number}]", ip)


def _port(name: str, port: int) -> Iterator[tuple[str, str]]:
    if not 0 < port < 65536:
        yield name, f"Invalid value: {port}: must be between 1 and 65535, inclusive"


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if value not in allowed:
        known = ", ".join(f'"{a}"' for a in allowed if a)
        yield name, f'Unsupported value: "{value}": supported values: {known}'


def _address(name: str, ip: str) -> Iterator[tuple[str, str]]:
    if not is_address(ip):
        yield (
            name,
            f'Invalid value: "{ip}": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
        )


def is_address(value: Any) -> bool:
    """Tell whether it is an IP address, however sloppily written."""
    try:
        parse_address(value)
    except (ValueError, TypeError):
        return False
    return True
