"""Rows of the table: ClusterNetworkPolicies, and policies in audit mode."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from networkpolicy.fixture import DENY_IN, Allowed, Row, audited, cluster, expr, labels, netpol

X_PODS = {"namespaces": labels(ns="x")}
ANY_PEER = [{"namespaces": {}}]
FROM_Y = [{"namespaces": labels(ns="y")}]
RANGE = [{"tcp": {"destinationPort": {"range": {"start": 81, "end": 8080}}}}]
OPEN_IN = netpol("open", "x", {"podSelector": {}, "ingress": [{}]})


def rows() -> Iterator[Row]:
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
    outside = {"networks": ["0.0.0.0/0", "::/0"]}
    for (action, allowed), unknown in product(
        (("Accept", True), ("Deny", False), ("Pass", False)), ({"galaxies": {}}, outside)
    ):
        yield Row(
            f"an unknown peer fails closed: {action} {next(iter(unknown))}",
            [
                cluster(
                    "u",
                    "Admin",
                    1,
                    subject=X_PODS,
                    ingress=one(action, [unknown, *FROM_Y]),
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
