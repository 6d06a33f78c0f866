"""One packet table for every oracle: Services and slices, a flow, and what becomes of it.

``node-a`` (192.0.2.1, zone z1) is the node that is asked; pods are in 10.244.0.0/16. An endpoint is
written ``ADDRESS@NODE[!flags]`` with the flags n(ot ready), t(erminating and serving), d(ead:
terminating, not serving).
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from kubewire.api.core import Node
from kubewire.api.service import EndpointSlice, Service
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.objects import Objects
from kubewire.kubeproxy.trace import Tracer

NODE = msgspec.convert(
    {
        "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "z1"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    },
    Node,
)
PODS = ("10.244.0.0/16",)
POD, NODE_IP, OUTSIDE = "10.244.0.99", "192.0.2.1", "203.0.113.9"
VIP = "10.96.0.10"


def service(name: str = "s", ip: str = VIP, **spec: Any) -> Service:
    spec.setdefault("ports", [{"name": "p", "port": 80, "protocol": "TCP"}])
    status = spec.pop("status", {})
    meta = {
        "name": name,
        "namespace": "ns",
        "creationTimestamp": spec.pop("created", "2026-01-01T00:00:00Z"),
    }
    obj = {
        "metadata": meta,
        "spec": {"clusterIP": ip, "clusterIPs": [ip], **spec},
        "status": status,
    }
    return msgspec.convert(obj, Service)


def slice_(
    *endpoints: str,
    of: str = "s",
    ports: list[dict[str, Any]] | None = None,
    name: str = "x",
    family: str = "IPv4",
    **hints: Any,
) -> EndpointSlice:
    obj = {
        "metadata": {
            "name": f"{of}-{name}",
            "namespace": "ns",
            "labels": {"kubernetes.io/service-name": of},
        },
        "addressType": family,
        "endpoints": [_endpoint(e, hints) for e in endpoints],
        "ports": ports if ports is not None else [{"name": "p", "port": 8080, "protocol": "TCP"}],
    }
    return msgspec.convert(obj, EndpointSlice)


def _endpoint(text: str, hints: dict[str, Any]) -> dict[str, Any]:
    where, _, flags = text.partition("!")
    address, _, node = where.partition("@")
    conditions: dict[str, bool] = {}
    if flags == "n":
        conditions = {"ready": False, "serving": False, "terminating": False}
    elif flags == "t":
        conditions = {"ready": False, "serving": True, "terminating": True}
    elif flags == "d":
        conditions = {"ready": False, "serving": False, "terminating": True}
    found: dict[str, Any] = {
        "addresses": [address],
        "conditions": conditions,
        "nodeName": node or None,
    }
    if address in hints:
        found["hints"] = hints[address]
    elif "all" in hints:
        found["hints"] = hints["all"]
    return found


@dataclass(frozen=True)
class Row:
    """A case."""

    name: str
    services: list[Service]
    slices: list[EndpointSlice]
    to: str
    source: str = POD
    port: int = 80
    protocol: str = "TCP"
    verdict: str = "accept"
    endpoints: list[str] = field(default_factory=list)
    masquerade: bool = False
    sticky: int | None = None
    config: Config = field(default_factory=lambda: Config(cluster_cidrs=PODS))

    def tracer(self, mode: str = "plan") -> Tracer:
        objects = Objects(self.services, self.slices, [NODE])
        return Tracer(objects, self.config, "node-a", (), ("10.96.0.0/16",), mode)


def ends(*hosts: int, port: int = 8080) -> list[str]:
    return [f"10.244.0.{h}:{port}" for h in hosts]


A, B, C = "10.244.0.1@node-a", "10.244.0.2@node-b", "10.244.0.3@node-a"
LB = {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}
LOCAL = {"externalTrafficPolicy": "Local"}
NODE_PORT: dict[str, Any] = {
    "type": "NodePort",
    "ports": [{"name": "p", "port": 80, "nodePort": 30080}],
}
BALANCER: dict[str, Any] = {
    "type": "LoadBalancer",
    "status": LB,
    "ports": [{"name": "p", "port": 80, "nodePort": 30080}],
}
UDP = [{"name": "p", "port": 53, "protocol": "UDP"}]
SRC = {"loadBalancerSourceRanges": ["203.0.113.0/24", " 198.18.0.0/15 "]}

ROWS = [
    Row("ClusterIP", [service()], [slice_(A, B)], VIP, endpoints=ends(1, 2)),
    Row("from a process of the node", [service()], [slice_(A, B)], VIP, NODE_IP, endpoints=ends(1, 2), masquerade=True),
    Row("from outside", [service()], [slice_(A, B)], VIP, OUTSIDE, endpoints=ends(1, 2), masquerade=True),
    Row("hairpin", [service()], [slice_("10.244.0.99@node-a")], VIP, endpoints=ends(99), masquerade=True),
    Row("hairpin of an endpoint whose node nobody names", [service()], [slice_("10.244.0.99")], VIP, endpoints=ends(99), masquerade=True),
    Row("hairpin on the second port of an address", [service()], [slice_(f"{POD}@node-a", ports=[{"name": "p", "port": n} for n in (9, 8080)])], VIP, endpoints=[*ends(99), *ends(99, port=9)], masquerade=True),
    Row("an address that a pod got from one that ends", [service()], [slice_(A + "!t"), slice_(A + "!n", name="y")], VIP, verdict="reject"),
    Row("endpoints of the node itself", [service()], [slice_(A, f"{NODE_IP}@node-a", ports=[{"name": "p", "port": n} for n in (9, 8080)])], VIP, endpoints=[*ends(1), *ends(1, port=9), f"{NODE_IP}:8080", f"{NODE_IP}:9"]),
    Row("endpoints of the node itself, UDP", [service(ports=UDP)], [slice_(A, f"{NODE_IP}@node-a", ports=[{"name": "p", "port": 9, "protocol": "UDP"}])], VIP, port=53, protocol="UDP", endpoints=[*ends(1, port=9), f"{NODE_IP}:9"]),
    Row("masqueradeAll", [service()], [slice_(A)], VIP, endpoints=ends(1), masquerade=True, config=Config(cluster_cidrs=PODS, masquerade_all=True)),
    Row("pods are unknown", [service()], [slice_(A)], VIP, OUTSIDE, endpoints=ends(1), config=Config()),
    Row("wrong port", [service()], [slice_(A)], VIP, port=81, verdict="reject"),
    Row("wrong protocol", [service()], [slice_(A)], VIP, protocol="UDP", verdict="reject"),
    Row("unallocated address", [service()], [slice_(A)], "10.96.9.9", verdict="drop"),
    Row("no Service", [service()], [slice_(A)], "10.244.0.1", port=8080, verdict="passthrough"),
    Row("no endpoint", [service()], [], VIP, verdict="reject"),
    Row("none ready", [service()], [slice_(A + "!n", B + "!n")], VIP, verdict="reject"),
    Row("some ready", [service()], [slice_(A + "!n", B)], VIP, endpoints=ends(2)),
    Row("terminating is the last resort", [service()], [slice_(A + "!t", B + "!n")], VIP, endpoints=ends(1)),
    Row("terminating is not used beside a ready one", [service()], [slice_(A + "!t", B)], VIP, endpoints=ends(2)),
    Row("dead ones never", [service()], [slice_(A + "!d")], VIP, verdict="reject"),
    Row("headless", [service(ip="None")], [slice_(A)], "10.244.0.1", port=80, verdict="passthrough"),
    Row("ExternalName", [service(type="ExternalName", externalName="x")], [slice_(A)], VIP, verdict="drop"),
    Row("slices match by port name", [service()], [slice_(A, ports=[{"name": "q", "port": 1, "protocol": "TCP"}, {"name": "p", "port": 9, "protocol": "TCP"}])], VIP, endpoints=ends(1, port=9)),
    Row("the number may differ per slice", [service()], [slice_(A), slice_(B, name="y", ports=[{"name": "p", "port": 9, "protocol": "TCP"}])], VIP, endpoints=["10.244.0.1:8080", "10.244.0.2:9"]),
    Row("the same address in two slices", [service()], [slice_(A), slice_(A, name="y")], VIP, endpoints=ends(1)),
    Row("the other protocol", [service()], [slice_(A, ports=[{"name": "p", "port": 9, "protocol": "UDP"}])], VIP, verdict="reject"),
    Row("the other family", [service()], [slice_("fd00::1", family="IPv6")], VIP, verdict="reject"),
    Row("unnamed port, missing protocol", [service(ports=[{"port": 80}])], [slice_(A, ports=[{"port": 8080}])], VIP, endpoints=ends(1)),
    Row("UDP", [service(ports=UDP)], [slice_(A, ports=[{"name": "p", "port": 53, "protocol": "UDP"}])], VIP, port=53, protocol="UDP", endpoints=ends(1, port=53)),
    Row("SCTP", [service(ports=[{"name": "p", "port": 80, "protocol": "SCTP"}])], [slice_(A, ports=[{"name": "p", "port": 80, "protocol": "SCTP"}])], VIP, protocol="SCTP", endpoints=ends(1, port=80)),
    Row("IPv6", [service(ip="fd00:96::10")], [slice_("fd00::1", family="IPv6")], "fd00:96::10", "fd00:1::9", endpoints=["[fd00::1]:8080"]),
    Row("affinity", [service(sessionAffinity="ClientIP")], [slice_(A, B)], VIP, endpoints=ends(1, 2), sticky=10800),
    Row("affinity, own timeout", [service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}})], [slice_(A)], VIP, endpoints=ends(1), sticky=60),
    Row("internalTrafficPolicy Local", [service(internalTrafficPolicy="Local")], [slice_(A, B, C)], VIP, endpoints=ends(1, 3)),
    Row("internalTrafficPolicy Local, none here", [service(internalTrafficPolicy="Local")], [slice_(B)], VIP, verdict="drop"),
    Row("internalTrafficPolicy Local, none anywhere", [service(internalTrafficPolicy="Local")], [], VIP, verdict="reject"),
    Row("internalTrafficPolicy Local, terminating here", [service(internalTrafficPolicy="Local")], [slice_(A + "!t", B)], VIP, endpoints=ends(1)),
    Row("NodePort", [service(**NODE_PORT)], [slice_(A, B)], NODE_IP, OUTSIDE, 30080, endpoints=ends(1, 2), masquerade=True),
    Row("NodePort from a pod", [service(**NODE_PORT)], [slice_(A, B)], NODE_IP, POD, 30080, endpoints=ends(1, 2), masquerade=True),
    Row("another port of the node", [service(**NODE_PORT)], [slice_(A, B)], NODE_IP, OUTSIDE, 30081, verdict="passthrough"),
    Row("NodePort without endpoints", [service(**NODE_PORT)], [], NODE_IP, OUTSIDE, 30080, verdict="reject"),
    Row("NodePort Local", [service(**NODE_PORT, **LOCAL)], [slice_(A, B)], NODE_IP, OUTSIDE, 30080, endpoints=ends(1)),
    Row("NodePort Local from a pod", [service(**NODE_PORT, **LOCAL)], [slice_(A, B)], NODE_IP, POD, 30080, endpoints=ends(1, 2)),
    Row("NodePort Local from the node", [service(**NODE_PORT, **LOCAL)], [slice_(A, B)], NODE_IP, NODE_IP, 30080, endpoints=ends(1, 2), masquerade=True),
    Row("NodePort Local, none here", [service(**NODE_PORT, **LOCAL)], [slice_(B)], NODE_IP, OUTSIDE, 30080, verdict="drop"),
    Row("NodePort Local, none here, from a pod", [service(**NODE_PORT, **LOCAL)], [slice_(B)], NODE_IP, POD, 30080, endpoints=ends(2)),
    Row("NodePort Local, none anywhere", [service(**NODE_PORT, **LOCAL)], [], NODE_IP, OUTSIDE, 30080, verdict="reject"),
    Row("NodePort Local, terminating here", [service(**NODE_PORT, **LOCAL)], [slice_(A + "!t", B)], NODE_IP, OUTSIDE, 30080, endpoints=ends(1)),
    Row("externalTrafficPolicy does not touch the ClusterIP", [service(**NODE_PORT, **LOCAL)], [slice_(A, B)], VIP, endpoints=ends(1, 2)),
    Row("LoadBalancer", [service(**BALANCER)], [slice_(A, B)], "198.51.100.1", OUTSIDE, endpoints=ends(1, 2), masquerade=True),
    Row("LoadBalancer Local", [service(**BALANCER, **LOCAL)], [slice_(A, B)], "198.51.100.1", OUTSIDE, endpoints=ends(1)),
    Row("LoadBalancer Local from a pod", [service(**BALANCER, **LOCAL)], [slice_(A, B)], "198.51.100.1", endpoints=ends(1, 2)),
    Row("LoadBalancer in proxy mode", [service(**(BALANCER | {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1", "ipMode": "Proxy"}]}}}))], [slice_(A)], "198.51.100.1", OUTSIDE, verdict="passthrough"),
    Row("source range admits", [service(**BALANCER, **SRC)], [slice_(A)], "198.51.100.1", OUTSIDE, endpoints=ends(1), masquerade=True),
    Row("source range, sloppy text", [service(**BALANCER, **SRC)], [slice_(A)], "198.51.100.1", "198.19.0.1", endpoints=ends(1), masquerade=True),
    Row("source range refuses", [service(**BALANCER, **SRC)], [slice_(A)], "198.51.100.1", "203.0.112.9", verdict="drop"),
    Row("source range refuses pods", [service(**BALANCER, **SRC)], [slice_(A)], "198.51.100.1", POD, verdict="drop"),
    Row("source range does not hold for nodePorts", [service(**BALANCER, **SRC)], [slice_(A)], NODE_IP, "203.0.112.9", 30080, endpoints=ends(1), masquerade=True),
    Row("source range does not hold for the ClusterIP", [service(**BALANCER, **SRC)], [slice_(A)], VIP, endpoints=ends(1)),
    Row("a range with the node's address admits the balancer's", [service(**BALANCER, loadBalancerSourceRanges=["192.0.2.0/24"])], [slice_(A)], "198.51.100.1", "198.51.100.1", endpoints=ends(1), masquerade=True),
    Row("externalIP", [service(externalIPs=["203.0.113.80"])], [slice_(A)], "203.0.113.80", OUTSIDE, endpoints=ends(1), masquerade=True),
    Row("sloppy externalIP", [service(externalIPs=["203.000.113.080"])], [slice_(A)], "203.0.113.80", OUTSIDE, endpoints=ends(1), masquerade=True),
    Row("externalIP that is the node's", [service(externalIPs=["192.0.2.1"])], [slice_(A)], NODE_IP, OUTSIDE, endpoints=ends(1), masquerade=True),
    Row("zone hints", [service()], [slice_(A, B, **{"10.244.0.1": {"forZones": [{"name": "z1"}]}, "10.244.0.2": {"forZones": [{"name": "z2"}]}})], VIP, endpoints=ends(1)),
    Row("zone hints, one is missing", [service()], [slice_(A, B, **{"10.244.0.1": {"forZones": [{"name": "z1"}]}})], VIP, endpoints=ends(1, 2)),
    Row("zone hints for other zones only", [service()], [slice_(A, B, all={"forZones": [{"name": "z9"}]})], VIP, endpoints=ends(1, 2)),
    Row("node hints", [service()], [slice_(A, B, **{"10.244.0.1": {"forNodes": [{"name": "node-b"}]}, "10.244.0.2": {"forNodes": [{"name": "node-a"}]}})], VIP, endpoints=ends(2)),
    Row("an older Service has the address", [service("t", externalIPs=["203.0.113.80"], ip="10.96.0.11", created="2025-01-01T00:00:00Z"), service(externalIPs=["203.0.113.80"])], [slice_(A), slice_(B, of="t")], "203.0.113.80", OUTSIDE, endpoints=ends(2), masquerade=True),
    Row("two Services share an address on other ports", [service("t", ip="10.96.0.11", externalIPs=["203.0.113.80"], ports=[{"name": "p", "port": 81}]), service(externalIPs=["203.0.113.80"])], [slice_(A), slice_(B, of="t")], "203.0.113.80", OUTSIDE, 81, endpoints=ends(2), masquerade=True),
]  # fmt: skip
