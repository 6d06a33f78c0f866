"""What a cluster is asked to be: the options of ``kubewire up`` as one value, and its addresses."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kubewire.api.errors import InputError
from kubewire.client.manifests import Manifest
from kubewire.cluster.addresses import MASKS, Addresses, addresses, networks

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
    pod_network: Literal["host-gw", "vxlan", "auto", "wireguard"] = "host-gw"
    cni: Literal["library", "exec"] = "library"
    """How the kubelets call the CNI plugin: in their own process, or as a program."""
    ip_family: Literal["ipv4", "ipv6", "dual"] = "ipv4"
    pod_cidr: str = ""
    """Ranges with commas, one per family; "" is the default of the families."""
    service_cidr: str = ""
    node_cidr_mask_size: int = 0
    """For both families, in place of the two below."""
    node_cidr_mask_size_ipv4: int = MASKS[4]
    node_cidr_mask_size_ipv6: int = MASKS[6]
    vxlan_vni: int = 1
    vxlan_port: int = 8472
    mtu: int = 0
    """Of pods; 0: what fits the way between nodes."""
    non_masquerade_cidr: str = ""
    """Ranges beside the pods' own to which pods go with their own address."""
    proxy_mode: str = "nftables"
    lb_pool: tuple[str, ...] = ()
    """Addresses, ranges ``A-B`` and networks for Services of type LoadBalancer."""
    policy_backend: Literal["nftables", "iptables"] = "nftables"
    max_container_restart_period: float = 300.0
    """Seconds; what the back-off of crashing containers grows to."""
    policy_strict: bool = False
    """A changed policy cuts established flows that it forbids."""
    publish: tuple[Publish, ...] = ()
    images: dict[str, list[str]] = field(default_factory=dict)
    """Image -> command of this machine; every other image is a stand-in."""
    foreground: bool = False
    addresses: Addresses = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= 200:
            raise InputError(f"--nodes {self.nodes}: must be between 1 and 200")
        if self.proxy_mode != "none":
            from kubewire.kubeproxy import backends

            backends.require_machine(self.proxy_mode, f"--proxy-mode {self.proxy_mode}")
        if self.lb_pool:
            from kubewire.controllermanager.loadbalancer import Pool

            Pool(self.lb_pool)
        if self.policy_backend != "nftables":
            from kubewire.networkpolicy import backends as policy_backends

            policy_backends.require(self.policy_backend)
        found = addresses(
            self.ip_family, self.pod_cidr, self.service_cidr, self._masks(), self.nodes
        )
        object.__setattr__(self, "addresses", found)
        networks("--non-masquerade-cidr", self.non_masquerade_cidr)
        # IPv6 does not work over links with less than 1280 bytes (RFC 8200, section 5).
        least = 1280 if 6 in found.versions else 576
        if self.mtu and not least <= self.mtu <= 65535:
            raise InputError(f"--mtu {self.mtu}: must be between {least} and 65535")

    def _masks(self) -> dict[int, int]:
        if size := self.node_cidr_mask_size:
            if self.ip_family == "dual":
                raise InputError(
                    f"--node-cidr-mask-size {size}: of one family only; with --ip-family dual use "
                    "--node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6"
                )
            return dict.fromkeys(MASKS, size)
        return {4: self.node_cidr_mask_size_ipv4, 6: self.node_cidr_mask_size_ipv6}

    @property
    def node_names(self) -> tuple[str, ...]:
        """node-1, node-2, ..."""
        return tuple(f"node-{i + 1}" for i in range(self.nodes))

    def node_ips(self, index: int) -> tuple[str, ...]:
        """Underlay addresses of a node; ``index`` counts from 0."""
        return tuple(map(str, self.addresses.node(index)))

    @property
    def gateways(self) -> tuple[str, ...]:
        """Underlay addresses of the sandbox itself; the API server listens on all of them."""
        return tuple(map(str, self.addresses.gateways))

    @property
    def dns_ips(self) -> tuple[str, ...]:
        """ClusterIPs of the DNS Service."""
        return tuple(map(str, self.addresses.dns))

    def to_json(self) -> dict[str, Any]:
        """What other commands may want to know of a running cluster."""
        return {
            "nodes": self.nodes,
            "podNetwork": self.pod_network,
            "cni": self.cni,
            "ipFamilies": list(self.addresses.families),
            "podCIDRs": list(self.addresses.cluster_cidrs),
            "serviceCIDRs": list(self.addresses.service_cidrs),
            "proxyMode": self.proxy_mode,
            "lbPool": list(self.lb_pool),
            "policyBackend": self.policy_backend,
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
