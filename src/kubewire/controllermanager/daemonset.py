"""DaemonSet: one pod on every node that takes it.

A pod is tied to its node by node affinity, as upstream does, and the scheduler binds it.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterable

from kubewire.api.meta import JSON, Key
from kubewire.api.resources import CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS
from kubewire.client.informer import Change
from kubewire.controllermanager import objects, pods, revisions
from kubewire.controllermanager.actions import Action, Create, Delete, Event, Plan
from kubewire.controllermanager.context import Context, controller_of, set_status
from kubewire.controllermanager.filters import matches_node
from kubewire.controllermanager.keyed import Keyed

TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)


def plan(
    owner: JSON, owned: Iterable[JSON], orphans: Iterable[JSON], nodes: Iterable[JSON], now: float
) -> Plan:
    """Create, remove and replace pods, one node at a time in the eyes of the rolling update."""
    mine, actions = pods.claim(owner, DAEMON_SETS, owned, orphans, PODS)
    if actions:
        return Plan(actions)
    by_node: defaultdict[str, list[JSON]] = defaultdict(list)
    for pod in mine:
        by_node[node_of(pod)].append(pod)
    listed = list(nodes)
    wanted = {n["metadata"]["name"] for n in listed if should_run(owner, n)}
    tolerating = wanted | {n["metadata"]["name"] for n in listed if should_run(owner, n, stay=True)}
    if not objects.deleted(owner):
        actions = _manage(owner, by_node, wanted, tolerating)
        if not actions:
            actions = _update(owner, by_node, wanted, now)
    status, again = _status(owner, by_node, wanted, now)
    actions += set_status(DAEMON_SETS, owner, status)
    return Plan(actions, again)


def node_of(pod: JSON) -> str:
    """The node that a pod is on, or is meant for."""
    spec = objects.spec(pod)
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def should_run(owner: JSON, node: JSON, *, stay: bool = False) -> bool:
    """A node takes the pod; ``stay``: it may keep the one that it has."""
    template = objects.spec(owner).get("template") or {}
    spec = template.get("spec") or {}
    pod = {"metadata": {}, "spec": spec}
    if spec.get("nodeName") not in (None, "", node["metadata"]["name"]):
        return False
    tolerations = _tolerations(spec)
    taints = objects.spec(node).get("taints") or ()
    effects = ("NoExecute",) if stay else ("NoExecute", "NoSchedule")
    return matches_node(pod, node) and all(
        pods.tolerates(tolerations, t) for t in taints if t.get("effect") in effects
    )


def _tolerations(spec: JSON) -> list[JSON]:
    added = [{"key": k, "operator": "Exists", "effect": e} for k, e in TOLERATED]
    if spec.get("hostNetwork"):
        key = "node.kubernetes.io/network-unavailable"
        added.append({"key": key, "operator": "Exists", "effect": "NoSchedule"})
    return [*(spec.get("tolerations") or ()), *(a for a in added if a not in (spec.get("tolerations") or ()))]  # fmt: skip


def _manage(
    owner: JSON, by_node: dict[str, list[JSON]], wanted: set[str], tolerating: set[str]
) -> list[Action]:
    actions: list[Action] = []
    for name in sorted(wanted):
        present = by_node.get(name) or []
        failed = [p for p in present if pods.phase(p) in ("Succeeded", "Failed")]
        good = sorted((p for p in present if p not in failed), key=objects.created)
        actions += [a for p in [*failed, *good[1:]] for a in _delete(owner, p)]
        if not present:
            actions.append(Create(PODS, _pod(owner, name), about=owner))
    for name, present in by_node.items():
        if name not in tolerating:
            actions += [a for p in present for a in _delete(owner, p)]
    return actions


def _delete(owner: JSON, pod: JSON) -> list[Action]:
    if objects.deleted(pod):
        return []
    text = f"Deleted pod: {pod['metadata']['name']}"
    return [
        Delete(PODS, objects.key(pod), pod["metadata"]["uid"]),
        Event(owner, "Normal", "SuccessfulDelete", text),
    ]


def _pod(owner: JSON, node: str) -> JSON:
    pod = pods.from_template(objects.spec(owner).get("template") or {}, owner, DAEMON_SETS)
    meta, spec = pod["metadata"], pod["spec"]
    meta["labels"] = {**(meta.get("labels") or {}), revisions.LABEL: revisions.hash_of(owner)}
    spec["tolerations"] = _tolerations(spec)
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = (affinity.get(required) or {}).get("nodeSelectorTerms") or [{}]
    affinity[required] = {"nodeSelectorTerms": [{**t, "matchFields": [field]} for t in terms]}
    return pod


def _limits(owner: JSON, nodes: int) -> int:
    rolling = (objects.spec(owner).get("updateStrategy") or {}).get("rollingUpdate") or {}
    value = rolling.get("maxUnavailable", 1)
    if isinstance(value, str):
        value = math.ceil(nodes * int(value.removesuffix("%")) / 100)
    return max(1, int(value))


def _update(
    owner: JSON, by_node: dict[str, list[JSON]], wanted: set[str], now: float
) -> list[Action]:
    """Delete pods of an old revision, as far as maxUnavailable goes."""
    if (objects.spec(owner).get("updateStrategy") or {}).get("type") == "OnDelete":
        return []
    revision, minimum = revisions.hash_of(owner), objects.spec(owner).get("minReadySeconds", 0)
    budget = _limits(owner, len(wanted))
    outdated: list[JSON] = []
    for name in sorted(wanted):
        present = by_node.get(name) or []
        available = any(
            not objects.deleted(p) and pods.available_in(p, minimum, now) == 0.0 for p in present
        )
        old = [p for p in present if objects.labels(p).get(revisions.LABEL) != revision]
        budget -= not available
        if old and not available:
            # It serves nobody: replacing it costs nothing.
            outdated[:0] = old
            budget += 1
        else:
            outdated += old
    return [a for pod in outdated[: max(0, budget)] for a in _delete(owner, pod)]


def _status(
    owner: JSON, by_node: dict[str, list[JSON]], wanted: set[str], now: float
) -> tuple[JSON, float | None]:
    on = [by_node[n][0] for n in sorted(wanted) if by_node.get(n)]
    present = [p for p in on if not objects.deleted(p)]
    found = pods.availability(present, objects.spec(owner).get("minReadySeconds", 0), now)
    revision = revisions.hash_of(owner)
    stray = sum(bool(found) and name not in wanted for name, found in by_node.items())
    counts = {
        "updatedNumberScheduled": sum(
            objects.labels(p).get(revisions.LABEL) == revision for p in present
        ),
        "numberAvailable": found.available,
        "numberUnavailable": len(wanted) - found.available,
    }
    result: JSON = {k: v for k, v in counts.items() if v}
    return result | {
        "currentNumberScheduled": len(on),
        "numberMisscheduled": stray,
        "desiredNumberScheduled": len(wanted),
        "numberReady": found.ready,
        "observedGeneration": owner["metadata"].get("generation", 1),
    }, found.again


def controller(context: Context) -> Keyed[Key]:
    """The controller of DaemonSets."""
    owned, orphans = context.by_controller(PODS), context.orphans(PODS)
    informer, nodes = context.informer(DAEMON_SETS), context.informer(NODES)
    history, lost = (
        context.by_controller(CONTROLLER_REVISIONS),
        context.orphans(CONTROLLER_REVISIONS),
    )

    def everything(change: Change[JSON]) -> Iterable[Key]:
        old, new = change.old, change.new
        if old and new and _facts(old) == _facts(new):
            return []
        return list(informer.store)

    async def sync(key: Key) -> float | None:
        owner = informer.store.get(key)
        if owner is None:
            return None
        uid = owner["metadata"]["uid"]
        mine = owned.get(uid).values()
        live = (f"{key.name}-{objects.labels(p).get(revisions.LABEL)}" for p in mine)
        kept = revisions.plan(
            owner, DAEMON_SETS, history.get(uid).values(), lost.get(key.namespace).values(), live
        )
        near = orphans.get(key.namespace).values()
        made = plan(owner, mine, near, nodes.store.values(), time.time())
        await context.apply(Plan(kept + made.actions))
        return made.again

    sources = [
        *context.workload_sources(DAEMON_SETS, PODS),
        (nodes, everything),
        (context.informer(CONTROLLER_REVISIONS), controller_of("DaemonSet")),
    ]
    return Keyed(context, "daemonset", sync, sources)


def _facts(node: JSON) -> object:
    return objects.labels(node), objects.spec(node).get("taints")
