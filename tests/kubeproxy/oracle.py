"""A second opinion on every flow: plain and slow, written from the documentation over raw JSON.

It shares no code with what it judges. ``None`` is its answer where the documentation leaves room.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from kubewire.kubeproxy.trace import Flow

JSON = dict[str, Any]
Outcome = tuple[str, frozenset[str], bool, int | None]
"""Verdict, endpoints, masquerade, sticky."""
OTHERS = {"service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"}
SERVICE_CIDRS = ("10.96.0.0/16", "fd00:96::/112")
TALL = ("nftables", "envoy")
"""Modes that look after ports and addresses which no Service has."""


def plain(ip: str) -> str:
    """Without blanks and leading zeros."""
    ip = ip.strip()
    if ":" not in ip:
        ip = ".".join(str(int(part)) for part in ip.split("."))
    return str(ip_address(ip))


def family(ip: str) -> int:
    return 6 if ":" in ip else 4


def within(ip: str, cidr: str) -> bool:
    address, _, length = cidr.strip().partition("/")
    network = ip_network(f"{plain(address)}/{length}", strict=False)
    return family(ip) == network.version and ip_address(ip) in network


def loopback(ip: str) -> bool:
    return ip_address(ip).is_loopback


@dataclass(frozen=True)
class World:
    """What there is, and the node that is asked."""

    objects: list[JSON]
    node: str
    addresses: tuple[str, ...]
    zone: str
    mode: str
    pods: tuple[str, ...] = ()
    masquerade_all: bool = False
    node_ports_on: tuple[str, ...] | None = None
    localhost_node_ports: bool = True

    def of(self, kind: str) -> Iterator[JSON]:
        """Objects of a kind that are the proxy's business."""
        for obj in self.objects:
            if obj["kind"] == kind and not OTHERS & (obj["metadata"].get("labels") or {}).keys():
                yield obj

    def outcome(self, flow: Flow) -> Outcome | None:
        """What becomes of a new connection."""
        source = self._source(flow.source)
        if loopback(flow.target):
            if source != "node":
                return nothing("passthrough")
            if self.mode == "iptables" and not loopback(flow.source):
                return None  # Whether the guard of 127.0.0.0/8 meets it is the mode's business.
        for service in sorted(self.of("Service"), key=_age):
            for port in service["spec"].get("ports") or ():
                if kind := self._answers(service, port, flow):
                    return self._served(service, port, kind, source, flow)
        return nothing(self._unknown(flow.target))

    def _source(self, ip: str) -> str:
        if any(within(ip, cidr) for cidr in self.pods):
            return "pod"
        return "node" if ip in self.addresses or loopback(ip) else "other"

    def _answers(self, service: JSON, port: JSON, flow: Flow) -> str:
        """As what a Service's port has the address: ClusterIP, external, balancer, node; or not."""
        own = proxied(service)
        if flow.protocol != (port.get("protocol") or "TCP"):
            return ""
        if family(flow.target) not in map(family, own):
            return ""
        if flow.port == port["port"]:
            if flow.target in own:
                return "ClusterIP"
            if flow.target in map(plain, service["spec"].get("externalIPs") or ()):
                return "external"
            if flow.target in balancers(service):
                return "balancer"
        on_node = flow.port == port.get("nodePort") and self._has_node_ports(flow.target)
        return "node" if on_node else ""

    def _has_node_ports(self, ip: str) -> bool:
        wanted = self.node_ports_on or (("primary",) if self.mode in TALL else ("all",))
        named = any("/" in w and within(ip, w) for w in wanted)
        if ip == "127.0.0.1":
            if self.mode == "iptables":
                return self.localhost_node_ports and (
                    "all" in wanted or "localhost" in wanted or named
                )
            return self.mode != "ipvs" and ("localhost" in wanted or named)
        if ip not in self.addresses:
            return False
        return "all" in wanted or named or ("primary" in wanted and ip == self._primary(ip))

    def _primary(self, like: str) -> str:
        return next(ip for ip in self.addresses if family(ip) == family(like))

    def _unknown(self, ip: str) -> str:
        owned = [s for s in self.of("Service") if proxied(s)]
        if self.mode in TALL:
            if any(ip in proxied(s) for s in owned):
                return "reject"
            return "drop" if any(within(ip, c) for c in SERVICE_CIDRS) else "passthrough"
        if self.mode == "ipvs" and ip not in self.addresses:
            held = [a for s in owned if s["spec"].get("ports") for a in on_the_node(s)]
            return "reject" if ip in held else "passthrough"
        return "passthrough"

    def _served(
        self, service: JSON, port: JSON, kind: str, source: str, flow: Flow
    ) -> Outcome | None:
        spec = service["spec"]
        if kind == "balancer" and not self._admitted(service, flow):
            return nothing("drop")
        ends = self._endpoints(service, port, family(flow.target))
        every, local = self._sets(ends)
        if not any(end["usable"] for end in ends.values()):
            return nothing("reject")
        if kind == "ClusterIP":
            knows = any(family(c) == family(flow.target) for c in self.pods)
            masquerade = self.masquerade_all or (knows and source != "pod")
            chosen = local if spec.get("internalTrafficPolicy") == "Local" else every
        elif spec.get("externalTrafficPolicy") == "Local":
            masquerade = source == "node"
            chosen = local if source == "other" else every
        else:
            masquerade, chosen = True, every
        if not chosen:
            return nothing("drop")
        itself = [place for place in chosen if place[0] == flow.source]
        if itself and not masquerade:
            if all(ends[place]["far"] for place in itself):
                return None  # A client of another node does not come by here.
            masquerade = True
        return "accept", frozenset(map(text, chosen)), masquerade, affinity(spec)

    def _admitted(self, service: JSON, flow: Flow) -> bool:
        given = service["spec"].get("loadBalancerSourceRanges") or ()
        ranges = [r for r in given if family(r) == family(flow.target)]
        if not ranges or any(r.strip().endswith("/0") for r in ranges):
            return True
        if any(within(flow.source, r) for r in ranges):
            return True
        own = any(within(self._primary(flow.source), r) for r in ranges)
        return own and flow.source in balancers(service)

    def _endpoints(
        self, service: JSON, port: JSON, version: int
    ) -> dict[tuple[str, int], dict[str, Any]]:
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for piece in self.of("EndpointSlice"):
            if not _belongs(piece, service, version):
                continue
            for number in _numbers(piece, port):
                for end in piece.get("endpoints") or ():
                    ip = plain(end["addresses"][0])
                    if family(ip) == version and _reachable(ip):
                        seen = self._state(end)
                        known = found.setdefault((ip, number), seen)
                        found[ip, number] = max(known, seen, key=lambda e: e["newer"])
        return found

    def _state(self, end: JSON) -> dict[str, Any]:
        conditions, hints = end.get("conditions") or {}, end.get("hints") or {}
        ready, dying = conditions.get("ready") is not False, bool(conditions.get("terminating"))
        local = end.get("nodeName") == self.node
        return {
            "ready": ready,
            "usable": ready or (conditions.get("serving") is not False and dying),
            "local": local,
            "far": end.get("nodeName") not in (None, "", self.node),
            "zones": {z["name"] for z in hints.get("forZones") or ()},
            "nodes": {n["name"] for n in hints.get("forNodes") or ()},
            "newer": (not dying, ready, local),
        }

    def _sets(
        self, ends: dict[tuple[str, int], dict[str, Any]]
    ) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
        """Endpoints of all nodes, narrowed by hints; endpoints of this node."""
        ready = {place: end for place, end in ends.items() if end["ready"]}
        last = {place for place, end in ends.items() if end["usable"]}
        every = set(ready) or last
        for field, own in (("nodes", self.node), ("zones", self.zone)):
            hinted = {place for place, end in ready.items() if own in end[field]}
            if hinted and all(end[field] for end in ready.values()):
                every = hinted
                break
        local = {p for p in ready if ends[p]["local"]} or {p for p in last if ends[p]["local"]}
        return every, local


