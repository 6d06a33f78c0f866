"""Random Services, slices and nodes, with all that people write; and flows that meet them."""

from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.trace import Flow
from tests.kubeproxy.oracle import JSON, World, family

NODES = {
    "na": (("192.0.2.1", "fd00:2::1"), "z1"),
    "nb": (("192.0.2.2", "fd00:2::2"), "z2"),
    "nc": (("192.0.2.3", "fd00:2::3"), ""),
}
PODS = ("10.244.0.0/16", "fd00:244::/56")
STRANGERS = {4: ["203.0.113.77", "203.0.113.9"], 6: ["2001:db8::77", "2001:db8::9"]}
BALANCERS = {4: ["198.51.100.1", "198.51.100.2"], 6: ["2001:db8:1::1"]}
EXTERNAL = {4: ["203.0.113.200", "192.0.2.1"], 6: ["2001:db8:1::9"]}
USELESS = {
    4: ["127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0"],
    6: ["::1", "fe80::1", "ff02::1"],
}
RANGES = [
    "203.0.113.0/24",
    " 10.244.1.0/24",
    "192.0.2.0/24",
    "198.51.100.1/32",
    "0.0.0.0/0",
    "2001:db8::/64",
    "fd00:244::/60",
    "010.244.000.0/22",
    "203.0.113.9/24",
]
CONDITIONS: list[JSON] = [
    {"ready": True},
    {},
    {"ready": True, "serving": True, "terminating": False},
    {"ready": True, "serving": True, "terminating": True},
    {"ready": False},
    {"ready": False, "serving": False},
    {"ready": False, "serving": True, "terminating": True},
    {"ready": False, "serving": False, "terminating": True},
]  # fmt: skip
NODE_PORTS_ON: list[tuple[str, ...] | None] = [None, None, ("all",), ("primary",), ("192.0.2.0/24",), ("localhost",), ("127.0.0.0/8",), ("primary", "localhost"), ("fd00:2::/64",)]  # fmt: skip


JUNK: list[Any] = [None, "", "x", -1, 0, 70000, [], {}, True, 1.5, [None], {"a": None}, "é", "None", "TCP", "Local", "fd00::1", "fd00::1%eth0", "::ffff:10.0.0.1", "010.1.1.1", "10.96.0.10/24"]  # fmt: skip
"""What may stand anywhere in a file."""


