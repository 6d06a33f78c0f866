"""Packets to Services, node ports and host ports are judged where they are sent on to."""

import pytest

from kubewire.networkpolicy.why import Asker, from_json
from networkpolicy import worlds
from networkpolicy.fixture import P as Pod
from networkpolicy.fixture import fixture, labels, netpol, pod
from networkpolicy.worlds import ALLOW_80, JSON, ONLY_NODE_1, Y_A, Y_B, ask, service, slice_of


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
