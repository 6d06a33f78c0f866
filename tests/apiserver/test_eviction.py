"""Evictions against budgets, as ``kubectl drain`` sees them."""

from typing import Any

import pytest

from tests.apiserver.conftest import Raw
from tests.apiserver.objects import POD

JSON = dict[str, Any]
PODS = "/api/v1/namespaces/default/pods"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
SICK = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}


async def make_pod(api: Raw, name: str, status: JSON) -> None:
    await api.ok("POST", PODS, POD | {"metadata": {"name": name, "labels": {"app": "web"}}})
    patch = "application/merge-patch+json"
    await api.ok("PATCH", f"{PODS}/{name}/status", {"status": status}, kind=patch)


async def make_budget(api: Raw, name: str, allowed: int, **more: Any) -> None:
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}} | more
    kinds = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget"}
    await api.ok("POST", BUDGETS, kinds | {"metadata": {"name": name}, "spec": spec})
    status = {
        "disruptionsAllowed": allowed,
        "currentHealthy": 1 + allowed,
        "desiredHealthy": 1,
        "expectedPods": 2,
        "observedGeneration": 1,
    }
    patch = "application/merge-patch+json"
    await api.ok("PATCH", f"{BUDGETS}/{name}/status", {"status": status}, kind=patch)


async def evict(api: Raw, name: str) -> tuple[int, JSON]:
    obj = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    return await api("POST", f"{PODS}/{name}/eviction", obj)


async def test_the_last_one_is_granted_once(api: Raw) -> None:
    for name in "ab":
        await make_pod(api, name, READY)
    await make_budget(api, "web", 1)
    assert (await evict(api, "a"))[0] == 201
    left = (await api.ok("GET", f"{BUDGETS}/web"))["status"]
    assert left["disruptionsAllowed"] == 0
    assert list(left["disruptedPods"]) == ["a"]
    status, answer = await evict(api, "b")
    assert (status, answer["reason"]) == (429, "TooManyRequests")
    assert answer["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    [cause] = answer["details"]["causes"]
    assert cause["reason"] == "DisruptionBudget"
    assert cause["message"] == "The disruption budget web needs 1 healthy pods and has 2 currently"


ROWS: list[tuple[str, JSON, list[tuple[str, int, JSON]], int]] = [
    ("no budget", READY, [], 201),
    ("none allowed", READY, [("web", 0, {})], 429),
    ("pending", {"phase": "Pending"}, [("web", 0, {})], 201),
    ("finished", {"phase": "Failed"}, [("web", 0, {})], 201),
    ("sick, and enough others", SICK, [("web", 0, {})], 201),
    ("sick, always", SICK, [("web", -1, {"unhealthyPodEvictionPolicy": "AlwaysAllow"})], 201),
    ("sick, too few others", SICK, [("web", -1, {})], 429),
    ("of others", READY, [("web", 0, {"selector": {"matchLabels": {"app": "db"}}})], 201),
    ("an empty selector means all", READY, [("web", 0, {"selector": {}})], 429),
    ("two budgets", READY, [("web", 1, {}), ("more", 1, {})], 500),
]


@pytest.mark.parametrize(("text", "status", "budgets", "code"), ROWS, ids=[r[0] for r in ROWS])
async def test_who_may_go(
    api: Raw, text: str, status: JSON, budgets: list[tuple[str, int, JSON]], code: int
) -> None:
    await make_pod(api, "a", status)
    for name, allowed, more in budgets:
        await make_budget(api, name, allowed, **more)
    assert (await evict(api, "a"))[0] == code


async def test_a_budget_that_nobody_has_counted_yet_waits(api: Raw) -> None:
    await make_pod(api, "a", READY)
    spec = {"minAvailable": 0, "selector": {"matchLabels": {"app": "web"}}}
    kinds = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget"}
    await api.ok("POST", BUDGETS, kinds | {"metadata": {"name": "web"}, "spec": spec})
    status, answer = await evict(api, "a")
    assert status == 429
    assert "still being processed" in answer["details"]["causes"][0]["message"]
    assert api.headers["Retry-After"] == "10"
