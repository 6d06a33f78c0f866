"""The table: policies -> who reaches whom, in a fixture of 3 namespaces x 3 pods x 2 ports x 3 protocols.

A row holds policies as manifests and a predicate that says, in the words of the specification,
which flows they allow. Peers, ports and subjects are families whose products make most rows; what
does not fit a product stands by itself below. Every oracle (plan, evaluator, kernel) runs the rows.
"""

from collections.abc import Callable, Iterator
from itertools import product
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


PEERS: list[tuple[str, list[dict[str, Any]] | None, Callable[[P], bool]]] = [
    ("anyone", None, lambda p: True),
    ("empty list", [], lambda p: True),
    ("pods of own namespace", [{"podSelector": {}}], lambda p: p.ns == "x"),
    ("pod b here", [{"podSelector": labels(pod="b")}], lambda p: p == P("x", "b")),
    ("all namespaces", [{"namespaceSelector": {}}], lambda p: True),
    ("namespace y", [{"namespaceSelector": labels(ns="y")}], lambda p: p.ns == "y"),
    (
        "namespace by name",
        [{"namespaceSelector": labels(**{"kubernetes.io/metadata.name": "z"})}],
        lambda p: p.ns == "z",
    ),
    (
        "and",
        [{"namespaceSelector": labels(ns="y"), "podSelector": labels(pod="b")}],
        lambda p: p == P("y", "b"),
    ),
    (
        "or",
        [{"namespaceSelector": labels(ns="y")}, {"podSelector": labels(pod="b")}],
        lambda p: p.ns == "y" or p == P("x", "b"),
    ),
    ("in", [{"namespaceSelector": expr("ns", "In", "y", "z")}], lambda p: p.ns in "yz"),
    (
        "notin absent key",
        [{"namespaceSelector": expr("tier", "NotIn", "back"), "podSelector": {}}],
        lambda p: True,
    ),
    ("notin", [{"namespaceSelector": expr("tier", "NotIn", "front")}], lambda p: p.ns != "x"),
    (
        "exists",
        [{"namespaceSelector": {}, "podSelector": expr("extra", "Exists")}],
        lambda p: p.name == "c",
    ),
    (
        "does not exist",
        [{"namespaceSelector": {}, "podSelector": expr("extra", "DoesNotExist")}],
        lambda p: p.name != "c",
    ),
    (
        "block",
        [{"ipBlock": {"cidr": "10.244.0.0/24"}}, {"ipBlock": {"cidr": "fd00:10:244:0::/64"}}],
        lambda p: p.node == "node-0",
    ),
    (
        "except",
        [
            {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.1.0/24"]}},
            {"ipBlock": {"cidr": "::/0", "except": ["fd00:10:244:1::/64"]}},
        ],
        lambda p: p.node == "node-0",
    ),
    (
        "except is no global deny",
        [
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": [f"{P('y', 'b').ip}/32"]}},
            {"ipBlock": {"cidr": "fd00::/16"}},
            {"namespaceSelector": labels(ns="y")},
        ],
        lambda p: True,
    ),
    ("nobody", [{"podSelector": labels(pod="nobody")}], lambda p: False),
]

PORT_LISTS: list[tuple[str, list[dict[str, Any]] | None, Callable[[int, str], bool]]] = [
    ("any port", None, lambda n, t: True),
    ("no port", [], lambda n, t: True),
    ("80", [{"port": 80}], lambda n, t: (n, t) == (80, "TCP")),
    ("81 udp", [{"port": 81, "protocol": "UDP"}], lambda n, t: (n, t) == (81, "UDP")),
    ("80 sctp", [{"port": 80, "protocol": "SCTP"}], lambda n, t: (n, t) == (80, "SCTP")),
    ("all of udp", [{"protocol": "UDP"}], lambda n, t: t == "UDP"),
    ("range", [{"port": 79, "endPort": 80}], lambda n, t: (n, t) == (80, "TCP")),
    ("wide range", [{"port": 80, "endPort": 90, "protocol": "UDP"}], lambda n, t: t == "UDP"),
    ("named", [{"port": "serve-81-tcp"}], lambda n, t: (n, t) == (81, "TCP")),
    (
        "named udp",
        [{"port": "serve-80-udp", "protocol": "UDP"}],
        lambda n, t: (n, t) == (80, "UDP"),
    ),
    ("name of another protocol", [{"port": "serve-80-udp"}], lambda n, t: False),
    (
        "two",
        [{"port": 80}, {"port": 81, "protocol": "SCTP"}],
        lambda n, t: (n, t) in ((80, "TCP"), (81, "SCTP")),
    ),
]


def rule(field: str, peers: Any, ports: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if peers is not None:
        found[field] = peers
    if ports is not None:
        found["ports"] = ports
    return found


def _products() -> Iterator[Row]:
    for (peer, peers, is_peer), (port, ports, is_port) in product(PEERS, PORT_LISTS):
        spec = {"podSelector": labels(pod="a"), "ingress": [rule("from", peers, ports)]}
        yield Row(
            f"ingress of x/a from {peer} on {port}",
            [netpol("in", "x", spec)],
            lambda f, p=is_peer, n=is_port: (
                f.dst != P("x", "a") or (p(f.src) and n(f.port, f.protocol))
            ),
        )
        spec = {"podSelector": labels(pod="a"), "egress": [rule("to", peers, ports)]}
        yield Row(
            f"egress of x/a to {peer} on {port}",
            [netpol("out", "x", {**spec, "policyTypes": ["Egress"]})],
            lambda f, p=is_peer, n=is_port: (
                f.src != P("x", "a") or (p(f.dst) and n(f.port, f.protocol))
            ),
        )


SUBJECTS: list[tuple[str, dict[str, Any], Callable[[P], bool]]] = [
    ("empty", {}, lambda p: p.ns == "x"),
    ("label", labels(pod="b"), lambda p: p == P("x", "b")),
    ("in", expr("pod", "In", "a", "c"), lambda p: p.ns == "x" and p.name in "ac"),
    ("notin", expr("extra", "NotIn", "yes"), lambda p: p.ns == "x" and p.name != "c"),
    ("exists", expr("extra", "Exists"), lambda p: p == P("x", "c")),
    ("does not exist", expr("extra", "DoesNotExist"), lambda p: p.ns == "x" and p.name != "c"),
    ("nobody", labels(pod="nobody"), lambda p: False),
]
TYPES: list[tuple[str, dict[str, Any], bool, bool]] = [
    ("no types, no rules", {}, True, False),
    ("no types, empty rules", {"ingress": [], "egress": []}, True, False),
    ("no types, null", {"ingress": None, "egress": None, "policyTypes": None}, True, False),
    ("ingress", {"policyTypes": ["Ingress"]}, True, False),
    ("egress", {"policyTypes": ["Egress"]}, False, True),
    ("both", {"policyTypes": ["Ingress", "Egress"]}, True, True),
    ("egress rules of an ingress policy", {"policyTypes": ["Ingress"], "egress": []}, True, False),
    ("open egress", {"policyTypes": ["Ingress", "Egress"], "egress": [{}]}, True, False),
    ("open ingress", {"policyTypes": ["Ingress", "Egress"], "ingress": [{}]}, False, True),
    ("types by rules", {"egress": [{"to": [{"podSelector": labels(pod="nobody")}]}]}, True, True),
]


def _isolation() -> Iterator[Row]:
    for (who, selector, is_subject), (what, spec, shuts_in, shuts_out) in product(SUBJECTS, TYPES):
        yield Row(
            f"isolation of {who}: {what}",
            [netpol("p", "x", {"podSelector": selector, **spec})],
            lambda f, s=is_subject, i=shuts_in, o=shuts_out: (
                not (i and s(f.dst)) and not (o and s(f.src))
            ),
        )


XA, XB, YB = P("x", "a"), P("x", "b"), P("y", "b")
DENY_IN = {"podSelector": {}, "policyTypes": ["Ingress"]}
DENY_BOTH = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def _several() -> Iterator[Row]:
    allow_y = {
        "podSelector": labels(pod="a"),
        "ingress": [{"from": [{"namespaceSelector": labels(ns="y")}]}],
    }
    allow_80 = {"podSelector": labels(pod="a"), "ingress": [{"ports": [{"port": 80}]}]}
    yield Row(
        "union of a deny and an allow",
        [netpol("deny", "x", DENY_IN), netpol("allow", "x", allow_y)],
        lambda f: f.dst.ns != "x" or (f.dst == XA and f.src.ns == "y"),
    )
    yield Row(
        "peers and ports of two policies do not mix",
        [netpol("one", "x", allow_y), netpol("two", "x", allow_80)],
        lambda f: f.dst != XA or f.src.ns == "y" or (f.port, f.protocol) == (80, "TCP"),
    )
    two_rules = {
        "podSelector": labels(pod="a"),
        "ingress": [
            {"from": [{"podSelector": labels(pod="b")}], "ports": [{"port": 80}]},
            {"from": [{"podSelector": labels(pod="c")}], "ports": [{"port": 81}]},
        ],
    }
    yield Row(
        "peers and ports of two rules do not mix",
        [netpol("p", "x", two_rules)],
        lambda f: (
            f.dst != XA
            or (f.src == XB and (f.port, f.protocol) == (80, "TCP"))
            or (f.src == P("x", "c") and (f.port, f.protocol) == (81, "TCP"))
        ),
    )
    yield Row(
        "both ends must allow",
        [
            netpol("in", "x", allow_y),
            netpol(
                "out",
                "y",
                {
                    "podSelector": {},
                    "policyTypes": ["Egress"],
                    "egress": [{"ports": [{"port": 81}]}],
                },
            ),
        ],
        lambda f: (
            (f.dst != XA or f.src.ns == "y")
            and (f.src.ns != "y" or (f.port, f.protocol) == (81, "TCP"))
        ),
    )
    yield Row(
        "default deny everywhere",
        [netpol("deny", n, DENY_BOTH) for n in NAMESPACES],
        lambda f: False,
    )
    yield Row(
        "audit denies nothing",
        [netpol("deny", "x", DENY_BOTH, annotations={"kubewire.dev/mode": "audit"})],
        lambda f: True,
    )
    yield Row(
        "audit allows nothing either",
        [
            netpol("deny", "x", DENY_IN),
            netpol("allow", "x", allow_y, annotations={"kubewire.dev/mode": "audit"}),
        ],
        lambda f: f.dst.ns != "x",
    )


AUDIT = {"annotations": {"kubewire.dev/mode": "audit"}}
X_PODS = {"namespaces": labels(ns="x")}
ANY_PEER = [{"namespaces": {}}]
FROM_Y = [{"namespaces": labels(ns="y")}]
RANGE = [{"tcp": {"destinationPort": {"range": {"start": 81, "end": 8080}}}}]
OPEN_IN = netpol("open", "x", {"podSelector": {}, "ingress": [{}]})


def _tiers() -> Iterator[Row]:
    def one(action: str, peers: Any, **more: Any) -> list[dict[str, Any]]:
        return [{"action": action, "from": peers, **more}]

    deny = cluster("deny", "Admin", 10, subject=X_PODS, ingress=one("Deny", FROM_Y))
    to_x_from_y: Allowed = lambda f: not (f.dst.ns == "x" and f.src.ns == "y")  # noqa: E731
    yield Row("admin deny", [deny], to_x_from_y)
    yield Row("an admin deny in audit mode denies nothing", [audited(deny)], lambda f: True)
    yield Row(
        "a rehearsal of every tier decides nothing",
        [
            audited(cluster("p", "Admin", 1, subject=X_PODS, ingress=one("Pass", ANY_PEER))),
            audited(deny),
            audited(netpol("deny", "x", DENY_IN)),
            audited(cluster("b", "Baseline", 1, subject=X_PODS, ingress=one("Deny", ANY_PEER))),
        ],
        lambda f: True,
    )
    yield Row(
        "a rehearsal beside what is enforced",
        [
            audited(cluster("p", "Admin", 1, subject=X_PODS, ingress=one("Accept", ANY_PEER))),
            deny,
            OPEN_IN,
        ],
        to_x_from_y,
    )
    yield Row(
        "pods without a namespaceSelector are those of every namespace",
        [
            cluster(
                "omitted",
                "Admin",
                3,
                subject=X_PODS,
                ingress=one("Deny", [{"pods": {"podSelector": expr("extra", "Exists")}}]),
            )
        ],
        lambda f: not (f.dst.ns == "x" and f.src.name == "c"),
    )
    yield Row(
        "accept a range, deny everything else",
        [
            cluster(
                "range",
                "Admin",
                3,
                subject=X_PODS,
                egress=[
                    {"action": "Accept", "to": FROM_Y, "protocols": RANGE},
                    {"action": "Deny", "to": FROM_Y},
                ],
            )
        ],
        lambda f: not (f.src.ns == "x" and f.dst.ns == "y") or (f.port, f.protocol) == (81, "TCP"),
    )
    yield Row("admin deny beats a NetworkPolicy", [deny, OPEN_IN], to_x_from_y)
    accept = cluster("accept", "Admin", 5, subject=X_PODS, ingress=one("Accept", FROM_Y))
    yield Row("lower priority number first", [deny, accept], lambda f: True)
    yield Row(
        "admin accept beats isolation",
        [accept, netpol("deny", "x", DENY_IN)],
        lambda f: f.dst.ns != "x" or f.src.ns == "y",
    )
    passing = cluster("pass", "Admin", 5, subject=X_PODS, ingress=one("Pass", FROM_Y))
    yield Row("pass skips the rest of the tier", [deny, passing], lambda f: True)
    yield Row(
        "pass goes to NetworkPolicy",
        [deny, passing, netpol("deny", "x", DENY_IN)],
        lambda f: f.dst.ns != "x",
    )
    base = cluster("base", "Baseline", 0, subject=X_PODS, ingress=one("Deny", ANY_PEER))
    yield Row("baseline deny", [base], lambda f: f.dst.ns != "x")
    yield Row("baseline after NetworkPolicy", [base, OPEN_IN], lambda f: True)
    yield Row(
        "pass reaches the baseline",
        [passing, base],
        lambda f: f.dst.ns != "x",
    )
    order = cluster(
        "order",
        "Admin",
        1,
        subject=X_PODS,
        ingress=[*one("Accept", FROM_Y), *one("Deny", ANY_PEER)],
    )
    yield Row("first rule that matches", [order], lambda f: f.dst.ns != "x" or f.src.ns == "y")
    yield Row(
        "no implicit isolation",
        [cluster("quiet", "Admin", 1, subject=X_PODS)],
        lambda f: True,
    )
    yield Row(
        "subject by pods",
        [
            cluster(
                "pods",
                "Admin",
                1,
                subject={"pods": {"namespaceSelector": {}, "podSelector": labels(pod="a")}},
                ingress=one("Deny", ANY_PEER),
            )
        ],
        lambda f: f.dst.name != "a",
    )
    for name, protocols, is_port in CLUSTER_PORTS:
        yield Row(
            f"admin deny ingress on {name}",
            [
                cluster(
                    "p",
                    "Admin",
                    1,
                    subject=X_PODS,
                    ingress=one("Deny", FROM_Y, protocols=protocols),
                )
            ],
            lambda f, n=is_port: to_x_from_y(f) or not n(f.port, f.protocol),
        )
        yield Row(
            f"admin deny egress on {name}",
            [
                cluster(
                    "p",
                    "Admin",
                    1,
                    subject=X_PODS,
                    egress=[{"action": "Deny", "to": FROM_Y, "protocols": protocols}],
                )
            ],
            lambda f, n=is_port: (
                not (f.src.ns == "x" and f.dst.ns == "y") or not n(f.port, f.protocol)
            ),
        )
    networks = [{"networks": ["10.244.1.0/24", "fd00:10:244:1::/64"]}]
    yield Row(
        "networks",
        [cluster("n", "Baseline", 1, subject=X_PODS, egress=[{"action": "Deny", "to": networks}])],
        lambda f: f.src.ns != "x" or f.dst.node != "node-1",
    )
    for action, allowed in (("Accept", True), ("Deny", False), ("Pass", False)):
        yield Row(
            f"an unknown peer fails closed: {action}",
            [
                cluster(
                    "u",
                    "Admin",
                    1,
                    subject=X_PODS,
                    ingress=one(action, [{"galaxies": {}}, *FROM_Y]),
                )
            ],
            lambda f, a=allowed: a or f.dst.ns != "x",
        )


CLUSTER_PORTS: list[tuple[str, list[dict[str, Any]], Callable[[int, str], bool]]] = [
    (
        "tcp 80",
        [{"tcp": {"destinationPort": {"number": 80}}}],
        lambda n, t: (n, t) == (80, "TCP"),
    ),
    (
        "udp range",
        [{"udp": {"destinationPort": {"range": {"start": 80, "end": 81}}}}],
        lambda n, t: t == "UDP",
    ),
    (
        "sctp 81",
        [{"sctp": {"destinationPort": {"number": 81}}}],
        lambda n, t: (n, t) == (81, "SCTP"),
    ),
    (
        "a named port",
        [{"destinationNamedPort": "serve-81-udp"}],
        lambda n, t: (n, t) == (81, "UDP"),
    ),
    (
        "two",
        [
            {"tcp": {"destinationPort": {"number": 80}}},
            {"udp": {"destinationPort": {"number": 81}}},
        ],
        lambda n, t: (n, t) in ((80, "TCP"), (81, "UDP")),
    ),
]

ROWS: tuple[Row, ...] = (*_isolation(), *_several(), *_tiers(), *_products())
