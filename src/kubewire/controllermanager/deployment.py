"""Deployment: a ReplicaSet per revision of the template, and the way from one to the next.

Annotations and condition reasons are those that ``kubectl rollout`` reads.
"""

import hashlib
import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from kubewire.api.meta import JSON, Key
from kubewire.api.resources import DEPLOYMENTS, PODS, REPLICA_SETS
from kubewire.client.informer import Change
from kubewire.controllermanager import objects, pods, rollout
from kubewire.controllermanager.actions import Action, Create, Delete, Event, Patch, Plan
from kubewire.controllermanager.context import Context, set_status
from kubewire.controllermanager.keyed import Keyed

HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
PRIVATE = (REVISION, HISTORY, DESIRED, MAXIMUM, "kubectl.kubernetes.io/last-applied-configuration")


class Sets(NamedTuple):
    """The ReplicaSets of one Deployment: of the current template, and the others, oldest first."""

    new: JSON | None
    old: list[JSON]

    @property
    def all(self) -> list[JSON]:
        """Both."""
        return [*self.old, *([self.new] if self.new else [])]


def template_hash(template: JSON, collisions: int = 0) -> str:
    """The label that tells the pods of one template from those of another."""
    canonical = msgspec.json.encode(template, order="deterministic") + str(collisions).encode()
    number = int.from_bytes(hashlib.blake2s(canonical, digest_size=8).digest(), "big")
    return "".join(ALPHABET[(number >> (5 * i)) % 27] for i in range(10))


def plan(
    owner: JSON, owned: Iterable[JSON], orphans: Iterable[JSON], has_pods: bool, now: float
) -> Plan:
    """The next step of a Deployment."""
    mine, actions = pods.claim(owner, DEPLOYMENTS, owned, orphans, REPLICA_SETS)
    if actions or objects.deleted(owner):
        return Plan(actions)
    sets = _split(owner, mine)
    spec = objects.spec(owner)
    if spec.get("paused") or _scaling(owner, sets):
        actions = _scale(owner, sets)
    elif _recreates(owner):
        actions = _recreate(owner, sets, has_pods)
    else:
        actions = _roll(owner, sets)
    if not spec.get("paused"):
        actions += _clean(owner, sets)
    actions += _numbered(owner, sets)
    status, again = _status(owner, sets, now)
    actions += set_status(DEPLOYMENTS, owner, status)
    return Plan(actions, again)


def _split(owner: JSON, sets: list[JSON]) -> Sets:
    wanted = _bare(objects.spec(owner).get("template") or {})
    ordered = sorted(sets, key=lambda s: (objects.created(s), s["metadata"]["name"]))
    new = next((s for s in ordered if _bare(s["spec"]["template"]) == wanted), None)
    return Sets(new, [s for s in ordered if s is not new])


def _bare(template: JSON) -> JSON:
    meta = {k: v for k, v in (template.get("metadata") or {}).items() if v}
    labels = {k: v for k, v in (meta.get("labels") or {}).items() if k != HASH}
    meta.pop("creationTimestamp", None)
    return {"metadata": meta | {"labels": labels}, "spec": template.get("spec")}


def _replicas(obj: JSON) -> int:
    return int(objects.spec(obj).get("replicas", 1))


def _recreates(owner: JSON) -> bool:
    return (objects.spec(owner).get("strategy") or {}).get("type") == "Recreate"


def _limits(owner: JSON) -> tuple[int, int]:
    if _recreates(owner):
        return 0, 0
    rolling = (objects.spec(owner).get("strategy") or {}).get("rollingUpdate") or {}
    return rollout.bounds(
        _replicas(owner), rolling.get("maxSurge", "25%"), rolling.get("maxUnavailable", "25%")
    )


def _side(found: JSON | None) -> rollout.Side:
    if found is None:
        return rollout.Side(0, 0)
    # The status lags behind the spec: pods that are to go no longer count as available.
    available = int(objects.status(found).get("availableReplicas", 0))
    return rollout.Side(_replicas(found), min(available, _replicas(found)))


# --- steps -----------------------------------------------------------------------------------


