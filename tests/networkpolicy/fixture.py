"""What every table is about: 3 namespaces x 3 pods x 2 ports x 3 protocols, and how policies are written."""

from collections.abc import Callable
from typing import Any, NamedTuple

NAMESPACES = ("x", "y", "z")
PODS = ("a", "b", "c")
PORTS = (80, 81)
PROTOCOLS = ("TCP", "UDP", "SCTP")
PORT_NAMES = {
    (number, protocol): f"serve-{number}-{protocol.lower()}"
    for number in PORTS
    for protocol in PROTOCOLS
}


class P(NamedTuple):
    """A pod of the fixture."""

    ns: str
    name: str

    @property
    def index(self) -> int:
        return NAMESPACES.index(self.ns) * 3 + PODS.index(self.name)

    @property
    def node(self) -> str:
        return f"node-{self.index % 2}"

    @property
    def ip(self) -> str:
        return f"10.244.{self.index % 2}.{self.index + 2}"

    @property
    def ip6(self) -> str:
        return f"fd00:10:244:{self.index % 2}::{self.index + 2:x}"

    def __str__(self) -> str:
        return f"{self.ns}/{self.name}"


ALL = tuple(P(n, p) for n in NAMESPACES for p in PODS)


class F(NamedTuple):
    """One flow."""

    src: P
    dst: P
    port: int
    protocol: str


FLOWS = tuple(
    F(s, d, port, protocol) for s in ALL for d in ALL for port in PORTS for protocol in PROTOCOLS
)

Allowed = Callable[[F], bool]


class Row(NamedTuple):
    """Policies and the flows that they allow; a pod to itself is always allowed."""

    name: str
    policies: list[dict[str, Any]]
    allowed: Allowed

    def expected(self, flow: F) -> bool:
        return flow.src == flow.dst or self.allowed(flow)


def fixture() -> list[dict[str, Any]]:
    """Namespaces, nodes and pods as manifests."""
    found: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": n, "labels": {"ns": n, **({"tier": "front"} if n == "x" else {})}},
        }
        for n in NAMESPACES
    ]
    for number in (0, 1):
        addresses = (f"172.30.0.{10 + number}", f"fd00:172:30::1{number}")
        found.append(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": f"node-{number}", "labels": {"number": str(number)}},
                "spec": {"podCIDR": f"10.244.{number}.0/24"},
                "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]},
            }
        )
    return found + [pod(p) for p in ALL]


def pod(p: P) -> dict[str, Any]:
    """One pod; only c has the label ``extra``."""
    ports = [
        {"name": name, "containerPort": number, "protocol": protocol}
        for (number, protocol), name in PORT_NAMES.items()
    ]
    labels = {"pod": p.name, **({"extra": "yes"} if p.name == "c" else {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": p.name, "namespace": p.ns, "labels": labels, "uid": f"uid-{p.index}"},
        "spec": {"nodeName": p.node, "containers": [{"name": "c", "image": "x", "ports": ports}]},
        "status": {"phase": "Running", "podIP": p.ip, "podIPs": [{"ip": p.ip}, {"ip": p.ip6}]},
    }


def netpol(name: str, ns: str, spec: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": ns, **meta},
        "spec": spec,
    }


DENY_IN = {"podSelector": {}, "policyTypes": ["Ingress"]}
AUDIT = {"annotations": {"kubewire.dev/mode": "audit"}}


def audited(policy: dict[str, Any]) -> dict[str, Any]:
    return {**policy, "metadata": {**policy["metadata"], **AUDIT}}


def cluster(name: str, tier: str, priority: int, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": priority, **spec},
    }


def labels(**pairs: str) -> dict[str, Any]:
    return {"matchLabels": pairs}


def expr(key: str, operator: str, *values: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"key": key, "operator": operator}
    if values:
        entry["values"] = list(values)
    return {"matchExpressions": [entry]}
