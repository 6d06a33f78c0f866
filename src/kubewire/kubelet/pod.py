"""A Pod as the kubelet reads it: the whole PodSpec that some part here acts on, and its status.

Durations are floats: the API has whole seconds, but probes below a second are often asked for
(kubernetes#76951) and cost nothing here.
"""

from typing import Any

import msgspec

from kubewire.api.core import ContainerPort, PodIP
from kubewire.api.meta import Condition, Key, ObjectMeta, Wire

Pairs = list[dict[str, Any]]


class HTTPHeader(Wire, frozen=True, kw_only=True):
    """httpGet.httpHeaders[]."""

    name: str
    value: str = ""


class HTTPGet(Wire, frozen=True, kw_only=True):
    """A httpGet action; ``port`` is a number or the name of a container port."""

    port: int | str
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: list[HTTPHeader] | None = None


class TCPSocket(Wire, frozen=True, kw_only=True):
    """A tcpSocket action."""

    port: int | str
    host: str = ""


class GRPC(Wire, frozen=True, kw_only=True):
    """A grpc action; the port has no name here."""

    port: int
    service: str | None = None


class Exec(Wire, frozen=True, kw_only=True):
    """An exec action."""

    command: tuple[str, ...] = ()


class Sleep(Wire, frozen=True, kw_only=True):
    """A sleep action of a hook."""

    seconds: float = 0


class Probe(Wire, frozen=True, kw_only=True):
    """A readiness, liveness or startup probe; the properties apply the defaults."""

    http_get: HTTPGet | None = None
    tcp_socket: TCPSocket | None = None
    grpc: GRPC | None = None
    exec_: Exec | None = msgspec.field(name="exec", default=None)
    initial_delay_seconds: float = 0
    period_seconds: float | None = None
    timeout_seconds: float | None = None
    success_threshold: int | None = None
    failure_threshold: int | None = None
    termination_grace_period_seconds: float | None = None

    @property
    def period(self) -> float:
        """Seconds between probes, 10 by default."""
        return self.period_seconds or 10.0

    @property
    def timeout(self) -> float:
        """Seconds that one probe may take, 1 by default."""
        return self.timeout_seconds or 1.0

    @property
    def successes(self) -> int:
        """Consecutive successes that count, 1 by default."""
        return self.success_threshold or 1

    @property
    def failures(self) -> int:
        """Consecutive failures that count, 3 by default."""
        return self.failure_threshold or 3


class Handler(Wire, frozen=True, kw_only=True):
    """A lifecycle hook."""

    http_get: HTTPGet | None = None
    tcp_socket: TCPSocket | None = None
    exec_: Exec | None = msgspec.field(name="exec", default=None)
    sleep: Sleep | None = None


class Hooks(Wire, frozen=True, kw_only=True):
    """container.lifecycle."""

    post_start: Handler | None = None
    pre_stop: Handler | None = None


class KeyRef(Wire, frozen=True, kw_only=True):
    """configMapKeyRef and secretKeyRef."""

    name: str = ""
    key: str = ""
    optional: bool = False


class FieldRef(Wire, frozen=True, kw_only=True):
    """fieldRef."""

    field_path: str = ""


class ResourceFieldRef(Wire, frozen=True, kw_only=True):
    """resourceFieldRef."""

    resource: str = ""
    container_name: str = ""


class EnvSource(Wire, frozen=True, kw_only=True):
    """env[].valueFrom."""

    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None


class EnvVar(Wire, frozen=True, kw_only=True):
    """env[]."""

    name: str
    value: str = ""
    value_from: EnvSource | None = None


class EnvFrom(Wire, frozen=True, kw_only=True):
    """envFrom[]."""

    prefix: str = ""
    config_map_ref: KeyRef | None = None
    secret_ref: KeyRef | None = None


class VolumeMount(Wire, frozen=True, kw_only=True):
    """volumeMounts[]."""

    name: str
    mount_path: str
    sub_path: str = ""
    read_only: bool = False


