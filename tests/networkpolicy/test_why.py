from ipaddress import ip_address
from typing import Any

import pytest

from kubewire.api.errors import InputError
from kubewire.networkpolicy.why import Asker, from_json, from_text, sets_by_name
from networkpolicy import worlds
from networkpolicy.fixture import P as Pod
from networkpolicy.fixture import cluster, fixture, labels, netpol, pod
from networkpolicy.worlds import ALLOW_80, ONLY_NODE_1, Y_B, ask, service, slice_of

JSON = dict[str, Any]
DENY_Y = netpol("deny", "y", {"podSelector": {}})
OUT_X = netpol("out", "x", {"podSelector": {}, "policyTypes": ["Egress"]})


def host_pod(name: str, node: int, **status: Any) -> JSON:
    found = pod(Pod("x", "a"))
    found["metadata"] = {"name": name, "namespace": "x", "labels": {"pod": "a"}, "uid": name}
    found["spec"] |= {"hostNetwork": True, "nodeName": f"node-{node}"}
    address = f"172.30.0.{10 + node}"
    found["status"] = {"podIP": address, "podIPs": [{"ip": address}], "hostIP": address, **status}
    return found


def finished(name: str, address: str) -> JSON:
    found = pod(Pod("x", "a"))
    found["metadata"] = {"name": name, "namespace": "x", "labels": {"pod": "a"}, "uid": name}
    found["status"] = {"phase": "Succeeded", "podIP": address}
    return found


ONLY_NODE_1_IPV6 = netpol(
    "node1",
    "y",
    {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "fd00:172:30::b/128"}}]}]},
)

