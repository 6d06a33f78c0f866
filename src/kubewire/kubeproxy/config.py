"""What kube-proxy is told: KubeProxyConfiguration v1alpha1, read unchanged, and the flags above it.

Fields that nothing here acts on are accepted if upstream has them; an unknown one is an error that
names it (strict decoding, as upstream).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from kubewire.api.errors import InputError
from kubewire.kubeproxy.ipvsoptions import IpvsOptions, read_ipvs

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TEXTS = (
    "bindAddress",
    "clusterCIDR",
    "configSyncPeriod",
    "healthzBindAddress",
    "hostnameOverride",
    "metricsBindAddress",
    "mode",
    "portRange",
    "showHiddenMetricsForVersion",
)
_KNOWN = {
    "apiVersion", "kind", "bindAddressHardFail", "clientConnection", "conntrack", "detectLocal", "detectLocalMode", "enableProfiling",
    "featureGates", "iptables", "ipvs", "linux", "logging", "nftables", "nodePortAddresses", "oomScoreAdj", "syncPeriod", "minSyncPeriod",
    "udpIdleTimeout", "windowsRunAsService", "winkernel", "metadata", *_TEXTS,
}  # fmt: skip
MODES = ("nftables", "iptables", "ipvs", "envoy")
DETECT = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")


@dataclass(frozen=True, slots=True)
class Config:
    """The decisions that change what rules mean."""

    mode: str = "nftables"
    cluster_cidrs: tuple[str, ...] = ()
    """Where pods have their addresses; a family without one cannot tell pods from others."""
    detect_local: str = "ClusterCIDR"
    bridge_interface: str = ""
    """detectLocalMode BridgeInterface: pods' packets come in by it."""
    interface_name_prefix: str = ""
    """detectLocalMode InterfaceNamePrefix: pods' packets come in by such interfaces."""
    masquerade_all: bool = False
    masquerade_bit: int = 14
    node_port_addresses: tuple[str, ...] | None = None
    """CIDRs, "primary", "localhost", "all"; None: the mode's default."""
    localhost_node_ports: bool = True
    hostname_override: str = ""
    sync_period: float = 30.0
    min_sync_period: float = 1.0
    ipvs: IpvsOptions = field(default_factory=IpvsOptions)

    @property
    def mark(self) -> int:
        """The bit that asks for masquerading."""
        return 1 << self.masquerade_bit

    @property
    def node_ports_on(self) -> tuple[str, ...]:
        """nodePortAddresses with the mode's default."""
        if self.node_port_addresses is not None:
            return self.node_port_addresses
        return ("primary",) if self.mode == "nftables" else ("all",)

    @property
    def node_ports_on_loopback(self) -> bool:
        """Whether IPv4 nodePorts answer on 127.0.0.1.

        As upstream: in iptables mode whatever covers it does; the others must be told by name.
        """
        wanted = self.node_ports_on
        if self.mode == "iptables":
            covered = "all" in wanted or contains((w for w in wanted if "/" in w), "127.0.0.1")
            return self.localhost_node_ports and ("localhost" in wanted or covered)
        networks = [n for n in map(parse_network, wanted) if n is not None]
        return self.mode != "ipvs" and (
            "localhost" in wanted or any(n.version == 4 and n.is_loopback for n in networks)
        )

    def knows_pods(self, version: int) -> bool:
        """Tell whether pods of an IP family can be told from others."""
        if self.detect_local in ("BridgeInterface", "InterfaceNamePrefix"):
            return True
        networks = map(parse_network, self.cluster_cidrs)
        return any(n is not None and n.version == version for n in networks)


def contains(networks: Iterable[str], address: str) -> bool:
    """Tell whether an address lies in one of the networks of its own family."""
    ip = ipaddress.ip_address(address)
    return any(
        ip in n for n in map(parse_network, networks) if n is not None and n.version == ip.version
    )


@lru_cache(maxsize=4096)
def parse_network(text: str) -> Network | None:
    """Read a CIDR as upstream's sloppy parser does: blanks and leading zeros are fine."""
    text = text.strip()
    address, slash, length = text.partition("/")
    try:
        return ipaddress.ip_network(sloppy(address) + slash + length, strict=False)
    except ValueError:
        return None


@lru_cache(maxsize=1 << 16)
def sloppy(address: str) -> str:
    """The canonical form of an address; "010.0.0.1" and blanks around it are fine.

    What is no address stays as it is.
    """
    address = address.strip()
    parts = address.split(".")
    if len(parts) == 4 and all(p.isdecimal() for p in parts):
        address = ".".join(str(int(p)) for p in parts)
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def read(document: Mapping[str, Any], source: str) -> Config:
    """Read a KubeProxyConfiguration; InputError names the field."""
    if document.get("kind") != "KubeProxyConfiguration":
        raise InputError(
            f"{source}: kind: expected KubeProxyConfiguration, not {document.get('kind')!r}"
        )
    for name in document:
        if name not in _KNOWN:
            raise InputError(f'{source}: strict decoding error: unknown field "{name}"')
    # Blank means "best available", which is nftables here.
    mode = str(document.get("mode") or "nftables")
    if mode not in MODES:
        raise InputError(
            f'{source}: mode: must be {",".join(MODES)} or blank (blank means the best-available proxy [currently iptables]), not "{mode}"'
        )
    detect = str(document.get("detectLocalMode") or "ClusterCIDR")
    if detect not in DETECT:
        raise InputError(f"{source}: detectLocalMode: must be {','.join(DETECT)}, not {detect!r}")
    section = document.get(mode) or {}
    addresses = document.get("nodePortAddresses")
    return Config(
        mode=mode,
        cluster_cidrs=_networks(str(document.get("clusterCIDR") or ""), source),
        detect_local=detect,
        masquerade_all=bool(section.get("masqueradeAll")),
        masquerade_bit=int(section["masqueradeBit"])
        if section.get("masqueradeBit") is not None
        else 14,
        node_port_addresses=tuple(map(str, addresses)) if addresses else None,
        localhost_node_ports=section.get("localhostNodePorts") is not False,
        hostname_override=str(document.get("hostnameOverride") or ""),
        ipvs=read_ipvs(document.get("ipvs") or {}, source),
    )


def _networks(text: str, source: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for part in found:
        if parse_network(part) is None:
            raise InputError(
                f"{source}: clusterCIDR: must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48), not {part!r}"
            )
    return found


def with_cluster_cidrs(config: Config, cidrs: Iterable[str]) -> Config:
    """The same, told where the pods are."""
    return replace(config, cluster_cidrs=tuple(cidrs))
