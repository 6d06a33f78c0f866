"""Typed Service and EndpointSlice: what kube-proxy, DNS, ingress and the slice controller read."""

from collections.abc import Mapping

import msgspec

from kubewire.api.meta import Labels, Object, Wire


class ServicePort(Wire, frozen=True, kw_only=True):
    """spec.ports[] of a Service; ``target_port`` is a number, a name, or None (= port)."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None
    node_port: int = 0
    app_protocol: str = ""


class ClientIPConfig(Wire, frozen=True, kw_only=True):
    """sessionAffinityConfig.clientIP."""

    timeout_seconds: int = 10800


class SessionAffinityConfig(Wire, frozen=True, kw_only=True):
    """spec.sessionAffinityConfig."""

    client_ip: ClientIPConfig | None = msgspec.field(name="clientIP", default=None)


class ServiceSpec(Wire, frozen=True, kw_only=True):
    """v1 ServiceSpec."""

    type: str = "ClusterIP"
    selector: Labels | None = None
    ports: list[ServicePort] | None = None
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    ip_families: list[str] | None = None
    ip_family_policy: str = ""
    external_name: str = ""
    external_ips: list[str] | None = msgspec.field(name="externalIPs", default=None)
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    external_traffic_policy: str = ""
    internal_traffic_policy: str = ""
    health_check_node_port: int = 0
    load_balancer_source_ranges: list[str] | None = None
    load_balancer_class: str = ""
    load_balancer_ip: str = msgspec.field(name="loadBalancerIP", default="")
    allocate_load_balancer_node_ports: bool = True
    publish_not_ready_addresses: bool = False
    traffic_distribution: str = ""


class PortStatus(Wire, frozen=True, kw_only=True):
    """status.loadBalancer.ingress[].ports[]."""

    port: int
    protocol: str = "TCP"
    error: str = ""


class LoadBalancerIngress(Wire, frozen=True, kw_only=True):
    """status.loadBalancer.ingress[]."""

    ip: str = ""
    hostname: str = ""
    ip_mode: str = ""
    ports: list[PortStatus] | None = None


class LoadBalancerStatus(Wire, frozen=True, kw_only=True):
    """status.loadBalancer."""

    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(Wire, frozen=True, kw_only=True):
    """v1 ServiceStatus."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Object, frozen=True, kw_only=True):
    """v1 Service."""

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def cluster_ips(self) -> tuple[str, ...]:
        """Every cluster IP; empty for headless and ExternalName Services."""
        if self.spec.type == "ExternalName":
            return ()
        found = self.spec.cluster_ips or ([self.spec.cluster_ip] if self.spec.cluster_ip else [])
        return tuple(ip for ip in found if ip and ip != "None")

    @property
    def headless(self) -> bool:
        """clusterIP is "None"."""
        return self.spec.cluster_ip == "None"


class EndpointConditions(Wire, frozen=True, kw_only=True):
    """endpoints[].conditions; None means: see the property."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(Wire, frozen=True, kw_only=True):
    """hints.forZones[] and hints.forNodes[]."""

    name: str


class EndpointHints(Wire, frozen=True, kw_only=True):
    """endpoints[].hints."""

    for_zones: list[ForZone] | None = None
    for_nodes: list[ForZone] | None = None


class ObjectReference(Wire, frozen=True, kw_only=True):
    """endpoints[].targetRef."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class Endpoint(Wire, frozen=True, kw_only=True):
    """endpoints[] of an EndpointSlice."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None
    target_ref: ObjectReference | None = None
    hints: EndpointHints | None = None

    @property
    def ready(self) -> bool:
        """conditions.ready; missing means true."""
        return self.conditions.ready is not False

    @property
    def serving(self) -> bool:
        """conditions.serving; missing means true."""
        return self.conditions.serving is not False

    @property
    def terminating(self) -> bool:
        """conditions.terminating; missing means false."""
        return bool(self.conditions.terminating)


class EndpointPort(Wire, frozen=True, kw_only=True):
    """ports[] of an EndpointSlice."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    app_protocol: str | None = None


SERVICE_NAME = "kubernetes.io/service-name"
TRIGGERED = "endpoints.kubernetes.io/last-change-trigger-time"
"""Annotation of a slice: when the pod or Service changed that made its controller write it."""
WEIGHT = "kubewire.dev/weight"
"""Annotation of a pod or an EndpointSlice: the share of new connections that an endpoint gets.

A pod's weight reaches the proxy through its slice: the controller puts pods of one weight together.
"""
MAXIMUM_WEIGHT = 65535


def weight_of(annotations: Mapping[str, str]) -> int | None:
    """The weight that annotations ask for; None if there is none, or it is no number in range."""
    text = annotations.get(WEIGHT, "").strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return None
    return int(text) if int(text) <= MAXIMUM_WEIGHT else None


class EndpointSlice(Object, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 EndpointSlice."""

    address_type: str = "IPv4"
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None

    @property
    def service_name(self) -> str:
        """Name of the Service it belongs to; "" if it has none."""
        return self.labels.get(SERVICE_NAME, "")

    @property
    def weight(self) -> int:
        """Weight of each of its endpoints; 1 unless the annotation says otherwise."""
        found = weight_of(self.annotations)
        return 1 if found is None else found