def _roll(owner: JSON, sets: Sets) -> list[Action]:
    wanted = _replicas(owner)
    surge, unavailable = _limits(owner)
    olds = [_side(s) for s in sets.old]
    if sets.new is None:
        total = sum(o.replicas for o in olds)
        return [_new(owner, sets, rollout.scale_up(wanted, surge, rollout.Side(0, 0), total))]
    new = _side(sets.new)
    total = new.replicas + sum(o.replicas for o in olds)
    grown = rollout.scale_up(wanted, surge, new, total)
    actions = _adjust(owner, sets.new, grown, sets)
    if grown != new.replicas:
        return actions
    for found, keep in zip(
        sets.old, rollout.scale_down(wanted, unavailable, new, olds), strict=True
    ):
        actions += _adjust(owner, found, keep, sets)
    return actions


def _recreate(owner: JSON, sets: Sets, has_pods: bool) -> list[Action]:
    down = [a for s in sets.old if _replicas(s) for a in _adjust(owner, s, 0, sets)]
    if down:
        return down
    if sets.new is None:
        return [] if has_pods else [_new(owner, sets, _replicas(owner))]
    if (
        has_pods
        and _replicas(sets.new) == 0
        and any(objects.status(s).get("replicas") for s in sets.old)
    ):
        return []
    return _adjust(owner, sets.new, _replicas(owner), sets)


def _scaling(owner: JSON, sets: Sets) -> bool:
    """The Deployment was resized while ReplicaSets are up: keep their proportions."""
    return any(
        _replicas(s) > 0 and objects.annotations(s).get(DESIRED, str(_replicas(owner))) != str(_replicas(owner))
        for s in sets.all
    )  # fmt: skip


def _scale(owner: JSON, sets: Sets) -> list[Action]:
    wanted = _replicas(owner)
    up = [s for s in sets.all if _replicas(s) > 0]
    if len(up) <= 1 or _recreates(owner):
        target = up[0] if up else sets.new or (sets.old[-1] if sets.old else None)
        return _adjust(owner, target, wanted, sets) if target else []
    surge, _ = _limits(owner)
    sizes = [_replicas(s) for s in up]
    allowed = wanted + surge if wanted else 0
    keep = rollout.proportional(sizes, allowed)
    return [a for s, n in zip(up, keep, strict=True) for a in _adjust(owner, s, n, sets)]


def _clean(owner: JSON, sets: Sets) -> list[Action]:
    limit = objects.spec(owner).get("revisionHistoryLimit", 10)
    idle = [
        s
        for s in sets.old
        if not (_replicas(s) or objects.status(s).get("replicas") or objects.deleted(s))
    ]
    idle.sort(key=_revision)
    surplus = idle[: max(0, len(idle) - limit)]
    return [Delete(REPLICA_SETS, objects.key(s), s["metadata"]["uid"]) for s in surplus]


# --- ReplicaSets -----------------------------------------------------------------------------


def _revision(found: JSON) -> int:
    text = objects.annotations(found).get(REVISION, "0")
    return int(text) if text.isdigit() else 0


def _next_revision(sets: Sets) -> int:
    return max((_revision(s) for s in sets.old), default=0) + 1


def _annotations(owner: JSON, revision: int) -> JSON:
    surge, _ = _limits(owner)
    copied = {k: v for k, v in objects.annotations(owner).items() if k not in PRIVATE}
    wanted = _replicas(owner)
    return copied | {REVISION: str(revision), DESIRED: str(wanted), MAXIMUM: str(wanted + surge)}


def _numbered(owner: JSON, sets: Sets) -> list[Action]:
    """The Deployment carries its current revision: ``kubectl rollout undo`` relies on it."""
    if sets.new is None:
        return []
    revision = str(max(_revision(sets.new), _next_revision(sets)))
    if objects.annotations(owner).get(REVISION) == revision:
        return []
    patch = {"metadata": {"annotations": {REVISION: revision}}}
    return [Patch(DEPLOYMENTS, objects.key(owner), patch, owner["metadata"]["uid"])]


