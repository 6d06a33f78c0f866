"""What kube-proxy is told: KubeProxyConfiguration v1alpha1, read unchanged, and the flags above it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from socket import AF_INET, inet_pton
from typing import Any

from kubewire.kubeproxy import configfile
from kubewire.kubeproxy.ipvsoptions import IpvsOptions, read_ipvs

CONFIG_FILE = "config.conf"
"""Key of the ConfigMap that holds the configuration, as kubeadm has it."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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
    kubeconfig: str = ""
    """clientConnection.kubeconfig: how the API server is reached, unless a flag says it."""
    bind_address: str = ""
    """This node's primary address, if it is not what its Node says; nothing is bound to it."""
    healthz_bind_address: str = "0.0.0.0:10256"
    """"" turns the server off."""
    metrics_bind_address: str = "127.0.0.1:10249"
    bind_address_hard_fail: bool = False
    sync_period: float = 30.0
    min_sync_period: float = 0.0
    """Changes are applied at once: a change costs too little to be saved up."""
    ipvs: IpvsOptions = field(default_factory=IpvsOptions)
    run_dir: str = ""
    """Where a back end keeps files and sockets of this run; "": it finds a place."""

    @property
    def mark(self) -> int:
        """The bit that asks for masquerading."""
        return 1 << self.masquerade_bit

    @property
    def node_ports_on(self) -> tuple[str, ...]:
        """nodePortAddresses with the mode's default."""
        if self.node_port_addresses is not None:
            return self.node_port_addresses
        return ("primary",) if self.mode in ("nftables", "envoy") else ("all",)

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
        return version in _versions(self.cluster_cidrs)


@lru_cache(maxsize=16)
def _versions(networks: tuple[str, ...]) -> frozenset[int]:
    return frozenset(n.version for n in map(parse_network, networks) if n is not None)


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
    try:
        # It takes no other form than the canonical one, and a tenth of the time.
        inet_pton(AF_INET, address)
    except (OSError, ValueError):
        return _sloppy(address)
    return address


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address; ValueError if it is none, or one of a zone (``fe80::1%eth0``)."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return ipaddress.ip_address(sloppy(text))


def _sloppy(address: str) -> str:
    parts = address.split(".")
    if len(parts) == 4 and all(p.isdecimal() for p in parts):
        address = ".".join(str(int(p)) for p in parts)
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    # ::ffff:192.0.2.1 is but another way to write an IPv4 address.
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip)


def over(config: Config, text: str, source: str) -> Config:
    """A configuration with what a KubeProxyConfiguration says about rules over it.

    Who this node is, and where servers listen, stays as it is.
    """
    from kubewire.client.manifests import parse

    documents = parse(text, source)
    found = read(documents[0].obj if documents else {}, source)
    return replace(
        found,
        cluster_cidrs=found.cluster_cidrs or config.cluster_cidrs,
        hostname_override=config.hostname_override,
        kubeconfig=config.kubeconfig,
        bind_address=config.bind_address,
        healthz_bind_address=config.healthz_bind_address,
        metrics_bind_address=config.metrics_bind_address,
        bind_address_hard_fail=config.bind_address_hard_fail,
        run_dir=config.run_dir,
    )


def read(document: Mapping[str, Any], source: str) -> Config:
    """Read a KubeProxyConfiguration; InputError names the field."""
    found = configfile.decode(document, source)
    # Blank means "best available", which is nftables here.
    mode = found.mode or "nftables"
    # Upstream's ipvs mode masquerades as the iptables section says.
    section = getattr(found, "iptables" if mode == "ipvs" else mode) or configfile.Nftables()
    periods = getattr(found, mode) or configfile.Nftables()
    detect = found.detect_local or configfile.DetectLocal()
    given = found.node_port_addresses
    local = found.iptables.localhost_node_ports if found.iptables else None
    return Config(
        mode=mode,
        cluster_cidrs=tuple(c.strip() for c in (found.cluster_cidr or "").split(",") if c.strip()),
        detect_local=found.detect_local_mode or "ClusterCIDR",
        bridge_interface=detect.bridge_interface or "",
        interface_name_prefix=detect.interface_name_prefix or "",
        masquerade_all=bool(section.masquerade_all),
        masquerade_bit=14 if section.masquerade_bit is None else section.masquerade_bit,
        node_port_addresses=tuple(a.strip() for a in given) if given else None,
        localhost_node_ports=local is not False,
        hostname_override=(found.hostname_override or "").strip().lower(),
        kubeconfig=(found.client_connection and found.client_connection.kubeconfig) or "",
        bind_address=found.bind_address or "",
        healthz_bind_address=_bind(
            found.healthz_bind_address, found.bind_address, ("0.0.0.0", "::"), 10256
        ),
        metrics_bind_address=_bind(
            found.metrics_bind_address, found.bind_address, ("127.0.0.1", "::1"), 10249
        ),
        bind_address_hard_fail=bool(found.bind_address_hard_fail),
        sync_period=configfile.seconds(periods.sync_period, 30.0),
        min_sync_period=configfile.seconds(periods.min_sync_period, 0.0),
        ipvs=read_ipvs(document.get("ipvs") or {}, source),
    )


def _bind(given: str | None, bind_address: str | None, hosts: tuple[str, str], port: int) -> str:
    """Where a server listens: upstream's defaults follow the family of bindAddress."""
    host = given or hosts[":" in (bind_address or "")]
    if not configfile.is_ip(host):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
