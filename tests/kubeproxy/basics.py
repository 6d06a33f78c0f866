"""What the table of packets is written in, and its first part: fixtures x flows -> what happens."""

from typing import Any, NamedTuple

JSON = dict[str, Any]

NODE, OTHER = "node-1", "node-2"
NODE_IP, OTHER_IP = "192.168.0.2", "192.168.0.3"
POD, OUTSIDE = "10.244.0.9", "203.0.113.2"
CONFIG = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "clusterCIDR": "10.244.0.0/16,fd00:10:244::/56",
}


class Row(NamedTuple):
    fixture: str
    source: str
    target: str
    port: int
    verdict: str
    endpoints: str = ""
    masquerade: bool = False
    sticky: int | None = None
    protocol: str = "TCP"
    config: JSON | None = None
    """What it needs beside the configuration that all have."""

    @property
    def id(self) -> str:
        return f"{self.fixture}: {self.source} -> {self.target}:{self.port}/{self.protocol}"


def node(name: str, ip: str, zone: str, *more: str) -> JSON:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"addresses": [{"type": "InternalIP", "address": a} for a in (ip, *more)]},
    }


def service(type_: str = "ClusterIP", *, status: JSON | None = None, labels: JSON | None = None, **spec: Any) -> JSON:  # fmt: skip
    spec = {"clusterIP": "10.96.0.41", "ports": [{"name": "p80", "port": 80}], **spec}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "svc1", "namespace": "ns1", "labels": labels or {}},
        "spec": {"type": type_, **spec},
        "status": status or {},
    }


def endpoint(address: str, where: str = NODE, *, hints: JSON | None = None, **conditions: bool) -> JSON:  # fmt: skip
    found: JSON = {"addresses": [address], "nodeName": where, "conditions": conditions}
    return {**found, "hints": hints} if hints else found


def piece(*endpoints: JSON, port: int = 8080, name: str = "p80", protocol: str = "TCP", family: str = "IPv4", suffix: str = "a", labels: JSON | None = None) -> JSON:  # fmt: skip
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"svc1-{suffix}",
            "namespace": "ns1",
            "labels": {"kubernetes.io/service-name": "svc1", **(labels or {})},
        },
        "addressType": family,
        "ports": [{"name": name, "port": port, "protocol": protocol}],
        "endpoints": list(endpoints),
    }


HERE, THERE = endpoint("10.244.0.1"), endpoint("10.244.1.1", OTHER)
BOTH = piece(HERE, THERE)
REMOTE = piece(THERE)
BOTH_OUT, HERE_OUT, THERE_OUT = (
    "10.244.0.1:8080 10.244.1.1:8080",
    "10.244.0.1:8080",
    "10.244.1.1:8080",
)
NODE_PORT = {"ports": [{"name": "p80", "port": 80, "nodePort": 30080}]}
ETP = {"externalTrafficPolicy": "Local"}
VIP = {"loadBalancer": {"ingress": [{"ip": "5.5.5.5"}]}}
PROXIED = {"loadBalancer": {"ingress": [{"ip": "5.5.5.5", "ipMode": "Proxy"}]}}
DYING = {"ready": False, "serving": True, "terminating": True}
RANGES = ["203.0.113.0/25", " 192.168.0.0/24"]


def hint(zone: str = "", name: str = "") -> JSON:
    return {"forZones": [{"name": zone}]} if zone else {"forNodes": [{"name": name}]}


