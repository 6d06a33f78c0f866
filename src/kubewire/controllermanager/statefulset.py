"""StatefulSet: pods with stable names, made, replaced and removed in order.

Below the partition of a rolling update pods are made anew of the template of the revision before.
Claims of ``volumeClaimTemplates`` are created and marked as bound: no storage is behind them.
"""

import copy
import re
import time
from collections.abc import Iterable, Mapping

from kubewire.api.meta import JSON, Key
from kubewire.api.resources import (
    CONTROLLER_REVISIONS,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    STATEFUL_SETS,
)
from kubewire.controllermanager import objects, pods, revisions
from kubewire.controllermanager.actions import Action, Create, Delete, Event, Patch, Plan
from kubewire.controllermanager.context import Context, controller_of, set_status
from kubewire.controllermanager.keyed import Keyed

POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"


def plan(
    owner: JSON,
    owned: Iterable[JSON],
    orphans: Iterable[JSON],
    claims: Mapping[str, JSON],
    history: Mapping[str, JSON],
    now: float,
) -> Plan:
    """The next step: at most one pod at a time, or all of them with Parallel.

    ``claims`` are those of the namespace by name, ``history`` the owner's revisions by name.
    """
    mine, actions = pods.claim(owner, STATEFUL_SETS, owned, orphans, PODS)
    if actions:
        return Plan(actions)
    named = {ordinal(owner, p): p for p in mine}
    by_ordinal = {i: p for i, p in named.items() if i is not None}
    again: float | None = None
    if not objects.deleted(owner):
        actions, again = _steps(owner, by_ordinal, claims, history, now)
    actions += set_status(STATEFUL_SETS, owner, _status(owner, by_ordinal, actions, now))
    return Plan(actions, again)


def ordinal(owner: JSON, pod: JSON) -> int | None:
    """The number at the end of a pod's name, if the name is the owner's plus a number."""
    name = re.escape(owner["metadata"]["name"])
    found = re.fullmatch(rf"{name}-(0|[1-9]\d*)", pod["metadata"]["name"])
    return int(found[1]) if found else None


def current_revision(owner: JSON) -> str:
    """Name of the revision that all pods had when the last update was done."""
    return objects.status(owner).get("currentRevision") or revisions.name_of(owner)


def _wanted(owner: JSON) -> range:
    start = (objects.spec(owner).get("ordinals") or {}).get("start", 0)
    return range(start, start + objects.spec(owner).get("replicas", 1))


def _steps(
    owner: JSON,
    found: dict[int, JSON],
    claims: Mapping[str, JSON],
    history: Mapping[str, JSON],
    now: float,
) -> tuple[list[Action], float | None]:
    spec = objects.spec(owner)
    parallel = spec.get("podManagementPolicy") == "Parallel"
    minimum = spec.get("minReadySeconds", 0)
    actions: list[Action] = []
    for index in _wanted(owner):
        pod = found.get(index)
        if pod is None:
            actions += _create(owner, index, claims, history)
        elif pods.phase(pod) in ("Succeeded", "Failed") and not objects.deleted(pod):
            actions.append(Delete(PODS, objects.key(pod), pod["metadata"]["uid"]))
        else:
            wait = None if objects.deleted(pod) else pods.available_in(pod, minimum, now)
            if wait == 0.0 or parallel:
                continue
            return actions, wait and wait + 0.05
        if not parallel:
            return actions, None
    if actions:
        return actions, None
    return _shrink_or_update(owner, found, parallel, now)


def _shrink_or_update(
    owner: JSON, found: dict[int, JSON], parallel: bool, now: float
) -> tuple[list[Action], float | None]:
    surplus = sorted((i for i in found if i not in _wanted(owner)), reverse=True)
    actions: list[Action] = []
    for index in surplus:
        if not objects.deleted(found[index]):
            actions += _delete(owner, found[index])
        if not parallel:
            return actions, None
    if surplus:
        return actions, None
    return _update(owner, found, now), None


