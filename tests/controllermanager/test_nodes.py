"""Node ranges, nodes that fall silent, and addresses of load balancers."""

import pytest

from kubewire.api.meta import JSON
from kubewire.api.resources import NODES, PODS
from kubewire.controllermanager import nodeipam, nodelifecycle, objects
from kubewire.controllermanager.actions import Action, Delete, Event, Patch
from kubewire.testing.fakekubelet import FakeKubelet, node

NOW = 1_800_000_000.0


def named(name: str, *cidrs: str) -> JSON:
    found = node(name)
    found["metadata"] |= {"uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"}
    found["spec"] = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {}
    return found


def ranges(actions: list[Action]) -> dict[str, list[str]]:
    return {a.key.name: a.patch["spec"]["podCIDRs"] for a in actions if isinstance(a, Patch)}


@pytest.mark.parametrize(
    ("cidrs", "masks", "nodes", "expected"),
    [
        (["10.244.0.0/16"], {4: 24}, [named("a"), named("b")], {"a": ["10.244.0.0/24"], "b": ["10.244.1.0/24"]}),
        (["10.244.0.0/16"], {4: 24}, [named("a", "10.244.0.0/24"), named("b")], {"b": ["10.244.1.0/24"]}),
        (["10.244.0.0/16"], {4: 24}, [named("a", "10.244.0.0/23"), named("b")], {"b": ["10.244.2.0/24"]}),
        (["10.244.0.0/16"], {4: 24}, [named("a", "10.244.0.5/24"), named("b")], {"b": ["10.244.1.0/24"]}),
        (["10.0.0.0/16", "fd00::/48"], {4: 24, 6: 64}, [named("a")], {"a": ["10.0.0.0/24", "fd00::/64"]}),
        (["10.0.0.0/24"], {4: 24}, [named("a"), named("b")], {"a": ["10.0.0.0/24"]}),
    ],
)  # fmt: skip
def test_node_ranges(
    cidrs: list[str], masks: dict[int, int], nodes: list[JSON], expected: dict[str, list[str]]
) -> None:
    plan = nodeipam.plan(nodes, cidrs, masks)
    assert ranges(plan.actions) == expected
    without = len([n for n in nodes if not n["spec"]]) - len(expected)
    full = [a for a in plan.actions if isinstance(a, Event)]
    assert [e.reason for e in full] == ["CIDRNotAvailable"] * without


def test_a_range_outside_the_cluster_is_told_and_kept() -> None:
    nodes = [named("a", "10.9.0.0/24", "fd00::/64"), named("b", "10.244.0.0/24", "fd00:1::/64")]
    plan = nodeipam.plan(nodes, ["10.244.0.0/16", "fd00::/32"], {4: 24, 6: 64})
    assert [
        (e.about["metadata"]["name"], e.message) for e in plan.actions if isinstance(e, Event)
    ] == [
        ("a", "spec.podCIDRs[0]: 10.9.0.0/24 is outside the cluster CIDR 10.244.0.0/16,fd00::/32"),
        ("b", "spec.podCIDRs[1]: fd00:1::/64 is outside the cluster CIDR 10.244.0.0/16,fd00::/32"),
    ]
    assert ranges(plan.actions) == {}


def with_taints(found: JSON, *keys: str) -> JSON:
    taints = [
        {"key": k, "effect": e, "timeAdded": objects.stamp(NOW)}
        for k in keys
        for e in ("NoSchedule", "NoExecute")
    ]
    return found | {"spec": {"taints": taints}}


def test_a_silent_node_is_marked_and_tainted() -> None:
    status, _, taints = nodelifecycle.plan_node(named("a"), True, NOW)
    assert isinstance(status, Patch)
    (ready,) = status.patch["status"]["conditions"]
    assert (ready["status"], ready["reason"]) == ("Unknown", "NodeStatusUnknown")
    assert isinstance(taints, Patch)
    assert {(t["key"], t["effect"]) for t in taints.patch["spec"]["taints"]} == {
        (nodelifecycle.UNREACHABLE, "NoSchedule"),
        (nodelifecycle.UNREACHABLE, "NoExecute"),
    }


def test_a_node_that_is_back_loses_its_taints() -> None:
    (change,) = nodelifecycle.plan_node(
        with_taints(named("a"), nodelifecycle.NOT_READY), False, NOW
    )
    assert isinstance(change, Patch)
    assert change.patch["spec"]["taints"] is None
    assert nodelifecycle.plan_node(named("a"), False, NOW) == []


def pod(*tolerations: JSON) -> JSON:
    meta = {"name": "p", "namespace": "d", "uid": "p"}
    conditions = [{"type": "Ready", "status": "True"}]
    return {
        "metadata": meta,
        "spec": {"tolerations": list(tolerations)},
        "status": {"phase": "Running", "conditions": conditions},
    }


ANY = {"operator": "Exists"}


@pytest.mark.parametrize(
    ("key", "tolerations", "after", "evicted", "again"),
    [
        (nodelifecycle.NOT_READY, [], 10, False, 290),
        (nodelifecycle.NOT_READY, [], 301, True, None),
        (nodelifecycle.NOT_READY, [ANY], 9999, False, None),
        (nodelifecycle.NOT_READY, [ANY | {"tolerationSeconds": 20}], 10, False, 10),
        (nodelifecycle.NOT_READY, [ANY | {"tolerationSeconds": 20}], 21, True, None),
        ("mine", [], 0, True, None),
        ("mine", [ANY], 0, False, None),
    ],
)
def test_eviction(
    key: str, tolerations: list[JSON], after: float, evicted: bool, again: float | None
) -> None:
    actions, when = nodelifecycle.plan_pods(
        with_taints(named("a"), key), [pod(*tolerations)], NOW + after
    )
    assert any(isinstance(a, Delete) for a in actions) == evicted
    assert when == (pytest.approx(again) if again else None)


def test_pods_of_a_silent_node_are_not_ready() -> None:
    silent = with_taints(named("a"), nodelifecycle.UNREACHABLE)
    silent["status"] = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
    (change,), _ = nodelifecycle.plan_pods(silent, [pod(ANY)], NOW)
    assert isinstance(change, Patch)
    assert change.patch["status"]["conditions"][0]["status"] == "False"


async def test_the_pods_of_a_removed_node_go(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    for name in ("a", "b"):
        meta = {"name": name, "namespace": "d"}
        api.put({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []}})
    await api.until(lambda: all(p["spec"].get("nodeName") for p in api.all(PODS)))
    await api.client().delete(NODES, "n1")
    await api.until(lambda: [p["spec"]["nodeName"] for p in api.all(PODS)] == ["n2"])
