"""What DNS reads of Services, EndpointSlices, Namespaces, Pods and ServiceImports, and no more.

A cluster has ten times more endpoints than anything else, and memory is what kills DNS pods on a
relist, so these structs are smaller than the shared ones in ``api.service``. None of them can be
part of a cycle, so the garbage collector need not know them.
"""

import msgspec

from kubewire.api.meta import Key, Wire
from kubewire.api.resources import Resource

SERVICE_NAME = "kubernetes.io/service-name"
IMPORT_NAME = "multicluster.kubernetes.io/service-name"
SOURCE_CLUSTER = "multicluster.kubernetes.io/source-cluster"

SERVICE_IMPORTS = Resource(
    group="multicluster.x-k8s.io", version="v1alpha1", plural="serviceimports",
    kind="ServiceImport", singular="serviceimport",
)  # fmt: skip


class Meta(Wire, frozen=True, kw_only=True, gc=False):
    """Name and labels."""

    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return Key(self.namespace, self.name)


class SliceMeta(Wire, frozen=True, kw_only=True, gc=False):
    """Name and the labels that tie a slice to its Service; the others are not kept."""

    name: str
    namespace: str = ""
    labels: "SliceLabels | None" = None
    annotations: "SliceAnnotations | None" = None


class SliceAnnotations(Wire, frozen=True, kw_only=True, gc=False):
    """The annotation that says when the slice's last change was caused."""

    trigger: str = msgspec.field(
        name="endpoints.kubernetes.io/last-change-trigger-time", default=""
    )


class SliceLabels(Wire, frozen=True, kw_only=True, gc=False):
    """The labels that DNS reads."""

    service: str = msgspec.field(name=SERVICE_NAME, default="")
    imported: str = msgspec.field(name=IMPORT_NAME, default="")
    cluster: str = msgspec.field(name=SOURCE_CLUSTER, default="")


class Port(Wire, frozen=True, kw_only=True, gc=False):
    """A port of a Service or of a slice."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class IngressPoint(Wire, frozen=True, kw_only=True, gc=False):
    """status.loadBalancer.ingress[]."""

    ip: str = ""
    hostname: str = ""


class LoadBalancer(Wire, frozen=True, kw_only=True, gc=False):
    """status.loadBalancer."""

    ingress: tuple[IngressPoint, ...] | None = None


class ServiceStatus(Wire, frozen=True, kw_only=True, gc=False):
    """status of a Service."""

    load_balancer: LoadBalancer = LoadBalancer()


class ServiceSpec(Wire, frozen=True, kw_only=True, gc=False):
    """spec of a Service."""

    type: str = "ClusterIP"
    ports: tuple[Port, ...] | None = None
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: tuple[str, ...] | None = msgspec.field(name="clusterIPs", default=None)
    external_ips: tuple[str, ...] | None = msgspec.field(name="externalIPs", default=None)
    external_name: str = ""


class ServiceMeta(Wire, frozen=True, kw_only=True, gc=False):
    """Name of a Service; labels are the server's to filter."""

    name: str
    namespace: str = ""


class Service(Wire, frozen=True, kw_only=True, gc=False):
    """v1 Service."""

    metadata: ServiceMeta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def external(self) -> bool:
        """Type ExternalName."""
        return self.spec.type == "ExternalName"

    @property
    def headless(self) -> bool:
        """clusterIP None."""
        return self.spec.cluster_ip == "None" or (self.spec.cluster_ips or ("",))[0] == "None"

    @property
    def ips(self) -> tuple[str, ...]:
        """Cluster addresses of every family."""
        if self.external or self.headless:
            return ()
        found = self.spec.cluster_ips or (self.spec.cluster_ip,)
        return tuple(ip for ip in found if ip)

    @property
    def ports(self) -> tuple[Port, ...]:
        """spec.ports, never None."""
        return self.spec.ports or ()

    @property
    def outside(self) -> tuple[str, ...]:
        """externalIPs, then addresses and host names of the load balancer."""
        points = self.status.load_balancer.ingress or ()
        return (*(self.spec.external_ips or ()), *(p.ip or p.hostname for p in points))


class Conditions(Wire, frozen=True, kw_only=True, gc=False):
    """endpoints[].conditions; only ``ready`` counts, and a missing one means yes."""

    ready: bool | None = None


class Target(Wire, frozen=True, kw_only=True, gc=False):
    """endpoints[].targetRef."""

    name: str = ""


class Endpoint(Wire, frozen=True, kw_only=True, gc=False):
    """endpoints[] of a slice."""

    addresses: tuple[str, ...] = ()
    conditions: Conditions | None = None
    hostname: str | None = None
    target_ref: Target | None = None
    zone: str | None = None


class EndpointSlice(Wire, frozen=True, kw_only=True, gc=False):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: SliceMeta
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[Port, ...] | None = None

    @property
    def ready(self) -> list[Endpoint]:
        """Endpoints that are answered with."""
        if self.address_type == "FQDN":
            return []
        return [
            e
            for e in self.endpoints or ()
            if e.conditions is None or e.conditions.ready is not False
        ]

    @property
    def service(self) -> Key | None:
        """The Service that it belongs to."""
        labels = self.metadata.labels
        return Key(self.metadata.namespace, labels.service) if labels and labels.service else None

    @property
    def imported(self) -> Key | None:
        """The ServiceImport that it belongs to."""
        labels = self.metadata.labels
        return Key(self.metadata.namespace, labels.imported) if labels and labels.imported else None

    @property
    def cluster(self) -> str:
        """Where an imported slice comes from."""
        return self.metadata.labels.cluster if self.metadata.labels else ""


class Namespace(Wire, frozen=True, kw_only=True, gc=False):
    """v1 Namespace."""

    metadata: Meta


class PodIP(Wire, frozen=True, kw_only=True, gc=False):
    """status.podIPs[]."""

    ip: str = ""


class PodStatus(Wire, frozen=True, kw_only=True, gc=False):
    """status of a Pod."""

    phase: str = "Pending"
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: tuple[PodIP, ...] | None = msgspec.field(name="podIPs", default=None)


class Pod(Wire, frozen=True, kw_only=True, gc=False):
    """v1 Pod."""

    metadata: Meta
    status: PodStatus = PodStatus()

    @property
    def ips(self) -> tuple[str, ...]:
        """Addresses while the pod runs; those of a finished one may already be another's."""
        if self.status.phase in ("Succeeded", "Failed", "Unknown"):
            return ()
        found = tuple(p.ip for p in self.status.pod_ips or () if p.ip)
        return found or ((self.status.pod_ip,) if self.status.pod_ip else ())


class ImportSpec(Wire, frozen=True, kw_only=True, gc=False):
    """spec of a ServiceImport."""

    type: str = "ClusterSetIP"
    ips: tuple[str, ...] | None = None
    ports: tuple[Port, ...] | None = None


class ServiceImport(Wire, frozen=True, kw_only=True, gc=False):
    """multicluster.x-k8s.io/v1alpha1 ServiceImport."""

    metadata: ServiceMeta
    spec: ImportSpec = ImportSpec()

    @property
    def external(self) -> bool:
        """Never: kept alike with Service."""
        return False

    @property
    def headless(self) -> bool:
        """Type Headless."""
        return self.spec.type == "Headless"

    @property
    def ips(self) -> tuple[str, ...]:
        """Addresses in the cluster set."""
        return () if self.headless else tuple(ip for ip in self.spec.ips or () if ip)

    @property
    def ports(self) -> tuple[Port, ...]:
        """spec.ports, never None."""
        return self.spec.ports or ()
