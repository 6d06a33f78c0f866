"""PodDisruptionBudget: how many of its pods may be evicted now, which is what an eviction asks.

The expected number of pods is that of their workloads, so that pods that are missing count as
unavailable; with an absolute minAvailable it is the number of pods.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping

from kubewire.api.meta import JSON, Key
from kubewire.api.resources import (
    DEPLOYMENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    STATEFUL_SETS,
)
from kubewire.client.informer import Change
from kubewire.controllermanager import objects, pods
from kubewire.controllermanager.actions import Action, Patch, Plan
from kubewire.controllermanager.context import Context, own
from kubewire.controllermanager.keyed import Keyed

PATIENCE = 120.0
"""Seconds for an evicted pod to be deleted; after that it counts again."""
SCALED = {r.kind: r for r in (REPLICA_SETS, DEPLOYMENTS, STATEFUL_SETS, REPLICATION_CONTROLLERS)}

Find = Callable[[str, str], JSON | None]
"""kind, name -> the workload in the budget's namespace."""


def plan(budget: JSON, selected: Iterable[JSON], find: Find, now: float) -> Plan:
    """Bring the status up to date."""
    mine = [p for p in selected if pods.phase(p) not in ("Succeeded", "Failed")]
    expected, desired = _wanted(budget, mine, find)
    evicted = _evicted(budget, mine, now)
    healthy = sum(
        pods.ready(p) and not objects.deleted(p) and p["metadata"]["name"] not in evicted
        for p in mine
    )
    allowed = max(0, healthy - desired) if expected else 0
    enough = "True" if allowed else "False"
    condition = {
        "type": "DisruptionAllowed",
        "status": enough,
        "reason": "SufficientPods" if allowed else "InsufficientPods",
        "message": "",
        "observedGeneration": budget["metadata"].get("generation", 1),
    }
    status: JSON = {
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": allowed,
        "expectedPods": expected,
        "observedGeneration": budget["metadata"].get("generation", 1),
        "conditions": objects.with_condition(
            objects.status(budget).get("conditions"), condition, now
        ),
    }
    if evicted:
        status["disruptedPods"] = evicted
    return Plan(_set_status(budget, status), PATIENCE if evicted else None)


def _set_status(budget: JSON, status: JSON) -> list[Action]:
    """Only if nobody has spent any of it meanwhile."""
    old = objects.status(budget)
    if old == status:
        return []
    meta = budget["metadata"]
    patch = {
        "metadata": {"resourceVersion": meta["resourceVersion"]},
        "status": objects.merge_patch(old, status),
    }
    key = objects.key(budget)
    return [Patch(POD_DISRUPTION_BUDGETS, key, patch, meta["uid"], "status")]


def _wanted(budget: JSON, mine: list[JSON], find: Find) -> tuple[int, int]:
    """Expected and desired number of pods."""
    spec = objects.spec(budget)
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if most is not None:
        expected = _scale(mine, find)
        return expected, max(0, expected - _share(most, expected))
    if isinstance(least, str):
        expected = _scale(mine, find)
        return expected, _share(least, expected)
    return len(mine), least or 0


def _share(value: int | str, of: int) -> int:
    return value if isinstance(value, int) else math.ceil(int(value.removesuffix("%")) * of / 100)


def _scale(mine: list[JSON], find: Find) -> int:
    """The sum of what the pods' workloads ask for; pods without one count for nothing."""
    found: dict[str, int] = {}
    for pod in mine:
        owner = _owner(pod, find)
        if owner and owner["kind"] == REPLICA_SETS.kind:
            owner = _owner(owner, find) or owner
        if owner:
            found[owner["metadata"]["uid"]] = int(objects.spec(owner).get("replicas", 1))
    return sum(found.values())


def _owner(obj: JSON, find: Find) -> JSON | None:
    ref = objects.controller_ref(obj)
    found = find(ref["kind"], ref["name"]) if ref and ref["kind"] in SCALED else None
    if ref is None or found is None or found["metadata"]["uid"] != ref["uid"]:
        return None
    return {"kind": ref["kind"], **found}


def _evicted(budget: JSON, mine: list[JSON], now: float) -> dict[str, str]:
    """Pods whose eviction was granted and that are not being deleted yet."""
    there = {p["metadata"]["name"] for p in mine if not objects.deleted(p)}
    granted = objects.status(budget).get("disruptedPods") or {}
    return {
        name: since
        for name, since in granted.items()
        if name in there and objects.seconds(since) + PATIENCE > now
    }


def controller(context: Context) -> Keyed[Key]:
    """The controller of PodDisruptionBudgets."""
    informer = context.informer(POD_DISRUPTION_BUDGETS)
    near, around = context.by_namespace(POD_DISRUPTION_BUDGETS), context.by_namespace(PODS)

    def selecting(change: Change[JSON]) -> Iterable[Key]:
        seen = [objects.labels(o) for o in (change.old, change.new) if o]
        for key, budget in near.get(change.key.namespace).items():
            if any(_selects(budget, labels) for labels in seen):
                yield key

    def neighbours(change: Change[JSON]) -> Iterable[Key]:
        return list(near.get(change.key.namespace))

    async def sync(key: Key) -> float | None:
        budget = informer.store.get(key)
        if budget is None:
            return None
        selected = [
            p for p in around.get(key.namespace).values() if _selects(budget, objects.labels(p))
        ]

        def find(kind: str, name: str) -> JSON | None:
            return context.objects(SCALED[kind]).get(Key(key.namespace, name))

        made = plan(budget, selected, find, time.time())
        await context.apply(made)
        return made.again

    workloads = [(context.informer(r), neighbours) for r in SCALED.values()]
    sources = [(informer, own), (context.informer(PODS), selecting), *workloads]
    return Keyed(context, "disruption", sync, sources)


def _selects(budget: JSON, labels: Mapping[str, str]) -> bool:
    wanted = objects.spec(budget).get("selector")
    return wanted is not None and objects.selector(wanted).matches(labels)
