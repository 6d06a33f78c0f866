"""Job: pods until enough of them have succeeded, or too many have failed."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kubewire.api.meta import JSON, Key
from kubewire.api.resources import JOBS, PODS
from kubewire.controllermanager import objects, pods
from kubewire.controllermanager.actions import Action, Create, Delete, Event, Plan
from kubewire.controllermanager.context import Context, set_status
from kubewire.controllermanager.keyed import Keyed, of_owner

INDEX = "batch.kubernetes.io/job-completion-index"
FIRST_DELAY, LAST_DELAY = 10.0, 600.0
"""Seconds before a failed pod is replaced: doubled with each failure."""


class Count(NamedTuple):
    """The pods of a Job by what became of them."""

    active: list[JSON]
    succeeded: list[JSON]
    failed: list[JSON]


def plan(job: JSON, owned: Iterable[JSON], now: float) -> Plan:
    """Start, replace or stop pods, and tell when the Job is over."""
    count = _count(owned)
    if finished(job):
        gone = [a for p in count.active for a in _delete(p)]
        return Plan(gone + _expire(job, now), _expires_in(job, now))
    spec = objects.spec(job)
    if objects.deleted(job):
        return Plan([])
    if spec.get("suspend"):
        status = _status(job, count, now) | {"conditions": _suspended(job, now)}
        status.pop("startTime", None)
        return Plan([a for p in count.active for a in _delete(p)] + set_status(JOBS, job, status))
    verdict = _verdict(job, count, now)
    if verdict is not None:
        return Plan(_finish(job, count, verdict, now), 0.0)
    actions, again = _advance(job, count, now)
    actions += set_status(JOBS, job, _status(job, count, now))
    if limit := spec.get("activeDeadlineSeconds"):
        started = objects.seconds(objects.status(job).get("startTime")) or now
        again = min(again if again is not None else limit, max(0.0, started + limit - now) + 0.05)
    return Plan(actions, again)


def finished(job: JSON) -> bool:
    """Complete or failed."""
    return objects.is_true(job, "Complete") or objects.is_true(job, "Failed")


def _count(owned: Iterable[JSON]) -> Count:
    count = Count([], [], [])
    for pod in owned:
        phase = pods.phase(pod)
        if phase == "Succeeded":
            count.succeeded.append(pod)
        elif phase == "Failed" or objects.deleted(pod):
            count.failed.append(pod)
        else:
            count.active.append(pod)
    return count


def _indexed(job: JSON) -> bool:
    return bool(objects.spec(job).get("completionMode") == "Indexed")


def _index(pod: JSON) -> int:
    text = objects.annotations(pod).get(INDEX, "")
    return int(text) if text.isdigit() else -1


def _succeeded(job: JSON, count: Count) -> int:
    if _indexed(job):
        total = objects.spec(job).get("completions") or 0
        return len({i for i in map(_index, count.succeeded) if 0 <= i < total})
    return len(count.succeeded)


def _failures(count: Count) -> int:
    failed = [p for p in count.failed if pods.phase(p) == "Failed"]
    return len(failed) + sum(pods.restarts(p) for p in count.active)


def _verdict(job: JSON, count: Count, now: float) -> tuple[str, str, str] | None:
    """(condition, reason, message) once the Job is over."""
    spec = objects.spec(job)
    if _failures(count) > spec.get("backoffLimit", 6):
        return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    started = objects.seconds(objects.status(job).get("startTime"))
    limit = spec.get("activeDeadlineSeconds")
    if limit and started and now - started >= limit:
        return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
    completions = spec.get("completions")
    if completions is None:
        done = bool(count.succeeded) and not count.active
    else:
        done = _succeeded(job, count) >= completions
    return ("Complete", "CompletionsReached", "Reached expected number of succeeded pods") if done else None  # fmt: skip


def _finish(job: JSON, count: Count, verdict: tuple[str, str, str], now: float) -> list[Action]:
    type_, reason, message = verdict
    actions = [a for p in count.active for a in _delete(p)]
    left = Count([], count.succeeded, count.failed + (count.active if type_ == "Failed" else []))
    status = _status(job, left, now)
    first = "SuccessCriteriaMet" if type_ == "Complete" else "FailureTarget"
    conditions = objects.status(job).get("conditions")
    for name in (first, type_):
        new = {"type": name, "status": "True", "reason": reason, "message": message}
        conditions = objects.with_condition(
            conditions, new | {"lastProbeTime": objects.stamp(now)}, now
        )
    status["conditions"] = conditions
    if type_ == "Complete":
        status["completionTime"] = objects.stamp(now)
        event = Event(job, "Normal", "Completed", "Job completed")
    else:
        event = Event(job, "Warning", reason, message)
    return [*actions, event, *set_status(JOBS, job, status)]


def _advance(job: JSON, count: Count, now: float) -> tuple[list[Action], float | None]:
    spec = objects.spec(job)
    parallelism = spec.get("parallelism", 1)
    completions = spec.get("completions")
    if completions is None:
        wanted = 0 if count.succeeded else parallelism
        wanted = max(wanted, len(count.active) if count.succeeded else 0)
    else:
        wanted = min(parallelism, completions - _succeeded(job, count))
    surplus = len(count.active) - wanted
    if surplus > 0:
        chosen = pods.deletion_order(count.active)[:surplus]
        return [a for p in chosen for a in _delete(p)], None
    wait = _back_off(count, now)
    if surplus == 0 or wait > 0:
        return [], wait + 0.05 if surplus else None
    indexes: Sequence[int | None] = [None] * -surplus
    if _indexed(job):
        taken = {_index(p) for p in (*count.active, *count.succeeded)}
        indexes = [i for i in range(completions or 0) if i not in taken]
    return [Create(PODS, _pod(job, i), about=job) for i in indexes[:-surplus]], None


def _back_off(count: Count, now: float) -> float:
    failed = [p for p in count.failed if pods.phase(p) == "Failed"]
    if not failed:
        return 0.0
    last = max(map(_ended, failed))
    delay = min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(len(failed) - 1, 10))
    return float(max(0.0, last + delay - now))


def _ended(pod: JSON) -> float:
    states = objects.status(pod).get("containerStatuses") or ()
    ends = [((s.get("state") or {}).get("terminated") or {}).get("finishedAt") for s in states]
    return max(map(objects.seconds, ends), default=0.0) or objects.created(pod)


def _pod(job: JSON, index: int | None) -> JSON:
    pod = pods.from_template(objects.spec(job).get("template") or {}, job, JOBS)
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    labels = {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "job-name": name,
    }
    meta = pod["metadata"]
    meta["labels"] = {**(meta.get("labels") or {}), **labels}
    pod["spec"].setdefault("restartPolicy", "Never")
    if index is not None:
        meta["generateName"] = f"{name}-{index}-"
        meta["annotations"] = {**(meta.get("annotations") or {}), INDEX: str(index)}
        meta["labels"][INDEX] = str(index)
        pod["spec"]["hostname"] = f"{name}-{index}"
        env = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
        for container in pod["spec"].get("containers") or ():
            container["env"] = [*(container.get("env") or ()), env]
    return pod


def _delete(pod: JSON) -> list[Action]:
    if objects.deleted(pod):
        return []
    return [Delete(PODS, objects.key(pod), pod["metadata"]["uid"])]


def _status(job: JSON, count: Count, now: float) -> JSON:
    old = objects.status(job)
    counts = {
        "active": len(count.active),
        "succeeded": _succeeded(job, count),
        "failed": sum(pods.phase(p) == "Failed" or p in count.active for p in count.failed),
    }
    result: JSON = {k: v for k, v in counts.items() if v}
    result["ready"] = sum(map(pods.ready, count.active))
    result["startTime"] = old.get("startTime") or objects.stamp(now)
    if _indexed(job) and count.succeeded:
        result["completedIndexes"] = ranges({_index(p) for p in count.succeeded} - {-1})
    if old.get("conditions"):
        result["conditions"] = objects.without_condition(old["conditions"], "Suspended")
    return {k: v for k, v in result.items() if v != []}


def _suspended(job: JSON, now: float) -> list[JSON]:
    new = {"type": "Suspended", "status": "True", "reason": "JobSuspended"}
    return objects.with_condition(
        objects.status(job).get("conditions"), new | {"message": "Job suspended"}, now
    )


def ranges(numbers: Iterable[int]) -> str:
    """``1,3-5``: how completedIndexes are written."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _expires_in(job: JSON, now: float) -> float | None:
    ttl = objects.spec(job).get("ttlSecondsAfterFinished")
    if ttl is None or objects.deleted(job):
        return None
    ends = [
        objects.seconds(c.get("lastTransitionTime"))
        for c in objects.status(job).get("conditions") or ()
        if c["type"] in ("Complete", "Failed") and c["status"] == "True"
    ]
    left = max(ends, default=now) + ttl - now
    return left + 0.05 if left > 0 else None


def _expire(job: JSON, now: float) -> list[Action]:
    if objects.spec(job).get("ttlSecondsAfterFinished") is None or objects.deleted(job):
        return []
    if _expires_in(job, now) is not None:
        return []
    return [Delete(JOBS, objects.key(job), job["metadata"]["uid"], "Foreground")]


def controller(context: Context) -> Keyed[Key]:
    """The controller of Jobs."""
    return of_owner(context, JOBS, PODS, plan)