CASES = [
    ("no policy", [], "x/a", "y/b", {}, "allow", None, None),
    ("isolated", [DENY_Y], "x/a", "y/b", {}, "deny", None, "NetworkPolicy y/deny"),
    ("egress", [OUT_X], "x/a", "y/b", {}, "deny", "NetworkPolicy x/out", None),
    ("default namespace", [OUT_X], "a", "y/b", {}, "deny", "NetworkPolicy x/out", None),
    ("by address", [DENY_Y], "10.244.0.2", Y_B.ip, {}, "deny", None, "NetworkPolicy y/deny"),
    ("from outside", [DENY_Y], "203.0.113.9", "y/b", {}, "deny", None, "NetworkPolicy y/deny"),
    ("to outside", [OUT_X], "x/a", "203.0.113.9", {}, "deny", "NetworkPolicy x/out", None),
    ("itself", [OUT_X], "x/a", "x/a", {}, "allow", None, None),
    ("own node", [DENY_Y], "172.30.0.10", "y/b", {}, "allow", None, None),
    ("other node", [DENY_Y], "172.30.0.11", "y/b", {}, "deny", None, "NetworkPolicy y/deny"),
    ("own host pod", [DENY_Y, host_pod("h", 0)], "x/h", "y/b", {}, "allow", None, None),
    (
        "other host pod",
        [DENY_Y, host_pod("h", 1)],
        "x/h",
        "y/b",
        {},
        "deny",
        None,
        "NetworkPolicy y/deny",
    ),
    (
        "a host pod is no peer by label",
        [
            netpol(
                "n",
                "y",
                {
                    "podSelector": {},
                    "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {}}]}],
                },
            ),
            host_pod("h", 1),
        ],
        "x/h",
        "y/b",
        {},
        "deny",
        None,
        "NetworkPolicy y/n",
    ),
    (
        "a host pod is its node's address",
        [ONLY_NODE_1, host_pod("h", 1)],
        "x/h",
        "y/b",
        {},
        "allow",
        None,
        "NetworkPolicy y/node1",
    ),
    (
        "a host pod has its node's address of the other end's family",
        [
            ONLY_NODE_1_IPV6,
            host_pod("h", 1, podIPs=[{"ip": "172.30.0.11"}, {"ip": "fd00:172:30::b"}]),
        ],
        "x/h",
        Y_B.ip6,
        {},
        "allow",
        None,
        "NetworkPolicy y/node1",
    ),
    (
        "a host pod is not selected",
        [OUT_X, host_pod("h", 1)],
        "x/h",
        "y/b",
        {},
        "allow",
        None,
        None,
    ),
    (
        "a finished pod leaves the sets",
        [
            netpol(
                "n",
                "y",
                {
                    "podSelector": {},
                    "ingress": [{"from": [{"namespaceSelector": labels(ns="x")}]}],
                },
            ),
            finished("done", "10.244.0.77"),
        ],
        "10.244.0.77",
        "y/b",
        {},
        "deny",
        None,
        "NetworkPolicy y/n",
    ),
    (
        "named port",
        [netpol("n", "y", {"podSelector": {}, "ingress": [{"ports": [{"port": "serve-81-tcp"}]}]})],
        "x/a",
        "y/b",
        {"port": "serve-81-tcp"},
        "allow",
        None,
        "NetworkPolicy y/n",
    ),
    (
        "sctp",
        [ALLOW_80],
        "x/a",
        "y/b",
        {"protocol": "SCTP"},
        "deny",
        None,
        "NetworkPolicy y/p80",
    ),
    (
        "no port matches no rule with ports",
        [ALLOW_80],
        "x/a",
        "y/b",
        {"port": None, "protocol": "ICMP"},
        "deny",
        None,
        "NetworkPolicy y/p80",
    ),
    (
        "ClusterIP, judged at the target port",
        [ALLOW_80, service("s", "10.96.0.9", 80), slice_of("s", Y_B.ip)],
        "x/a",
        "10.96.0.9",
        {"port": 8000},
        "allow",
        None,
        "NetworkPolicy y/p80",
    ),
    (
        "ClusterIP, target port not allowed",
        [ALLOW_80, service("s", "10.96.0.9", 81), slice_of("s", Y_B.ip, port=81)],
        "x/a",
        "10.96.0.9",
        {"port": 8000},
        "deny",
        None,
        "NetworkPolicy y/p80",
    ),
    (
        "Service by name without slices",
        [ALLOW_80, service("s", "10.96.0.9", "serve-80-tcp", selector={"pod": "b"})],
        "x/a",
        "y/s",
        {"port": 8000},
        "allow",
        None,
        "NetworkPolicy y/p80",
    ),
    (
        "hairpin",
        [DENY_Y, service("s", "10.96.0.9", 80), slice_of("s", Y_B.ip)],
        "y/b",
        "10.96.0.9",
        {"port": 8000},
        "allow",
        None,
        None,
    ),
    (
        "no endpoints",
        [service("s", "10.96.0.9", 80), slice_of("s", Y_B.ip, ready=False)],
        "x/a",
        "10.96.0.9",
        {"port": 8000},
        "deny",
        None,
        None,
    ),
    (
        "admin deny",
        [
            cluster(
                "no-x",
                "Admin",
                1,
                subject={"namespaces": labels(ns="y")},
                ingress=[{"action": "Deny", "from": [{"namespaces": labels(ns="x")}]}],
            )
        ],
        "x/a",
        "y/b",
        {},
        "deny",
        None,
        "ClusterNetworkPolicy no-x",
    ),
    (
        "nodes peer",
        [
            cluster(
                "nodes",
                "Admin",
                1,
                subject={"namespaces": labels(ns="x")},
                egress=[{"action": "Deny", "to": [{"nodes": labels(number="1")}]}],
            )
        ],
        "x/a",
        "172.30.0.11",
        {},
        "deny",
        "ClusterNetworkPolicy nodes",
        None,
    ),
    (
        "IPv6",
        [DENY_Y],
        Pod("x", "a").ip6,
        "y/b",
        {},
        "deny",
        None,
        "NetworkPolicy y/deny",
    ),
    (
        "a block has one family",
        [
            netpol(
                "v4",
                "y",
                {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]},
            )
        ],
        Pod("x", "a").ip6,
        "y/b",
        {},
        "deny",
        None,
        "NetworkPolicy y/v4",
    ),
]


@pytest.mark.parametrize(
    ("extra", "source", "target", "more", "verdict", "egress", "ingress"),
    [c[1:] for c in CASES],
    ids=[c[0] for c in CASES],
)
def test_who_decides(
    extra: list[JSON],
    source: str,
    target: str,
    more: JSON,
    verdict: str,
    egress: str | None,
    ingress: str | None,
) -> None:
    answer = ask(extra, source, target, **more)
    assert answer["verdict"] == verdict
    assert (answer["egress"]["policy"], answer["ingress"]["policy"]) == (egress, ingress)


