"""What a cluster is asked to be: the options of ``kubewire up`` as one value, and its addresses."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kubewire.api.errors import InputError
from kubewire.client.manifests import Manifest

UNDERLAY = ipaddress.IPv4Network("172.30.0.0/16")
API_PORT = 6443
DOMAIN = "cluster.local"

INGRESS_SERVICE = ("kube-system", "kubewire-ingress")


@dataclass(frozen=True, slots=True)
class Publish:
    """One ``--publish HOSTPORT:[NS/]SVC:PORT``."""

    host_port: int
    namespace: str
    service: str
    port: str
    """Number or name of a port of the Service."""

    @classmethod
    def parse(cls, text: str) -> Publish:
        """Read the flag; InputError says what is wrong."""
        host, _, rest = text.partition(":")
        service, _, port = rest.rpartition(":")
        namespace, _, name = service.rpartition("/")
        if not (host.isdigit() and int(host) < 65536 and name and port):
            raise InputError(f"--publish {text}: expected HOSTPORT:[NAMESPACE/]SERVICE:PORT")
        return cls(int(host), namespace or "default", name, port)


def parse_publish_ingress(text: str) -> tuple[Publish, ...]:
    """Read ``--publish-ingress HTTP[:HTTPS]``."""
    ports = text.split(":")
    if len(ports) > 2 or not all(p.isdigit() and int(p) < 65536 for p in ports):
        raise InputError(f"--publish-ingress {text}: expected HTTPPORT[:HTTPSPORT]")
    names = ("http", "https")
    return tuple(
        Publish(int(port), *INGRESS_SERVICE, name) for port, name in zip(ports, names, strict=False)
    )


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that ``up`` decides before the first process starts."""

    name: str
    nodes: int = 2
    pod_network: Literal["host-gw", "vxlan", "auto"] = "host-gw"
    ip_family: str = "ipv4"
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    proxy_mode: str = "nftables"
    publish: tuple[Publish, ...] = ()
    images: dict[str, list[str]] = field(default_factory=dict)
    """Image -> command of this machine; every other image is a stand-in."""
    foreground: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= 200:
            raise InputError(f"--nodes {self.nodes}: must be between 1 and 200")
        if self.proxy_mode != "none":
            from kubewire.kubeproxy import backends

            backends.require(self.proxy_mode, f"--proxy-mode {self.proxy_mode}")
        if self.ip_family != "ipv4":
            raise InputError(f"--ip-family {self.ip_family}: up has IPv4 only so far")
        self._network("--pod-cidr", self.pod_cidr)
        self._network("--service-cidr", self.service_cidr)

    @staticmethod
    def _network(flag: str, text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        try:
            return ipaddress.ip_network(text)
        except ValueError as error:
            raise InputError(f"{flag} {text}: {error}") from error

    @property
    def node_names(self) -> tuple[str, ...]:
        """node-1, node-2, ..."""
        return tuple(f"node-{i + 1}" for i in range(self.nodes))

    def node_ip(self, index: int) -> str:
        """Underlay address of a node; ``index`` counts from 0."""
        return str(UNDERLAY[10 + index])

    @property
    def gateway(self) -> str:
        """Underlay address of the sandbox itself, where the API server listens."""
        return str(UNDERLAY[1])

    @property
    def dns_ip(self) -> str:
        """ClusterIP of the DNS Service: the tenth address, as kubeadm does."""
        return str(ipaddress.ip_network(self.service_cidr)[10])

    def to_json(self) -> dict[str, Any]:
        """What other commands may want to know of a running cluster."""
        return {
            "nodes": self.nodes,
            "podNetwork": self.pod_network,
            "ipFamily": self.ip_family,
            "podCIDR": self.pod_cidr,
            "serviceCIDR": self.service_cidr,
            "proxyMode": self.proxy_mode,
            "publish": [[p.host_port, p.namespace, p.service, p.port] for p in self.publish],
        }


@dataclass(frozen=True, slots=True)
class Start:
    """What the supervisor inherits from the command line that started it."""

    options: Options
    directory: Path
    api: socket.socket
    """Listens on the host's loopback for the API server."""
    publish: tuple[tuple[Publish, socket.socket], ...]
    """Published ports and their listeners on the host."""
    manifests: tuple[Manifest, ...]
    namespace: str
    """Of objects that name none."""
    patience: float
    """Seconds until "not Ready" is a failure."""
    tell: int
    """Pipe for the bootstrap's events."""
    lifeline: int
    """Pipe whose end of file ends the cluster; -1 if detached."""