def pod_ips(version: int) -> list[str]:
    first = "10.244.{}.{}" if version == 4 else "fd00:244:0:{}::{}"
    return [first.format(1 + n // 3, 1 + n % 3) for n in range(6)]


class Maker:
    """Draws one world."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def maybe(self, chance: float) -> bool:
        return self._random.random() < chance

    def one(self, *of: Any) -> Any:
        return self._random.choice(of)

    def some(self, of: list[Any]) -> list[Any]:
        return self._random.sample(of, self._random.randint(1, min(3, len(of))))

    def world(self, mode: str) -> World:
        """Everything, and one of the nodes."""
        objects: list[JSON] = [_node(name) for name in NODES]
        for index in range(self._random.randint(1, 3)):
            service = self._service(f"s{index}")
            objects.append(service)
            objects += [self._slice(service, k) for k in range(self._random.randint(0, 3))]
        name = self.one(*NODES)
        addresses, zone = NODES[name]
        pods = self.one(PODS, PODS, PODS[:1], PODS[1:], ())
        return World(objects, name, addresses, zone, mode, pods, self.maybe(0.15), self.one(*NODE_PORTS_ON), self.maybe(0.7))  # fmt: skip

    def _service(self, name: str) -> JSON:
        kind = self.one("ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer", "ExternalName")
        versions = self.one((4,), (4,), (6,), (4, 6), (6, 4))
        own = [f"10.96.0.{self.one(10, 11, 12)}" if v == 4 else f"fd00:96::{self.one('a', 'b', 'c')}" for v in versions]  # fmt: skip
        if self.maybe(0.06):
            own = ["None"]
        elif self.maybe(0.1):
            own = [ip.replace("10.96.", "010.096.") for ip in own]
        spec: JSON = {"type": kind, "clusterIP": own[0], "clusterIPs": own, "ports": self._ports(kind)}  # fmt: skip
        meta: JSON = {"name": name, "namespace": self.one("d", "e"), "creationTimestamp": f"2026-01-0{self.one(1, 2)}T00:00:00Z"}  # fmt: skip
        if self.maybe(0.05):
            meta["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
        self._policies(spec)
        found: JSON = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
        if kind == "LoadBalancer":
            ingress = [{"ip": ip} | ({"ipMode": self.one("VIP", "Proxy")} if self.maybe(0.3) else {}) for ip in self.some([*BALANCERS[4], *BALANCERS[6]])]  # fmt: skip
            found["status"] = {"loadBalancer": {"ingress": ingress}}
            if self.maybe(0.5):
                spec["loadBalancerSourceRanges"] = self.some(RANGES)
        return found

    def _ports(self, kind: str) -> list[JSON]:
        places = {(self.one(80, 81, 443), self.one("TCP", "TCP", "UDP", "SCTP")) for _ in range(self.one(1, 1, 2, 3))}  # fmt: skip
        found = []
        taken = set()
        for index, (number, protocol) in enumerate(sorted(places)):
            port: JSON = {"name": f"p{index}", "port": number, "protocol": protocol}
            node_port = self.one(30080, 30081)
            if kind in ("NodePort", "LoadBalancer") and (node_port, protocol) not in taken:
                port["nodePort"] = node_port
                taken.add((node_port, protocol))
            if protocol == "TCP" and self.maybe(0.25):
                port["appProtocol"] = self.one("http", "kubernetes.io/h2c", "https")
            found.append(port)
        if len(found) == 1 and self.maybe(0.3):
            del found[0]["name"]
        return found

    def _policies(self, spec: JSON) -> None:
        if self.maybe(0.3):
            spec["internalTrafficPolicy"] = self.one("Local", "Cluster")
        if self.maybe(0.5):
            spec["externalTrafficPolicy"] = self.one("Local", "Cluster")
        if self.maybe(0.3):
            spec["externalIPs"] = self.some([*EXTERNAL[4], *EXTERNAL[6]])
        if self.maybe(0.25):
            spec["sessionAffinity"] = "ClientIP"
            if self.maybe(0.6):
                spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": self.one(1, 86400)}}

    def _slice(self, service: JSON, index: int) -> JSON:
        own = service["spec"]["clusterIP"]
        version = self.one(4, 6) if own == "None" or self.maybe(0.2) else family(own)
        name = service["metadata"]["name"]
        labels = {"kubernetes.io/service-name": name}
        if self.maybe(0.04):
            labels["service.kubernetes.io/headless"] = ""
        hints = [self.one(None, None, "forZones", "forNodes")]
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-{index}", "namespace": service["metadata"]["namespace"], "labels": labels},
            "addressType": f"IPv{version}",
            "ports": [self._endpoint_port(p) for p in service["spec"]["ports"] if self.maybe(0.9)],
            "endpoints": [self._endpoint(version, hints[0]) for _ in range(self._random.randint(0, 4))],
        }  # fmt: skip

    def _endpoint_port(self, port: JSON) -> JSON:
        given = {k: port[k] for k in ("name", "protocol") if k in port}
        if port["protocol"] == "TCP" and self.maybe(0.1):
            del given["protocol"]
        return given | {"port": self.one(8080, 8081, port["port"])}

    def _endpoint(self, version: int, hints: str | None) -> JSON:
        ip = self.one(*pod_ips(version), STRANGERS[version][0], *(NODES[n][0][version == 6] for n in NODES))  # fmt: skip
        if self.maybe(0.04):
            ip = self.one(*USELESS[version], *pod_ips(10 - version))
        found: JSON = {"addresses": [ip], "conditions": self.one(*CONDITIONS[:3], *CONDITIONS)}
        if self.maybe(0.9):
            found["nodeName"] = self.one(*NODES)
        if hints and self.maybe(0.95):
            names = list(NODES) if hints == "forNodes" else ["z1", "z2", "z3"]
            found["hints"] = {hints: [{"name": n} for n in self.some(names)]}
        return found

    def harmed(self, objects: list[JSON]) -> list[JSON]:
        """The same with one value that is something else, or is not there."""
        copied = deepcopy(objects)
        inside: Any = self.one(*copied)
        key: Any = self.one("metadata", "spec", "status", "endpoints", "ports", "addressType")
        while isinstance(inside.get(key) if isinstance(inside, dict) else inside[key], dict | list):
            deeper = inside[key]
            if not deeper or self.maybe(0.2):
                break
            inside = deeper
            key = self.one(*inside) if isinstance(inside, dict) else self.one(*range(len(inside)))
        if isinstance(inside, dict) and self.maybe(0.2):
            inside.pop(key, None)
        else:
            inside[key] = deepcopy(self.one(*JUNK))
        return copied

    def flows(self, node: str) -> Iterator[Flow]:
        """To everything that may be somebody's, from all kinds of senders."""
        for version, places in ((4, "10.96.0.{}"), (6, "fd00:96::{}")):
            ends = ("10", "11", "12", "99") if version == 4 else ("a", "b", "c", "ff")
            here, there = NODES[node][0][version == 6], NODES["nb"][0][version == 6]
            own = "127.0.0.1" if version == 4 else "::1"
            targets = [*map(places.format, ends), *BALANCERS[version], *EXTERNAL[version], here, there, own]  # fmt: skip
            senders = [*pod_ips(version), *STRANGERS[version], here, own, BALANCERS[version][0]]
            for target in targets:
                for sender in self._random.sample(senders, 3):
                    for protocol in ("TCP", "UDP", "SCTP"):
                        yield Flow(sender, target, self.one(80, 80, 81, 443, 30080, 30081), protocol)  # fmt: skip


def _node(name: str) -> JSON:
    ips, zone = NODES[name]
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    addresses = [{"type": "InternalIP", "address": ip} for ip in ips]
    return {"kind": "Node", "metadata": {"name": name, "labels": labels}, "status": {"addresses": addresses}}  # fmt: skip


def config(world: World) -> Config:
    """How the node is configured."""
    return Config(
        mode=world.mode,
        cluster_cidrs=world.pods,
        masquerade_all=world.masquerade_all,
        node_port_addresses=world.node_ports_on,
        localhost_node_ports=world.localhost_node_ports,
    )