class Container(Wire, frozen=True, kw_only=True):
    """A container, whole enough to run it."""

    name: str = ""
    image: str = ""
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    working_dir: str = ""
    ports: list[ContainerPort] | None = None
    env: list[EnvVar] | None = None
    env_from: list[EnvFrom] | None = None
    volume_mounts: list[VolumeMount] | None = None
    resources: dict[str, Any] | None = None
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Hooks | None = None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    restart_policy: str | None = None
    termination_message_path: str = ""
    termination_message_policy: str = "File"

    @property
    def is_sidecar(self) -> bool:
        """An init container that keeps running (KEP-753)."""
        return self.restart_policy == "Always"

    @property
    def probes(self) -> dict[str, Probe]:
        """Probe type -> probe, only those that are there."""
        found = {
            "startup": self.startup_probe,
            "liveness": self.liveness_probe,
            "readiness": self.readiness_probe,
        }
        return {kind: probe for kind, probe in found.items() if probe is not None}

    def port(self, port: int | str) -> int:
        """Number of a port given by number or name. Raises LookupError as the kubelet says it."""
        if isinstance(port, int):
            return port
        for declared in self.ports or ():
            if declared.name == port:
                return declared.container_port
        if port.isdigit():
            return int(port)
        raise LookupError(f"port {port} not found")


class HostAlias(Wire, frozen=True, kw_only=True):
    """spec.hostAliases[]."""

    ip: str = ""
    hostnames: tuple[str, ...] = ()


class DNSOption(Wire, frozen=True, kw_only=True):
    """spec.dnsConfig.options[]."""

    name: str = ""
    value: str | None = None


class DNSConfig(Wire, frozen=True, kw_only=True):
    """spec.dnsConfig."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[DNSOption, ...] = ()


class ReadinessGate(Wire, frozen=True, kw_only=True):
    """spec.readinessGates[]."""

    condition_type: str


class Spec(Wire, frozen=True, kw_only=True):
    """PodSpec."""

    node_name: str = ""
    host_network: bool = False
    hostname: str = ""
    subdomain: str = ""
    set_hostname_as_fqdn: bool = msgspec.field(name="setHostnameAsFQDN", default=False)
    service_account_name: str = ""
    restart_policy: str = "Always"
    termination_grace_period_seconds: float | None = None
    active_deadline_seconds: float | None = None
    dns_policy: str = "ClusterFirst"
    dns_config: DNSConfig | None = None
    host_aliases: list[HostAlias] | None = None
    enable_service_links: bool = True
    readiness_gates: list[ReadinessGate] | None = None
    init_containers: tuple[Container, ...] | None = None
    containers: tuple[Container, ...] = ()
    ephemeral_containers: tuple[Container, ...] | None = None
    volumes: list[dict[str, Any]] | None = None

    @property
    def inits(self) -> tuple[Container, ...]:
        """Init containers, never None."""
        return self.init_containers or ()

    @property
    def ephemerals(self) -> tuple[Container, ...]:
        """Ephemeral containers (``kubectl debug``), never None."""
        return self.ephemeral_containers or ()

    @property
    def everything(self) -> tuple[Container, ...]:
        """Every container, of whatever sort."""
        return (*self.inits, *self.containers, *self.ephemerals)

    @property
    def grace(self) -> float:
        """terminationGracePeriodSeconds, 30 by default."""
        value = self.termination_grace_period_seconds
        return 30.0 if value is None else value


class Status(Wire, frozen=True, kw_only=True):
    """PodStatus as it is on the API server: read to go on after a restart of the agent."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    start_time: str | None = None
    pod_ips: list[PodIP] | None = msgspec.field(name="podIPs", default=None)
    conditions: list[Condition] | None = None
    container_statuses: Pairs | None = None
    init_container_statuses: Pairs | None = None
    ephemeral_container_statuses: Pairs | None = None


class Meta(ObjectMeta, frozen=True, kw_only=True):
    """ObjectMeta with the field that only the kubelet needs."""

    deletion_grace_period_seconds: float | None = None


class Pod(Wire, frozen=True, kw_only=True):
    """v1 Pod as the kubelet reads it."""

    metadata: Meta
    spec: Spec = Spec()
    status: Status = Status()

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return Key(self.metadata.namespace, self.metadata.name)

    @property
    def uid(self) -> str:
        """metadata.uid."""
        return self.metadata.uid

    @property
    def annotations(self) -> dict[str, str]:
        """metadata.annotations, never None."""
        return self.metadata.annotations or {}

    @property
    def is_deleted(self) -> bool:
        """Deletion was asked for."""
        return self.metadata.deletion_timestamp is not None

    @property
    def is_finished(self) -> bool:
        """Phase Succeeded or Failed."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def hostname(self) -> str:
        """What `hostname` says in the pod: at most 63 characters, no trailing dash or dot."""
        return self.spec.hostname or self.metadata.name[:63].rstrip("-.")

    def owner(self, kind: str) -> bool:
        """Whether its controller is of that kind."""
        return any(o.controller and o.kind == kind for o in self.metadata.owner_references or ())