def _update(owner: JSON, found: dict[int, JSON], now: float) -> list[Action]:
    """Replace pods of an old revision, the highest ordinal first, down to the partition."""
    strategy = objects.spec(owner).get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return []
    rolling = strategy.get("rollingUpdate") or {}
    budget = rolling.get("maxUnavailable", 1)
    if isinstance(budget, str):
        budget = max(1, len(_wanted(owner)) * int(budget.removesuffix("%")) // 100)
    revision = revisions.name_of(owner)
    minimum = objects.spec(owner).get("minReadySeconds", 0)
    actions: list[Action] = []
    first = _wanted(owner).start + rolling.get("partition", 0)
    for index in sorted((i for i in found if i >= first), reverse=True):
        pod = found[index]
        outdated = objects.labels(pod).get(revisions.LABEL) != revision
        if outdated and not objects.deleted(pod):
            actions += _delete(owner, pod)
            budget -= 1
        elif objects.deleted(pod) or pods.available_in(pod, minimum, now) != 0.0:
            budget -= 1
        if budget <= 0:
            break
    return actions


def _delete(owner: JSON, pod: JSON) -> list[Action]:
    name = pod["metadata"]["name"]
    text = f"delete Pod {name} in StatefulSet {owner['metadata']['name']} successful"
    return [
        Delete(PODS, objects.key(pod), pod["metadata"]["uid"]),
        Event(owner, "Normal", "SuccessfulDelete", text),
    ]


def _create(
    owner: JSON, index: int, claims: Mapping[str, JSON], history: Mapping[str, JSON]
) -> list[Action]:
    """A pod and the claims that it mounts."""
    spec = objects.spec(owner)
    revision, template = _revision(owner, index, history)
    pod = pods.from_template(template, owner, STATEFUL_SETS)
    name = f"{owner['metadata']['name']}-{index}"
    meta = pod["metadata"]
    del meta["generateName"]
    meta["name"] = name
    meta["labels"] = {
        **(meta.get("labels") or {}),
        POD_NAME: name,
        POD_INDEX: str(index),
        revisions.LABEL: revision,
    }
    pod["spec"]["hostname"] = name
    if service := spec.get("serviceName"):
        pod["spec"]["subdomain"] = service
    actions: list[Action] = []
    volumes = {v["name"]: v for v in pod["spec"].get("volumes") or ()}
    for template in spec.get("volumeClaimTemplates") or ():
        claim = f"{template['metadata']['name']}-{name}"
        volumes[template["metadata"]["name"]] = {
            "name": template["metadata"]["name"],
            "persistentVolumeClaim": {"claimName": claim},
        }
        if claim not in claims:
            actions.append(Create(PERSISTENT_VOLUME_CLAIMS, _claim(owner, template, claim), True))
    if volumes:
        pod["spec"]["volumes"] = list(volumes.values())
    return [*actions, Create(PODS, pod, about=owner)]


def _revision(owner: JSON, index: int, history: Mapping[str, JSON]) -> tuple[str, JSON]:
    """Name and template of the revision that a new pod of this number is to have."""
    spec = objects.spec(owner)
    partition = ((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("partition", 0)
    current = current_revision(owner)
    if index < _wanted(owner).start + partition and current in history:
        return current, revisions.template_of(history[current])
    return revisions.name_of(owner), spec.get("template") or {}


def _claim(owner: JSON, template: JSON, name: str) -> JSON:
    labels = (objects.spec(owner).get("selector") or {}).get("matchLabels") or {}
    meta = template.get("metadata") or {}
    claim = copy.deepcopy({k: v for k, v in template.items() if k != "status"})
    return {
        **claim,
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "labels": {**(meta.get("labels") or {}), **labels},
            **({"annotations": meta["annotations"]} if meta.get("annotations") else {}),
        },
    }


def bind(claim: JSON) -> list[Action]:
    """Mark a claim as bound: pods that mount it may start."""
    if objects.status(claim).get("phase") == "Bound":
        return []
    spec = objects.spec(claim)
    status = {
        "phase": "Bound",
        "accessModes": spec.get("accessModes") or ["ReadWriteOnce"],
        "capacity": (spec.get("resources") or {}).get("requests") or {},
    }
    key, uid = objects.key(claim), claim["metadata"]["uid"]
    return [Patch(PERSISTENT_VOLUME_CLAIMS, key, {"status": status}, uid, "status")]


def _status(owner: JSON, found: dict[int, JSON], actions: list[Action], now: float) -> JSON:
    present = [p for i, p in found.items() if not objects.deleted(p)]
    counted = pods.availability(present, objects.spec(owner).get("minReadySeconds", 0), now)
    old, new = current_revision(owner), revisions.name_of(owner)
    updated = sum(objects.labels(p).get(revisions.LABEL) == new for p in present)
    total = len(_wanted(owner))
    if not actions and updated == len(found) == total == counted.ready:
        old = new
    counts = {
        "currentReplicas": sum(objects.labels(p).get(revisions.LABEL) == old for p in present),
        "updatedReplicas": updated,
        "readyReplicas": counted.ready,
        "collisionCount": 0,
    }
    result: JSON = {k: v for k, v in counts.items() if v or k == "collisionCount"}
    return result | {
        "replicas": len(found),
        "availableReplicas": counted.available,
        "observedGeneration": owner["metadata"].get("generation", 1),
        "currentRevision": old,
        "updateRevision": new,
    }


def controller(context: Context) -> Keyed[Key]:
    """The controller of StatefulSets."""
    owned, orphans = context.by_controller(PODS), context.orphans(PODS)
    claims = context.by_namespace(PERSISTENT_VOLUME_CLAIMS)
    informer = context.informer(STATEFUL_SETS)
    past, lost = context.by_controller(CONTROLLER_REVISIONS), context.orphans(CONTROLLER_REVISIONS)

    async def sync(key: Key) -> float | None:
        owner = informer.store.get(key)
        if owner is None:
            return None
        uid = owner["metadata"]["uid"]
        mine = owned.get(uid).values()
        known = {k.name: c for k, c in claims.get(key.namespace).items()}
        history = {k.name: r for k, r in past.get(uid).items()}
        live = [objects.labels(p).get(revisions.LABEL, "") for p in mine] + [
            current_revision(owner)
        ]
        kept = revisions.plan(
            owner, STATEFUL_SETS, history.values(), lost.get(key.namespace).values(), live
        )
        near = orphans.get(key.namespace).values()
        made = plan(owner, mine, near, known, history, time.time())
        await context.apply(Plan(kept + made.actions))
        return made.again

    return Keyed(
        context,
        "statefulset",
        sync,
        [
            *context.workload_sources(STATEFUL_SETS, PODS),
            (context.informer(CONTROLLER_REVISIONS), controller_of("StatefulSet")),
        ],
        waits_for=[context.informer(PERSISTENT_VOLUME_CLAIMS)],
    )


def binder(context: Context) -> Keyed[Key]:
    """Treats every claim as bound."""
    claims = context.informer(PERSISTENT_VOLUME_CLAIMS)

    async def sync(key: Key) -> None:
        claim = claims.store.get(key)
        if claim is not None and not objects.deleted(claim):
            await context.apply(Plan(bind(claim)))

    return Keyed(context, "claim-binder", sync, [(claims, lambda change: (change.key,))])