def nothing(verdict: str) -> Outcome:
    """Of what is not accepted."""
    return verdict, frozenset(), False, None


def text(place: tuple[str, int]) -> str:
    ip, port = place
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def affinity(spec: JSON) -> int | None:
    if spec.get("sessionAffinity") != "ClientIP":
        return None
    config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return int(config.get("timeoutSeconds", 10800))


def proxied(service: JSON) -> list[str]:
    """ClusterIPs of a Service that gets rules."""
    spec = service["spec"]
    if spec.get("type") == "ExternalName" or spec["clusterIP"] == "None":
        return []
    return [plain(ip) for ip in spec["clusterIPs"]]


def balancers(service: JSON) -> list[str]:
    """Addresses of load balancers that lead to nodes with the address unchanged."""
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [plain(i["ip"]) for i in ingress if i.get("ip") and i.get("ipMode") != "Proxy"]


def on_the_node(service: JSON) -> Iterator[str]:
    """What IPVS puts on the node."""
    own = proxied(service)
    external = [plain(ip) for ip in service["spec"].get("externalIPs") or ()]
    families = set(map(family, own))
    yield from (ip for ip in (*own, *external, *balancers(service)) if family(ip) in families)


def _age(service: JSON) -> tuple[str, str, str]:
    meta = service["metadata"]
    return meta["creationTimestamp"], meta["namespace"], meta["name"]


def _belongs(piece: JSON, service: JSON, version: int) -> bool:
    meta, about = piece["metadata"], service["metadata"]
    return (
        meta["namespace"] == about["namespace"]
        and meta["labels"]["kubernetes.io/service-name"] == about["name"]
        and piece["addressType"] == f"IPv{version}"
    )


def _numbers(piece: JSON, port: JSON) -> Iterator[int]:
    for given in piece.get("ports") or ():
        same_name = (given.get("name") or "") == (port.get("name") or "")
        if same_name and (given.get("protocol") or "TCP") == (port.get("protocol") or "TCP"):
            yield given["port"]


def _reachable(ip: str) -> bool:
    one = ip_address(ip)
    return not (one.is_loopback or one.is_link_local or one.is_multicast or one.is_unspecified)
