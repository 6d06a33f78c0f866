"""Workloads and Services stand for their pods."""

from typing import Any

import pytest

from kubewire.networkpolicy.why import Asker, from_json
from networkpolicy import worlds
from networkpolicy.fixture import P as Pod
from networkpolicy.fixture import netpol, pod
from networkpolicy.worlds import ask

DENY_Y = netpol("deny", "y", {"podSelector": {}})


def test_a_workload_stands_for_its_pods() -> None:
    template = {"metadata": {"labels": {"pod": "b"}}, "spec": {"containers": [{"name": "c"}]}}
    web = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "y"},
        "spec": {"template": template},
    }
    assert ask([DENY_Y, web], "x/a", "y/web")["verdict"] == "deny"


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
