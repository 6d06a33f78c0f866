"""What a node's cache is: its Corefile, its addresses, the packets that bypass conntrack; pure.

Pods keep their nameserver (the ClusterIP of the DNS Service) or are given the link-local address:
the cache answers at both. Packets of both ways are not tracked, so that neither kube-proxy's DNAT
nor a full conntrack table, nor its race between the A and AAAA of one socket (kubernetes#56903),
stands between a pod and its cache. What the cache does not know goes on by TCP.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from kubewire.api.errors import InputError
from kubewire.lang.nftables.expressions import (
    DPORT,
    L4PROTO,
    NOTRACK,
    SPORT,
    Load,
)
from kubewire.lang.nftables.families import ADDRESS, DADDR, FAMILY, SADDR
from kubewire.lang.nftables.lookups import Lookup
from kubewire.lang.nftables.model import PRIORITIES, Chain, Rule, Set, Table
from kubewire.lang.nftables.types import PORT, PROTO, ip_bytes, port_bytes, proto_bytes
from kubewire.lang.packet import PROTOCOLS

TABLE = "kubewire-nodelocal"
DNS_PORT = 53
_TO: dict[int, tuple[Load, ...]] = {v: (DADDR[v], L4PROTO, DPORT) for v in (4, 6)}
_FROM: dict[int, tuple[Load, ...]] = {v: (SADDR[v], L4PROTO, SPORT) for v in (4, 6)}


@dataclass(frozen=True, slots=True)
class NodeLocal:
    """One node's cache."""

    local_ips: tuple[str, ...] = ("169.254.20.10",)
    """Where it answers: the link-local address first, then the ClusterIPs of the DNS Service."""
    domain: str = "cluster.local"
    upstream: tuple[str, ...] = ()
    """Cluster DNS itself: ClusterIPs of the Service kube-dns-upstream."""
    resolv_conf: str = "/etc/resolv.conf"
    """Where names outside the cluster go: a file, or addresses."""
    health_port: int = 8080
    metrics_port: int = 9253

    def __post_init__(self) -> None:
        for flag, values in (("--localip", self.local_ips), ("--upstream", self.upstream)):
            for value in values:
                _address(value, flag)

    def corefile(self) -> str:
        """The Corefile, as the add-on of Kubernetes has it."""
        first, bind = self.local_ips[0], " ".join(self.local_ips)
        health = f"health {f'[{first}]' if ':' in first else first}:{self.health_port}"
        cached = "cache {\n        success 9984 30\n        denial 9984 5\n    }"
        inside = f"forward . {' '.join(self.upstream)} {{\n        force_tcp\n    }}"
        blocks = [
            self._block(f"{self.domain}:53", cached, bind, inside, health),
            self._block("in-addr.arpa:53", "cache 30", bind, inside),
            self._block("ip6.arpa:53", "cache 30", bind, inside),
            self._block(".:53", "cache 30", bind, f"forward . {self.resolv_conf}"),
        ]
        return "\n".join(blocks)

    def _block(self, zone: str, *directives: str) -> str:
        cached, bind, forward, *more = directives
        lines = ["errors", cached, "reload", "loop", f"bind {bind}", forward]
        lines += [f"prometheus :{self.metrics_port}", *more]
        return "\n    ".join([f"{zone} {{", *lines]) + "\n}\n"

    def filled(self, corefile: str) -> str:
        """A Corefile of the add-on with its placeholders replaced."""
        local, *service = self.local_ips
        for name, value in (
            ("LOCAL__DNS", local),
            ("DNS__SERVER", " ".join(service)),
            ("DNS__DOMAIN", self.domain),
            ("CLUSTER__DNS", " ".join(self.upstream)),
            ("UPSTREAM__SERVERS", self.resolv_conf),
        ):
            corefile = corefile.replace(f"__PILLAR__{name}__", value)
        return corefile

    def table(self) -> Table:
        """Both ways of DNS and of the health check stay out of conntrack."""
        sets, rules_to, rules_from = {}, [], []
        for version in sorted({_address(ip, "").version for ip in self.local_ips}):
            served = self._served(version)
            sets[served.name] = served
            family = FAMILY[version]
            rules_to.append(Rule((family, Lookup(_TO[version], served.name), NOTRACK), "asked"))
            rules_from.append(
                Rule((family, Lookup(_FROM[version], served.name), NOTRACK), "answered")
            )
        raw = PRIORITIES["raw"]
        chains = (
            Chain("prerouting", tuple(rules_to), "filter", "prerouting", raw),
            Chain("output", (*rules_to, *rules_from), "filter", "output", raw),
        )
        return Table(TABLE, sets=sets, chains={c.name: c for c in chains})

    def _served(self, version: int) -> Set:
        ports = [("udp", DNS_PORT), ("tcp", DNS_PORT), ("tcp", self.health_port)]
        elements = {
            ip_bytes(ip) + proto_bytes(PROTOCOLS[protocol]) + port_bytes(port): None
            for ip in self.local_ips
            if _address(ip, "").version == version
            for protocol, port in ports
        }
        return Set(f"served{version}", (ADDRESS[version], PROTO, PORT), elements=elements)


def _address(text: str, flag: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise InputError(f"{flag}: must be a valid IP address, not {text!r}") from error
