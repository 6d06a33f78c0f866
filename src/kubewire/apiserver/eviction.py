"""Eviction: a deletion that PodDisruptionBudgets may forbid for now.

A granted one is written into the budget's status at once, before its controller counts again: two
evictions at the same moment cannot both take the last one.
"""

import msgspec

from kubewire.api.errors import Cause, StatusError
from kubewire.api.meta import JSON
from kubewire.api.selectors import LabelSelector
from kubewire.apiserver.catalog import Catalog, Served
from kubewire.apiserver.rest import DeleteOptions, Rest, WriteOptions
from kubewire.apiserver.rfc3339 import now

RETRY_SECONDS = 10


def evict(
    rest: Rest, catalog: Catalog, pods: Served, namespace: str, name: str, eviction: JSON, dry: bool
) -> None:
    """Delete a pod unless a PodDisruptionBudget forbids it."""
    pod = rest.get(pods, namespace, name).obj
    if not _unguarded(pod):
        budgets = catalog.find("policy", "v1", "poddisruptionbudgets")
        assert budgets is not None
        found = _budgets(rest, namespace, pod)
        if len(found) > 1:
            raise StatusError(
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            )
        for budget in found:
            if _spends(pod, budget) and not dry:
                _spend(rest, budgets, budget, name)
    options = msgspec.convert(eviction.get("deleteOptions") or {}, DeleteOptions)
    rest.delete(pods, namespace, name, options, dry)


def _unguarded(pod: JSON) -> bool:
    """It serves nobody, or is going anyway."""
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Pending", "Succeeded", "Failed") or "deletionTimestamp" in pod["metadata"]


def _budgets(rest: Rest, namespace: str, pod: JSON) -> list[JSON]:
    labels = pod["metadata"].get("labels") or {}
    stored = rest.store.collection("poddisruptionbudgets.policy").objects.items()
    return [
        revision.obj
        for key, revision in stored
        if key.namespace == namespace and _selects(revision.obj, labels)
    ]


def _selects(budget: JSON, labels: dict[str, str]) -> bool:
    selector = (budget.get("spec") or {}).get("selector")
    return selector is not None and msgspec.convert(selector, LabelSelector).matches(labels)


def _spends(pod: JSON, budget: JSON) -> bool:
    """Whether this eviction takes one of those allowed; StatusError if none is."""
    status, name = budget.get("status") or {}, budget["metadata"]["name"]
    allowed, healthy = status.get("disruptionsAllowed", 0), status.get("currentHealthy", 0)
    desired = status.get("desiredHealthy", 0)
    if not _ready(pod):
        policy = budget["spec"].get("unhealthyPodEvictionPolicy", "IfHealthyBudget")
        if policy == "AlwaysAllow" or (healthy >= desired > 0):
            return False
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 1):
        why = f"The disruption budget {name} is still being processed by the server."
        raise _refused(why, RETRY_SECONDS)
    if allowed <= 0:
        raise _refused(
            f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        )
    return True


def _ready(pod: JSON) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _refused(why: str, retry_after: int = 0) -> StatusError:
    return StatusError(
        "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
        causes=[Cause(reason="DisruptionBudget", message=why)],
        retry_after=retry_after,
    )


def _spend(rest: Rest, budgets: Served, budget: JSON, pod: str) -> None:
    stamp = now()

    def change(obj: JSON) -> JSON:
        status = obj["status"]
        status["disruptionsAllowed"] -= 1
        status["disruptedPods"] = {**(status.get("disruptedPods") or {}), pod: stamp}
        return obj

    meta = budget["metadata"]
    rest.update(budgets, meta["namespace"], meta["name"], change, WriteOptions(), "status")
