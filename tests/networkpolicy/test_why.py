from ipaddress import ip_address
from typing import Any

import pytest

from kubewire.api.errors import InputError
from kubewire.networkpolicy.why import Asker, from_json, from_text, sets_by_name
from networkpolicy import worlds
from networkpolicy.table import P as Pod
from networkpolicy.table import cluster, fixture, labels, netpol, pod

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


def service(name: str, ip: str, target: Any, **spec: Any) -> JSON:
    port = {"name": "web", "port": 8000, "targetPort": target}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "y"},
        "spec": {"clusterIP": ip, "ports": [port], **spec},
    }


def slice_of(name: str, *addresses: str, port: int = 80, **conditions: bool) -> JSON:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "y",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": conditions} for a in addresses],
        "ports": [{"name": "web", "port": port, "protocol": "TCP"}],
    }


def ask(extra: list[JSON], source: str, target: str, port: Any = 80, **more: Any) -> JSON:
    asker = Asker(worlds.objects([*fixture(), *extra]), "x")
    return asker.ask(from_json({"from": source, "to": target, "port": port, **more}))


Y_A, Y_B = Pod("y", "a"), Pod("y", "b")
ALLOW_80 = netpol("p80", "y", {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})
ONLY_NODE_1 = netpol(
    "node1",
    "y",
    {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "172.30.0.11/32"}}]}]},
)
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


def test_an_endpoint_that_is_denied_denies_and_all_are_listed() -> None:
    only_b = netpol("only-b", "y", {"podSelector": labels(pod="b")})
    answer = ask(
        [only_b, service("s", "10.96.0.9", 80), slice_of("s", Y_A.ip, Y_B.ip)],
        "x/a",
        "10.96.0.9",
        8000,
    )
    assert answer["verdict"] == "deny"
    assert [e["verdict"] for e in answer["endpoints"]] == ["allow", "deny"]


def test_a_node_port_leaves_the_node_with_its_address() -> None:
    front = service("s", "10.96.0.9", 80)
    front["spec"]["ports"][0]["nodePort"] = 30080
    extra = [ONLY_NODE_1, front, slice_of("s", Y_B.ip)]
    through = ask(extra, "203.0.113.9", "172.30.0.11", 30080)
    direct = ask(extra, "203.0.113.9", "172.30.0.10", 30080)
    assert (through["verdict"], direct["verdict"]) == ("allow", "deny")


def test_audit_names_who_would_deny() -> None:
    policy = netpol("a", "y", {"podSelector": {}}, annotations={"kubewire.dev/mode": "audit"})
    answer = ask([policy], "x/a", "y/b")
    assert answer["verdict"] == "allow"
    assert answer["ingress"]["audit"] == "NetworkPolicy y/a"


def test_a_workload_stands_for_its_pods() -> None:
    template = {"metadata": {"labels": {"pod": "b"}}, "spec": {"containers": [{"name": "c"}]}}
    web = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "y"},
        "spec": {"template": template},
    }
    assert ask([DENY_Y, web], "x/a", "y/web")["verdict"] == "deny"


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


@pytest.mark.parametrize(
    ("target", "port", "host_ip", "policy"),
    [
        ("172.30.0.10", 8080, "", "NetworkPolicy y/p80"),
        ("172.30.0.10", 8081, "", None),
        ("172.30.0.10", 8080, "172.30.0.10", "NetworkPolicy y/p80"),
        ("172.30.0.10", 8080, "127.0.0.1", None),
        ("172.30.0.10", 8080, "0.0.0.0", "NetworkPolicy y/p80"),
        ("fd00:172:30::10", 8080, "0.0.0.0", None),
        ("fd00:172:30::10", 8080, "", "NetworkPolicy y/p80"),
    ],
)
def test_a_host_port_leads_to_its_pod(
    target: str, port: int, host_ip: str, policy: str | None
) -> None:
    front = pod(Pod("y", "b"))
    ports = front["spec"]["containers"][0]["ports"]
    ports.append({"containerPort": 80, "hostPort": 8080, "hostIP": host_ip})
    world = [m for m in fixture() if m["metadata"].get("uid") != front["metadata"]["uid"]]
    asker = Asker(worlds.objects([*world, front, ALLOW_80]))
    answer = asker.ask(from_json({"from": "203.0.113.9", "to": target, "port": port}))
    assert answer["ingress"]["policy"] == policy


