"""What a PodDisruptionBudget allows, as a table; and that it follows its pods."""

from typing import Any

import pytest

from kubewire.api.meta import JSON
from kubewire.api.resources import POD_DISRUPTION_BUDGETS, PODS
from kubewire.controllermanager.actions import Patch
from kubewire.controllermanager.disruption import plan
from kubewire.testing.fakekubelet import FakeKubelet

NOW = 1_800_000_000.0
AT = "2027-01-15T08:00:00Z"


def budget(**spec: Any) -> JSON:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "b", "namespace": "d", "uid": "u", "resourceVersion": "1"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
    }


def pod(name: str, ready: bool = True, owner: str = "rs", phase: str = "Running") -> JSON:
    ref = {"kind": "ReplicaSet", "name": owner, "uid": owner, "controller": True}
    return {
        "metadata": {"name": name, "namespace": "d", "labels": {"app": "web"}, "ownerReferences": [ref] if owner else []},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }  # fmt: skip


def find(kind: str, name: str) -> JSON | None:
    """A ReplicaSet ``rs`` of four, and ``part``, that belongs to a Deployment of ten."""
    meta: JSON = {"name": name, "uid": name}
    if name == "part":
        meta["ownerReferences"] = [{"kind": "Deployment", "name": "all", "uid": "all", "controller": True}]  # fmt: skip
    return {"metadata": meta, "spec": {"replicas": {"rs": 4, "part": 1, "all": 10}[name]}}


PAIR = [pod("a"), pod("b")]
ROWS: list[tuple[str, JSON, list[JSON], tuple[int, int, int, int]]] = [
    ("absolute minimum", budget(minAvailable=1), PAIR, (2, 2, 1, 1)),
    ("nothing to spare", budget(minAvailable=2), PAIR, (2, 2, 2, 0)),
    ("not ready", budget(minAvailable=1), [pod("a"), pod("b", ready=False)], (2, 1, 1, 0)),
    ("no pods", budget(minAvailable=0), [], (0, 0, 0, 0)),
    ("missing pods are unavailable", budget(maxUnavailable=1), PAIR, (4, 2, 3, 0)),
    ("all there", budget(maxUnavailable=1), [*PAIR, pod("c"), pod("d")], (4, 4, 3, 1)),
    ("share rounds up", budget(minAvailable="30%"), PAIR, (4, 2, 2, 0)),
    ("share of unavailable rounds up", budget(maxUnavailable="60%"), PAIR, (4, 2, 1, 1)),
    ("the Deployment's number", budget(maxUnavailable="90%"), [pod("a", owner="part")], (10, 1, 1, 0)),
    ("finished pods are none", budget(minAvailable=0), [pod("a", phase="Succeeded")], (0, 0, 0, 0)),
    ("pods of nobody", budget(maxUnavailable=1), [pod("a", owner="")], (0, 1, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "obj", "found", "wanted"), ROWS, ids=[r[0] for r in ROWS])
def test_counts(text: str, obj: JSON, found: list[JSON], wanted: tuple[int, ...]) -> None:
    [action] = plan(obj, found, find, NOW).actions
    assert isinstance(action, Patch)
    status = action.patch["status"]
    keys = ("expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed")
    assert tuple(status[k] for k in keys) == wanted
    [condition] = status["conditions"]
    assert condition["reason"] == ("SufficientPods" if wanted[3] else "InsufficientPods")


def test_an_eviction_that_was_granted_counts_until_the_pod_goes() -> None:
    obj = budget(minAvailable=1)
    obj["status"] = {"disruptedPods": {"a": AT, "gone": AT}}
    made = plan(obj, PAIR, find, NOW)
    assert made.again is not None
    [action] = made.actions
    assert isinstance(action, Patch)
    assert action.patch["metadata"] == {"resourceVersion": "1"}
    assert action.patch["status"]["disruptionsAllowed"] == 0
    assert action.patch["status"]["disruptedPods"] == {"gone": None}
    late = plan(obj, PAIR, find, NOW + 121)
    assert isinstance(late.actions[0], Patch)
    assert late.actions[0].patch["status"]["disruptionsAllowed"] == 1


async def test_it_follows_its_pods(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    meta = {"name": "web", "namespace": "d", "generation": 1}
    api.put(budget(maxUnavailable=1))
    api.put({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})

    def allowed() -> int:
        found = api.get(POD_DISRUPTION_BUDGETS, "b", "d")
        assert found is not None
        return int((found.get("status") or {}).get("disruptionsAllowed", -1))

    await api.until(lambda: allowed() == 1)
    kubelet.broken = lambda pod: True
    await api.client().delete(PODS, api.all(PODS)[0]["metadata"]["name"], "d")
    await api.until(lambda: allowed() == 0)