FIXTURES: dict[str, list[JSON]] = {
    "plain": [service(), BOTH],
    "empty": [service("LoadBalancer", status=VIP, externalIPs=["1.2.3.4"], **NODE_PORT)],
    "not-ready": [service(), piece(endpoint("10.244.0.1", ready=False))],
    "nodeport": [service("NodePort", **NODE_PORT), BOTH],
    "nodeport-local": [service("NodePort", **NODE_PORT, **ETP), BOTH],
    "nodeport-remote": [service("NodePort", **NODE_PORT, **ETP), REMOTE],
    "external": [service(externalIPs=["1.2.3.4", " 010.0.0.1"]), BOTH],
    "external-local": [service(externalIPs=["1.2.3.4"], **ETP), BOTH],
    "lb": [service("LoadBalancer", status=VIP, **NODE_PORT), BOTH],
    "lb-local": [service("LoadBalancer", status=VIP, **NODE_PORT, **ETP), BOTH],
    "lb-ranges": [service("LoadBalancer", status=VIP, loadBalancerSourceRanges=RANGES, **NODE_PORT), BOTH],
    "lb-ranges-narrow": [service("LoadBalancer", status=VIP, loadBalancerSourceRanges=RANGES[:1]), BOTH],
    "lb-ranges-other-family": [service("LoadBalancer", status=VIP, loadBalancerSourceRanges=["2001:db8::/64"]), BOTH],
    "lb-proxy-mode": [service("LoadBalancer", status=PROXIED), BOTH],
    "internal-local": [service(internalTrafficPolicy="Local", externalIPs=["1.2.3.4"]), BOTH],
    "internal-remote": [service(internalTrafficPolicy="Local"), REMOTE],
    "headless": [service(clusterIP="None", externalIPs=["1.2.3.4"]), BOTH],
    "external-name": [service("ExternalName", externalName="a.example"), BOTH],
    "sticky": [service(sessionAffinity="ClientIP"), BOTH],
    "sticky-60": [service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}}), BOTH],
    "dying": [service(), piece(endpoint("10.244.0.1", **DYING), endpoint("10.244.1.1", OTHER, ready=False))],
    "dying-beside": [service(), piece(endpoint("10.244.0.1", **DYING), THERE)],
    "dying-local": [service("NodePort", **NODE_PORT, **ETP), piece(endpoint("10.244.0.1", **DYING), THERE)],
    "dead": [service(), piece(endpoint("10.244.0.1", ready=False, serving=False, terminating=True))],
    "zones": [service(), piece(endpoint("10.244.0.1", hints=hint("a")), endpoint("10.244.1.1", OTHER, hints=hint("b")))],
    "zones-partial": [service(), piece(endpoint("10.244.0.1", hints=hint("a")), THERE)],
    "zones-elsewhere": [service(), piece(endpoint("10.244.0.1", hints=hint("c")), endpoint("10.244.1.1", OTHER, hints=hint("b")))],
    "nodes": [service(), piece(endpoint("10.244.0.1", hints=hint(name=NODE)), endpoint("10.244.1.1", OTHER, hints=hint(name=OTHER)))],
    "foreign": [service(labels={"service.kubernetes.io/service-proxy-name": "other"}), BOTH],
    "foreign-slice": [service(), piece(HERE, labels={"service.kubernetes.io/headless": ""})],
    "other-port-name": [service(), piece(HERE, name="p81")],
    "two-slices": [service(), piece(HERE), piece(HERE, THERE, suffix="b"), piece(endpoint("10.244.1.5"), port=9090, suffix="c")],
    "wrong-family": [service(), piece(HERE, endpoint("fd00::1"), endpoint("127.0.0.1"), endpoint("169.254.1.1"))],
    "udp": [service(ports=[{"name": "p80", "port": 80, "protocol": "UDP"}]), piece(HERE, protocol="UDP")],
    "sctp": [service(ports=[{"name": "p80", "port": 80, "protocol": "SCTP"}]), piece(HERE, protocol="SCTP")],
    "dual": [
        service(clusterIP="10.96.0.41", clusterIPs=["10.96.0.41", "FD00:10:96::0041"]),
        piece(HERE),
        piece(endpoint("fd00:10:244::1"), family="IPv6", suffix="six"),
    ],
    "single-stack-nodeport": [service("NodePort", **NODE_PORT), BOTH],
    "cidr": [
        service(),
        BOTH,
        {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}},
    ],
}  # fmt: skip

