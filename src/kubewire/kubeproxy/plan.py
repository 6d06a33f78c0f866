"""One model of Services for every back end: Services + EndpointSlices + this node -> decision table.

A ``Frontend`` is one (address, protocol, port) that clients use. For every class of source (a pod,
a process of this node, anybody else) it says what happens: balance over which endpoints, reject or
drop, with or without masquerading, and why. Back ends only spell it; ``trace`` reads it.

Rules: KEP-3453 (minimise SNAT), KEP-1669 (terminating), KEP-5495 ff.; ``semantics`` in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from socket import AF_INET, inet_pton
from typing import Literal, NamedTuple

from kubewire.api.meta import Key
from kubewire.api.service import EndpointSlice, Service, ServicePort
from kubewire.kubeproxy.config import Config, contains, parse_address, parse_network, sloppy
from kubewire.kubeproxy.topology import Choice, NodeView, Target, choose, targets

Kind = Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalIP"]
Action = Literal["balance", "reject", "drop"]
Source = Literal["pod", "node", "other"]
FOREIGN = {"service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"}
"""Labels of objects that kube-proxy must not look at."""
SCHEDULER = "kubewire.dev/ipvs-scheduler"
"""Annotation of a Service: the name of a scheduler of IPVS."""
PROTOCOL_ANNOTATION = "kubewire.dev/protocol"
"""On a Service: what all of its ports speak (http, h2c; anything else: bytes)."""
_APPLICATIONS = {
    "http": "http",
    "kubernetes.io/ws": "http",
    "h2c": "h2c",
    "kubernetes.io/h2c": "h2c",
}
SOURCES: tuple[Source, ...] = ("pod", "node", "other")


class FrontendKey(NamedTuple):
    """What a packet is addressed to."""

    address: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to a new connection of one class of source."""

    action: Action
    endpoints: tuple[Target, ...] = ()
    masquerade: bool = False
    """Always; a connection that comes back to its own source is masqueraded in any case."""
    why: str = ""
    local: bool = False
    """A Local policy narrowed the endpoints to this node's."""