def _new(owner: JSON, sets: Sets, replicas: int) -> Create:
    template = objects.spec(owner)["template"]
    label = template_hash(template, int(objects.status(owner).get("collisionCount") or 0))
    meta = template.get("metadata") or {}
    labels = {**(meta.get("labels") or {}), HASH: label}
    selector = dict(objects.spec(owner)["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH: label}
    obj = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{owner['metadata']['name']}-{label}",
            "namespace": owner["metadata"]["namespace"],
            "labels": labels,
            "annotations": _annotations(owner, _next_revision(sets)),
            "ownerReferences": [objects.owner_reference(owner, DEPLOYMENTS)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": objects.spec(owner).get("minReadySeconds", 0),
            "selector": selector,
            "template": {**template, "metadata": {**meta, "labels": labels}},
        },
    }
    return Create(REPLICA_SETS, obj)


def _adjust(owner: JSON, found: JSON, replicas: int, sets: Sets) -> list[Action]:
    """Scale one ReplicaSet, and keep the annotations of the current one."""
    old = objects.annotations(found)
    if found is sets.new:
        revision = max(_next_revision(sets), _revision(found))
        notes = _annotations(owner, revision)
        if _revision(found) and revision != _revision(found):
            before = [*filter(None, [old.get(HISTORY)]), str(_revision(found))]
            notes[HISTORY] = ",".join(before)
    else:
        fresh = _annotations(owner, 0)
        notes = {k: fresh[k] for k in (DESIRED, MAXIMUM)} if replicas else {}
    changed = {k: v for k, v in notes.items() if old.get(k) != v}
    patch: JSON = {"metadata": {"annotations": changed}} if changed else {}
    actions: list[Action] = []
    if replicas != _replicas(found):
        patch["spec"] = {"replicas": replicas}
        actions.append(_scaled(owner, found, replicas))
    minimum = objects.spec(owner).get("minReadySeconds", 0)
    if found is sets.new and found["spec"].get("minReadySeconds", 0) != minimum:
        patch.setdefault("spec", {})["minReadySeconds"] = minimum
    if patch:
        uid = found["metadata"]["uid"]
        actions.insert(0, Patch(REPLICA_SETS, objects.key(found), patch, uid))
    return actions


def _scaled(owner: JSON, found: JSON, replicas: int) -> Event:
    before, name = _replicas(found), found["metadata"]["name"]
    way = "up" if replicas > before else "down"
    text = f"Scaled {way} replica set {name} from {before} to {replicas}"
    return Event(owner, "Normal", "ScalingReplicaSet", text)


# --- status ----------------------------------------------------------------------------------


def _status(owner: JSON, sets: Sets, now: float) -> tuple[JSON, float | None]:
    def total(field: str, found: list[JSON]) -> int:
        return sum(int(objects.status(s).get(field) or 0) for s in found)

    new = [sets.new] if sets.new else []
    replicas, available = total("replicas", sets.all), total("availableReplicas", sets.all)
    counts = {
        "replicas": replicas,
        "updatedReplicas": total("replicas", new),
        "readyReplicas": total("readyReplicas", sets.all),
        "availableReplicas": available,
        "unavailableReplicas": max(0, max(replicas, _replicas(owner)) - available),
    }
    result: JSON = {k: v for k, v in counts.items() if v}
    result["observedGeneration"] = owner["metadata"].get("generation", 1)
    if collisions := objects.status(owner).get("collisionCount"):
        result["collisionCount"] = collisions
    conditions = objects.with_condition(
        objects.status(owner).get("conditions"), _available(owner, available), now
    )
    progress, again = _progressing(owner, sets, counts, now)
    if progress:
        conditions = objects.with_condition(conditions, progress, now)
    result["conditions"] = conditions
    return result, again


def _available(owner: JSON, available: int) -> JSON:
    _, unavailable = _limits(owner)
    if available >= _replicas(owner) - unavailable:
        status, reason = "True", "MinimumReplicasAvailable"
        message = "Deployment has minimum availability."
    else:
        status, reason = "False", "MinimumReplicasUnavailable"
        message = "Deployment does not have minimum availability."
    return {"type": "Available", "status": status, "reason": reason, "message": message}


def _progressing(
    owner: JSON, sets: Sets, counts: dict[str, int], now: float
) -> tuple[JSON | None, float | None]:
    """The Progressing condition, and when its deadline has to be looked at."""
    old = objects.condition(owner, "Progressing")
    name = owner["metadata"]["name"]
    what = f'ReplicaSet "{sets.new["metadata"]["name"]}"' if sets.new else f'Deployment "{name}"'
    if objects.spec(owner).get("paused"):
        if old and old.get("reason") == "DeploymentPaused":
            return None, None
        return _progress("Unknown", "DeploymentPaused", "Deployment is paused"), None
    wanted = _replicas(owner)
    if (
        sets.new is not None
        and counts["updatedReplicas"] == counts["replicas"] == wanted
        and counts["availableReplicas"] == wanted
    ):
        text = f"{what} has successfully progressed."
        return _progress("True", "NewReplicaSetAvailable", text), None
    settled = old is not None and old.get("reason") == "NewReplicaSetAvailable"
    if settled and counts["updatedReplicas"] == counts["replicas"]:
        return None, None
    if old is None or settled or old["reason"] == "DeploymentPaused" or _moved(owner, counts):
        reason = "ReplicaSetUpdated" if sets.new else "NewReplicaSetCreated"
        text = f"{what} is progressing." if sets.new else f"Created new replica set for {name}"
        found = _progress("True", reason, text) | {"lastUpdateTime": objects.stamp(now)}
        return found, objects.spec(owner).get("progressDeadlineSeconds", 600) + 1.0
    return _deadline(owner, old, what, now)


def _progress(status: str, reason: str, message: str) -> JSON:
    return {"type": "Progressing", "status": status, "reason": reason, "message": message}


def _moved(owner: JSON, counts: dict[str, int]) -> bool:
    old = objects.status(owner)
    outdated = counts["replicas"] - counts["updatedReplicas"]
    return bool(
        counts["updatedReplicas"] > old.get("updatedReplicas", 0)
        or outdated < old.get("replicas", 0) - old.get("updatedReplicas", 0)
        or counts["readyReplicas"] > old.get("readyReplicas", 0)
        or counts["availableReplicas"] > old.get("availableReplicas", 0)
    )


def _deadline(owner: JSON, old: JSON, what: str, now: float) -> tuple[JSON | None, float | None]:
    since = objects.seconds(old.get("lastUpdateTime") or old.get("lastTransitionTime"))
    left = since + objects.spec(owner).get("progressDeadlineSeconds", 600) - now
    if left > 0 or old.get("reason") == "ProgressDeadlineExceeded":
        return None, left + 0.5 if left > 0 else None
    text = f"{what} has timed out progressing."
    return _progress("False", "ProgressDeadlineExceeded", text), None


def controller(context: Context) -> Keyed[Key]:
    """The controller of Deployments."""
    owned, orphans = context.by_controller(REPLICA_SETS), context.orphans(REPLICA_SETS)
    pods_of = context.by_controller(PODS)
    informer = context.informer(DEPLOYMENTS)
    sets = context.informer(REPLICA_SETS)

    def set_of_pod(change: Change[JSON]) -> Iterable[Key]:
        # A Recreate waits for the last pod of the old ReplicaSet.
        ref = objects.controller_ref(change.old) if change.old and not change.new else None
        found = sets.store.get(Key(change.key.namespace, ref["name"])) if ref else None
        above = objects.controller_ref(found) if found else None
        return [Key(change.key.namespace, above["name"])] if above else []

    async def sync(key: Key) -> float | None:
        owner = informer.store.get(key)
        if owner is None:
            return None
        mine = list(owned.get(owner["metadata"]["uid"]).values())
        has_pods = any(
            pods.phase(p) not in ("Succeeded", "Failed")
            for s in mine
            for p in pods_of.get(s["metadata"]["uid"]).values()
        )
        made = plan(owner, mine, orphans.get(key.namespace).values(), has_pods, time.time())
        await context.apply(made)
        return made.again

    sources = context.workload_sources(DEPLOYMENTS, REPLICA_SETS)
    return Keyed(context, "deployment", sync, [*sources, (context.informer(PODS), set_of_pod)])