ROWS = [
    Row("plain", POD, "10.96.0.41", 80, "accept", BOTH_OUT),
    Row("plain", "10.244.0.1", "10.96.0.41", 80, "accept", BOTH_OUT, True),
    Row("plain", NODE_IP, "10.96.0.41", 80, "accept", BOTH_OUT, True),
    Row("plain", OTHER_IP, "10.96.0.41", 80, "accept", BOTH_OUT, True),
    Row("plain", OUTSIDE, "10.96.0.41", 80, "accept", BOTH_OUT, True),
    Row("plain", POD, "10.96.0.41", 81, "reject"),
    Row("plain", POD, "10.96.0.41", 80, "reject", protocol="UDP"),
    Row("plain", POD, "10.96.0.42", 80, "passthrough"),
    Row("plain", POD, "10.244.1.1", 8080, "passthrough"),
    *(
        Row("empty", source, *target, "reject")
        for source in (POD, NODE_IP, OUTSIDE)
        for target in (("10.96.0.41", 80), ("5.5.5.5", 80), ("1.2.3.4", 80), (NODE_IP, 30080))
    ),
    Row("not-ready", POD, "10.96.0.41", 80, "reject"),
    *(Row("nodeport", s, NODE_IP, 30080, "accept", BOTH_OUT, True) for s in (POD, NODE_IP, OUTSIDE)),
    Row("nodeport", POD, OTHER_IP, 30080, "passthrough"),
    Row("nodeport", POD, "192.168.9.2", 30080, "passthrough"),
    Row("nodeport", OUTSIDE, NODE_IP, 30080, "passthrough", protocol="UDP"),
    Row("nodeport", POD, "127.0.0.1", 30080, "passthrough"),
    Row("nodeport-local", OUTSIDE, NODE_IP, 30080, "accept", HERE_OUT),
    Row("nodeport-local", OTHER_IP, NODE_IP, 30080, "accept", HERE_OUT),
    Row("nodeport-local", POD, NODE_IP, 30080, "accept", BOTH_OUT),
    Row("nodeport-local", NODE_IP, NODE_IP, 30080, "accept", BOTH_OUT, True),
    Row("nodeport-remote", OUTSIDE, NODE_IP, 30080, "drop"),
    Row("nodeport-remote", POD, NODE_IP, 30080, "accept", THERE_OUT),
    Row("nodeport-remote", NODE_IP, NODE_IP, 30080, "accept", THERE_OUT, True),
    Row("nodeport-remote", POD, "10.96.0.41", 80, "accept", THERE_OUT),
    *(Row("external", s, "1.2.3.4", 80, "accept", BOTH_OUT, True) for s in (POD, NODE_IP, OUTSIDE)),
    Row("external", OUTSIDE, "10.0.0.1", 80, "accept", BOTH_OUT, True),
    Row("external-local", OUTSIDE, "1.2.3.4", 80, "accept", HERE_OUT),
    Row("external-local", POD, "1.2.3.4", 80, "accept", BOTH_OUT),
    *(Row("lb", s, "5.5.5.5", 80, "accept", BOTH_OUT, True) for s in (POD, NODE_IP, OUTSIDE)),
    Row("lb-local", OUTSIDE, "5.5.5.5", 80, "accept", HERE_OUT),
    Row("lb-local", POD, "5.5.5.5", 80, "accept", BOTH_OUT),
    Row("lb-local", NODE_IP, "5.5.5.5", 80, "accept", BOTH_OUT, True),
    Row("lb-ranges", OUTSIDE, "5.5.5.5", 80, "accept", BOTH_OUT, True),
    Row("lb-ranges", "203.0.113.130", "5.5.5.5", 80, "drop"),
    Row("lb-ranges", POD, "5.5.5.5", 80, "drop"),
    Row("lb-ranges", NODE_IP, "5.5.5.5", 80, "accept", BOTH_OUT, True),
    Row("lb-ranges", "5.5.5.5", "5.5.5.5", 80, "accept", BOTH_OUT, True),
    Row("lb-ranges", "203.0.113.130", NODE_IP, 30080, "accept", BOTH_OUT, True),
    Row("lb-ranges-narrow", "5.5.5.5", "5.5.5.5", 80, "drop"),
    Row("lb-ranges-narrow", NODE_IP, "5.5.5.5", 80, "drop"),
    Row("lb-ranges-other-family", "203.0.113.130", "5.5.5.5", 80, "accept", BOTH_OUT, True),
    Row("lb-proxy-mode", OUTSIDE, "5.5.5.5", 80, "passthrough"),
    Row("internal-local", POD, "10.96.0.41", 80, "accept", HERE_OUT),
    Row("internal-local", NODE_IP, "10.96.0.41", 80, "accept", HERE_OUT, True),
    Row("internal-local", OUTSIDE, "1.2.3.4", 80, "accept", BOTH_OUT, True),
    *(Row("internal-remote", s, "10.96.0.41", 80, "drop") for s in (POD, NODE_IP, OUTSIDE)),
    Row("headless", POD, "1.2.3.4", 80, "passthrough"),
    Row("external-name", POD, "10.96.0.41", 80, "passthrough"),
    Row("sticky", POD, "10.96.0.41", 80, "accept", BOTH_OUT, sticky=10800),
    Row("sticky-60", POD, "10.96.0.41", 80, "accept", BOTH_OUT, sticky=60),
    Row("dying", POD, "10.96.0.41", 80, "accept", HERE_OUT),
    Row("dying-beside", POD, "10.96.0.41", 80, "accept", THERE_OUT),
    Row("dying-local", OUTSIDE, NODE_IP, 30080, "accept", HERE_OUT),
    Row("dying-local", POD, NODE_IP, 30080, "accept", THERE_OUT),
    Row("dead", POD, "10.96.0.41", 80, "reject"),
    Row("zones", POD, "10.96.0.41", 80, "accept", HERE_OUT),
    Row("zones-partial", POD, "10.96.0.41", 80, "accept", BOTH_OUT),
    Row("zones-elsewhere", POD, "10.96.0.41", 80, "accept", BOTH_OUT),
    Row("nodes", POD, "10.96.0.41", 80, "accept", HERE_OUT),
    Row("foreign", POD, "10.96.0.41", 80, "passthrough"),
    Row("foreign-slice", POD, "10.96.0.41", 80, "reject"),
    Row("other-port-name", POD, "10.96.0.41", 80, "reject"),
    Row("two-slices", POD, "10.96.0.41", 80, "accept", f"{BOTH_OUT} 10.244.1.5:9090"),
    Row("wrong-family", POD, "10.96.0.41", 80, "accept", HERE_OUT),
    Row("udp", POD, "10.96.0.41", 80, "accept", HERE_OUT, protocol="UDP"),
    Row("udp", POD, "10.96.0.41", 80, "reject"),
    Row("sctp", POD, "10.96.0.41", 80, "accept", HERE_OUT, protocol="SCTP"),
    Row("dual", POD, "10.96.0.41", 80, "accept", HERE_OUT),
    Row("dual", "fd00:10:244::9", "fd00:10:96::41", 80, "accept", "[fd00:10:244::1]:8080"),
    Row("dual", "2001:db8::1", "fd00:10:96::41", 80, "accept", "[fd00:10:244::1]:8080", True),
    Row("single-stack-nodeport", "2001:db8::1", "2001:db8::2", 30080, "passthrough"),
    Row("cidr", POD, "10.96.0.99", 80, "drop"),
    Row("cidr", POD, "10.97.0.99", 80, "passthrough"),
]  # fmt: skip