@dataclass(frozen=True, slots=True)
class Frontend:
    """One address of one Service port."""

    key: FrontendKey
    kind: Kind
    service: Key
    port_name: str
    decisions: Mapping[Source, Decision]
    affinity: int | None = None
    """Seconds that a client stays with its endpoint."""
    source_ranges: tuple[str, ...] | None = None
    """loadBalancerSourceRanges of this family; None: anybody."""
    serving: frozenset[tuple[str, int]] = frozenset()
    """UDP only: where flows may stay, chosen for new ones or not; others are black holes."""
    scheduler: str = ""
    """What the Service asks of a back end that has schedulers; "": the configuration's."""
    application: str = ""
    """What it speaks, as far as it says so: ``http``, ``h2c``; only proxies of that layer care."""

    @property
    def on_node(self) -> str:
        """The address, if it belongs to Services alone: nodePorts answer on the node's own."""
        return "" if self.kind == "NodePort" else self.key.address

    @property
    def reason(self) -> str:
        """Where it comes from: ``Service ns/name port p (ClusterIP)``."""
        port = f" port {self.port_name}" if self.port_name else ""
        return f"Service {self.service}{port} ({self.kind})"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A healthCheckNodePort and what it answers."""

    service: Key
    port: int
    local_ready: int


@dataclass(slots=True)
class ServicePlan:
    """Every frontend of a node."""

    frontends: dict[FrontendKey, Frontend] = field(default_factory=dict)
    health_checks: dict[Key, HealthCheck] = field(default_factory=dict)
    cluster_ips: dict[str, Key] = field(default_factory=dict)
    """Every ClusterIP and its Service: its other ports are refused."""
    addresses: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    """Every Service and its ClusterIPs, as back ends are told."""
    conflicts: tuple[str, ...] = ()
    """Frontends that two Services claim; the older one has it."""


def plan(
    services: Iterable[Service], slices: Iterable[EndpointSlice], node: NodeView, config: Config
) -> ServicePlan:
    """Build the whole table; a pure function of the objects.

    Services and slices that are marked as somebody else's, or as headless, do not count.
    """
    services = [s for s in services if not FOREIGN & s.labels.keys()]
    slices = [s for s in slices if not FOREIGN & s.labels.keys()]
    by_service: dict[Key, list[EndpointSlice]] = {}
    for piece in slices:
        if piece.service_name:
            by_service.setdefault(Key(piece.metadata.namespace, piece.service_name), []).append(
                piece
            )
    result = ServicePlan()
    conflicts = []
    for service in sorted(services, key=lambda s: (s.metadata.creation_timestamp or "", s.key)):
        frontends, check = plan_service(service, by_service.get(service.key, ()), node, config)
        for frontend in frontends:
            taken = result.frontends.setdefault(frontend.key, frontend)
            if taken is not frontend:
                conflicts.append(
                    f"{frontend.reason}: {frontend.key.address}:{frontend.key.port}/{frontend.key.protocol} belongs to {taken.reason}"
                )
        if check:
            result.health_checks[service.key] = check
        result.addresses[service.key] = tuple(map(sloppy, service.cluster_ips))
        for ip in result.addresses[service.key]:
            result.cluster_ips.setdefault(ip, service.key)
    result.conflicts = tuple(conflicts)
    return result


def plan_service(
    service: Service,
    slices: Iterable[EndpointSlice],
    node: NodeView,
    config: Config,
    skipped: set[str] | None = None,
) -> tuple[list[Frontend], HealthCheck | None]:
    """The frontends of one Service; headless and ExternalName have none.

    ``skipped`` is told of endpoints that cannot be used: of another family, of a link, a loopback.
    """
    own = tuple(map(sloppy, service.cluster_ips))
    if not own or service.headless:
        return [], None
    pieces = list(slices)
    frontends: list[Frontend] = []
    local_ready: set[str] = set()
    versions = sorted({_version(ip) for ip in own} & {4, 6})
    for port in service.spec.ports or ():
        # A family without a ClusterIP is not the Service's: it has no nodePort there either.
        for version in versions:
            found = targets(port, pieces, node, version, skipped)
            local_ready |= {t.ip for t in found if t.local and t.ready}
            choice = choose(found, node)
            udp = found if port.protocol == "UDP" else ()
            serving = frozenset((t.ip, t.port) for t in udp if t.serving)
            frontends.extend(_frontends(service, own, port, version, choice, serving, node, config))
    check = None
    balanced = service.spec.type == "LoadBalancer" and _external_local(service)
    if service.spec.health_check_node_port and balanced:
        check = HealthCheck(service.key, service.spec.health_check_node_port, len(local_ready))
    return frontends, check


def _external_local(service: Service) -> bool:
    return service.spec.external_traffic_policy == "Local"


def _frontends(
    service: Service,
    cluster_ips: tuple[str, ...],
    port: ServicePort,
    version: int,
    choice: Choice,
    serving: frozenset[tuple[str, int]],
    node: NodeView,
    config: Config,
) -> Iterator[Frontend]:
    internal = _internal(service, choice, node, config, version)
    external = _external(service, choice, node)
    affinity = _affinity(service)
    scheduler = service.annotations.get(SCHEDULER, "").strip()
    speaks = application(service, port)

    def frontend(
        address: str,
        number: int,
        kind: Kind,
        decisions: Mapping[Source, Decision],
        ranges: tuple[str, ...] | None = None,
    ) -> Frontend:
        key = FrontendKey(address, port.protocol, number)
        return Frontend(
            key,
            kind,
            service.key,
            port.name,
            decisions,
            affinity,
            ranges,
            serving,
            scheduler,
            speaks,
        )

    for ip in cluster_ips:
        if _version(ip) == version:
            yield frontend(ip, port.port, "ClusterIP", internal)
    for ip in map(sloppy, service.spec.external_ips or ()):
        if _version(ip) == version:
            yield frontend(ip, port.port, "ExternalIP", external)
    # What has an address or a nodePort has rules for it: the API server clears both with the type.
    addresses = [
        sloppy(ingress.ip)
        for ingress in service.status.load_balancer.ingress or ()
        if ingress.ip_mode != "Proxy" and _version(sloppy(ingress.ip)) == version
    ]
    ranges = _ranges(service, version, addresses, node)
    for ip in addresses:
        yield frontend(ip, port.port, "LoadBalancer", external, ranges)
    if port.node_port:
        for ip in node_port_addresses(node, config, version):
            yield frontend(ip, port.node_port, "NodePort", external)


def _ranges(
    service: Service, version: int, addresses: Iterable[str], node: NodeView
) -> tuple[str, ...] | None:
    """The Service's source ranges of one family; None means anybody.

    A node that may talk to the load balancer may find itself translated to the load balancer's
    own address, so that one is let in too.
    """
    given = service.spec.load_balancer_source_ranges or ()
    networks = [n for n in map(parse_network, given) if n is not None and n.version == version]
    if not networks or any(n.prefixlen == 0 for n in networks):
        return None
    ranges = tuple(map(str, networks))
    primary = node.primary(version)
    if primary and contains(ranges, primary):
        length = 32 if version == 4 else 128
        ranges += tuple(f"{ip}/{length}" for ip in addresses)
    return ranges


def node_port_addresses(node: NodeView, config: Config, version: int) -> Iterator[str]:
    """The addresses of this node on which nodePorts answer."""
    wanted = config.node_ports_on
    primary = node.primary(version)
    networks = [w for w in wanted if "/" in w]
    for ip in dict.fromkeys((*node.ips, *node.addresses)):
        if _version(ip) == version and (
            "all" in wanted or ("primary" in wanted and ip == primary) or contains(networks, ip)
        ):
            yield ip
    if version == 4 and config.node_ports_on_loopback:
        yield "127.0.0.1"


def _internal(
    service: Service, choice: Choice, node: NodeView, config: Config, version: int
) -> dict[Source, Decision]:
    """ClusterIPs: everybody who is not a pod is masqueraded."""
    local = service.spec.internal_traffic_policy == "Local"
    chosen = choice.local if local else choice.cluster
    if not chosen:
        return dict.fromkeys(
            SOURCES, _nothing(choice, "internalTrafficPolicy", local=local, node=node)
        )
    why = _policy("internalTrafficPolicy", local=local, node=node, hint=choice.hint)
    knows_pods = config.knows_pods(version)
    others = Decision("balance", chosen, knows_pods or config.masquerade_all, why, local)
    return {
        "pod": Decision("balance", chosen, config.masquerade_all, why, local),
        "node": others,
        "other": others,
    }


def _external(service: Service, choice: Choice, node: NodeView) -> dict[Source, Decision]:
    """NodePorts, LoadBalancer addresses and externalIPs."""
    if not _external_local(service):
        if not choice.cluster:
            return dict.fromkeys(
                SOURCES, _nothing(choice, "externalTrafficPolicy", local=False, node=node)
            )
        why = _policy("externalTrafficPolicy", local=False, node=node, hint=choice.hint)
        return dict.fromkeys(SOURCES, Decision("balance", choice.cluster, True, why))
    outside = _nothing(choice, "externalTrafficPolicy", local=True, node=node)
    if choice.local:
        why = _policy("externalTrafficPolicy", local=True, node=node, hint="")
        outside = Decision("balance", choice.local, False, why, local=True)
    if not choice.cluster:
        return dict.fromkeys(
            SOURCES, _nothing(choice, "externalTrafficPolicy", local=False, node=node)
        )
    short = "externalTrafficPolicy Local: traffic from inside is short-circuited to all endpoints"
    return {
        "pod": Decision("balance", choice.cluster, False, short),
        "node": Decision("balance", choice.cluster, True, short),
        "other": outside,
    }


def _nothing(choice: Choice, policy: str, *, local: bool, node: NodeView) -> Decision:
    """KEP-1669: none anywhere is refused, none on this node is dropped."""
    if local and choice.everywhere:
        return Decision(
            "drop", why=f"{policy} Local and no endpoint on node {node.name or 'of the proxy'}"
        )
    return Decision("reject", why="it has no usable endpoint")


def _policy(name: str, *, local: bool, node: NodeView, hint: str) -> str:
    if local:
        return f"{name} Local: endpoints of node {node.name}"
    return f"all endpoints that {hint}" if hint else "all usable endpoints"


def application(service: Service, port: ServicePort) -> str:
    """What a port speaks: by annotation, else by appProtocol, else by the name (http, http-web)."""
    if port.protocol != "TCP":
        return ""
    asked = service.annotations.get(PROTOCOL_ANNOTATION)
    if asked is not None or port.app_protocol:
        return _APPLICATIONS.get(asked or port.app_protocol, "")
    return "http" if port.name.startswith("http") and not port.name.startswith("https") else ""


def _affinity(service: Service) -> int | None:
    if service.spec.session_affinity != "ClientIP":
        return None
    config = service.spec.session_affinity_config
    return config.client_ip.timeout_seconds if config and config.client_ip else 10800


@lru_cache(maxsize=1 << 16)
def _version(ip: str) -> int:
    try:
        inet_pton(AF_INET, ip)
    except (OSError, ValueError):
        return _version_of(ip)
    return 4


def _version_of(ip: str) -> int:
    try:
        return parse_address(ip).version
    except ValueError:
        return 0