def test_a_host_port_leads_to_the_address_of_its_family() -> None:
    front = pod(Pod("y", "b"))
    front["spec"]["containers"][0]["ports"].append({"containerPort": 80, "hostPort": 8080})
    world = [m for m in fixture() if m["metadata"].get("uid") != front["metadata"]["uid"]]
    four = netpol(
        "four",
        "y",
        {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]},
    )
    asker = Asker(worlds.objects([*world, front, four]))
    verdicts = [
        asker.ask(from_json({"from": "x/b", "to": t, "port": 8080}))["verdict"]
        for t in ("172.30.0.10", "fd00:172:30::10")
    ]
    assert verdicts == ["allow", "deny"]


FROM_X = netpol(
    "from-x",
    "y",
    {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": labels(ns="x")}]}]},
)


@pytest.mark.parametrize(
    ("policy", "source", "verdict"),
    [
        (FROM_X, "x/a", "allow"),
        (FROM_X, "x/b", "deny"),
        (ONLY_NODE_1, "x/b", "allow"),
        (ONLY_NODE_1, "x/a", "deny"),
    ],
)
def test_a_pod_of_another_node_comes_to_a_node_port_as_its_node(
    policy: JSON, source: str, verdict: str
) -> None:
    front = service("s", "10.96.0.9", 80, type="NodePort")
    front["spec"]["ports"][0]["nodePort"] = 30001
    answer = ask([policy, front, slice_of("s", Y_B.ip)], source, "172.30.0.10", 30001)
    assert answer["ingress"]["verdict"] == verdict


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


def owned(p: Pod, kind: str, owner: str, **more: str) -> dict[str, Any]:
    found = pod(p)
    found["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": "u"}
    ]
    found["metadata"]["labels"] = {**found["metadata"]["labels"], **more}
    return found


SHOP = [
    owned(Pod("x", "a"), "ReplicaSet", "web-5d9", **{"pod-template-hash": "5d9"}),
    owned(Pod("x", "b"), "ReplicaSet", "web-5d9", **{"pod-template-hash": "5d9"}),
    owned(Pod("x", "c"), "Job", "night-123"),
    owned(Pod("y", "b"), "StatefulSet", "db"),
    {
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": "web", "namespace": "x"},
        "spec": {"template": {"metadata": {"labels": {"old": "yes"}}}},
    },
    {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": "jobs", "namespace": "x"},
        "spec": {"selector": {"pod": "c"}, "ports": [{"port": 80}]},
    },
    netpol("only-a", "y", {"podSelector": {}, "ingress": [{"from": [
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "a"}}}]}]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "pods"),
    [
        ("web", ["x/a", "x/b"]),
        ("x/web-5d9", ["x/a", "x/b"]),
        ("night", ["x/c"]),
        ("night-123", ["x/c"]),
        ("jobs", ["x/c"]),
        ("y/db", ["y/b"]),
    ],
)
def test_workloads_and_services_stand_for_their_pods(source: str, pods: list[str]) -> None:
    asker = Asker(worlds.objects(SHOP), "x")
    assert [p.text for p in asker.parties(source, "from")] == pods


def test_pods_of_a_workload_that_differ_are_named() -> None:
    asker = Asker(worlds.objects(SHOP), "x")
    answer = asker.ask(from_json({"from": "web", "to": "y/db", "port": 80}))
    assert answer["verdict"] == "deny"
    assert answer["pods"] == [
        {"from": "x/a", "to": "y/b", "verdict": "allow"},
        {"from": "x/b", "to": "y/b", "verdict": "deny"},
    ]
    assert "pods" not in asker.ask(from_json({"from": "web", "to": "night", "port": 80}))