def test_audit_names_who_would_deny() -> None:
    policy = netpol("a", "y", {"podSelector": {}}, annotations={"kubewire.dev/mode": "audit"})
    answer = ask([policy], "x/a", "y/b")
    assert answer["verdict"] == "allow"
    assert answer["ingress"]["audit"] == "NetworkPolicy y/a"


@pytest.mark.parametrize(
    ("text", "port", "protocol", "target"),
    [
        ("y/b", None, "TCP", "y/b"),
        ("y/b:80", 80, "TCP", "y/b"),
        ("y/b:dns/udp", "dns", "UDP", "y/b"),
        ("10.0.0.1:80/SCTP", 80, "SCTP", "10.0.0.1"),
        ("fd00::1", None, "TCP", "fd00::1"),
        ("[fd00::1]:80/TCP", 80, "TCP", "fd00::1"),
    ],
)
def test_text_of_a_target(text: str, port: Any, protocol: str, target: str) -> None:
    question = from_text("x/a", text)
    assert (question.target, question.port, question.protocol) == (target, port, protocol)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"to": "y/b"}, "from: a pod or an address is required"),
        ({"from": "x/a", "to": "y/b", "port": 0}, "port: 0 is not between"),
        ({"from": "x/a", "to": "y/b", "protocol": "GRE"}, "protocol: 'GRE' is not one of"),
        ({"from": "x/nope", "to": "y/b"}, 'from: pod "x/nope" not found'),
        ({"from": "x/a", "to": "y/b", "port": "nope"}, "y/b has no port named 'nope'"),
    ],
)
def test_bad_questions_name_the_field(line: JSON, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Asker(worlds.objects(fixture())).ask(from_json(line))


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("extensions/v1beta1", "NetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha1", "ClusterNetworkPolicy"),
    ],
)
def test_a_policy_that_nothing_enforces_is_not_passed_over(version: str, kind: str) -> None:
    with pytest.raises(InputError, match=f'no matches for kind "{kind}" in version "{version}"'):
        worlds.objects([*fixture(), DENY_Y | {"apiVersion": version, "kind": kind}])


NAMED = cluster(
    "names",
    "Admin",
    1,
    subject={"namespaces": labels(ns="x")},
    egress=[
        {"action": "Accept", "to": [{"domainNames": ["*.example.com", "Only.Example.org."]}]},
        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]},
    ],
)


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        ("192.0.2.1", "spec.egress[0]"),
        ("192.0.2.2", "spec.egress[1]"),
        ("www.example.com", "spec.egress[0]"),
        ("WWW.Example.com.", "spec.egress[0]"),
        ("a.b.example.com", "spec.egress[0]"),
        ("only.example.org", "spec.egress[0]"),
        ("other.net", "spec.egress[1]"),
    ],
)
def test_names_are_what_dns_says(target: str, rule: str) -> None:
    names = {"www.example.com": [ip_address("192.0.2.1")], "other.net": [ip_address("192.0.2.2")]}
    asker = Asker(worlds.objects([*fixture(), NAMED]), "x", names)
    answer = asker.ask(from_json({"from": "x/a", "to": target, "port": 443}))
    assert answer["egress"]["rule"] == rule


def test_a_name_that_nobody_knows_is_no_pod() -> None:
    asker = Asker(worlds.objects([*fixture(), NAMED]), "x")
    with pytest.raises(InputError, match=r'pod "x/example\.com" not found'):
        asker.ask(from_json({"from": "x/a", "to": "example.com", "port": 443}))


def test_an_address_that_a_node_has_learned_is_the_names() -> None:
    objects = worlds.objects([*fixture(), NAMED])
    name = next(n for n in sets_by_name(objects) if n.startswith("s4/"))
    asker = Asker(
        objects, "x", None, {"node-0": {name: frozenset({ip_address("192.0.2.7").packed})}}
    )
    rules = {
        source: asker.ask(from_json({"from": source, "to": "192.0.2.7", "port": 443}))["egress"][
            "rule"
        ]
        for source in ("x/a", "x/b", "x/c")
    }
    nodes = {str(p.key): p.spec.node_name for p in objects.pods}
    assert rules == {
        s: "spec.egress[0]" if nodes[s] == "node-0" else "spec.egress[1]" for s in rules
    }
    assert len(set(rules.values())) == 2
