"""The table: policies -> who reaches whom, in a fixture of 3 namespaces x 3 pods x 2 ports x 3 protocols.

A row holds policies as manifests and a predicate that says, in the words of the specification,
which flows they allow. Peers, ports and subjects are families whose products make most rows; what
does not fit a product stands by itself below. Every oracle (plan, evaluator, kernel) runs the rows.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from networkpolicy import tiers
from networkpolicy.fixture import DENY_IN, NAMESPACES, P, Row, expr, labels, netpol

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


ROWS: tuple[Row, ...] = (*_isolation(), *_several(), *tiers.rows(), *_products())
