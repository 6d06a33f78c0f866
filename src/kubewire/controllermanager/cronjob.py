"""CronJob: a Job at every moment that its schedule means.

The last moment that was missed is made up for, the ones before it are not; startingDeadlineSeconds
says for how long. A Job's name holds its moment, so none is made twice.
"""

from collections.abc import Iterable
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kubewire.api.meta import JSON, Key
from kubewire.api.resources import CRON_JOBS, JOBS
from kubewire.controllermanager import objects
from kubewire.controllermanager.actions import Action, Create, Delete, Event, Plan
from kubewire.controllermanager.context import Context, set_status
from kubewire.controllermanager.job import finished
from kubewire.controllermanager.keyed import Keyed, of_owner
from kubewire.lang import cron

SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
"""Annotation of a Job: the moment that it is for."""


def plan(owner: JSON, owned: Iterable[JSON], now: float) -> Plan:
    """Start what is due, tell what runs, forget old Jobs."""
    if objects.deleted(owner):
        return Plan([])
    jobs = sorted(owned, key=lambda j: (objects.created(j), j["metadata"]["name"]))
    active = [j for j in jobs if not finished(j) and not objects.deleted(j)]
    actions = [*_told(owner, jobs), *_forget(owner, jobs)]
    status = _status(owner, jobs, active)
    again = None
    if not objects.spec(owner).get("suspend"):
        started, again = _start(owner, jobs, active, now)
        actions += started
    return Plan(actions + set_status(CRON_JOBS, owner, status), again)


def _start(
    owner: JSON, jobs: list[JSON], active: list[JSON], now: float
) -> tuple[list[Action], float | None]:
    """What to do about the last moment that is due, and when to look again."""
    spec = objects.spec(owner)
    try:
        schedule = cron.parse(spec.get("schedule", ""))
        zone = _zone(spec.get("timeZone"))
    except ValueError as error:
        text = f"unparseable schedule: {spec.get('schedule')} : {error}"
        return [Event(owner, "Warning", "UnparseableSchedule", text)], None
    following = schedule.next(now, zone)
    again = None if following is None else following - now + 0.05
    moment = schedule.latest(_since(owner, now), now, zone)
    if moment is None or _name(owner, moment) in {j["metadata"]["name"] for j in jobs}:
        return [], again
    policy = spec.get("concurrencyPolicy", "Allow")
    if policy == "Forbid" and active:
        text = (
            "Not starting job because prior execution is running and concurrency policy is Forbid"
        )
        return [Event(owner, "Normal", "JobAlreadyActive", text)], again
    replaced = active if policy == "Replace" else []
    actions = [a for job in replaced for a in _delete(owner, job)]
    return [*actions, Create(JOBS, _job(owner, moment), True, owner)], again


def _zone(name: str | None) -> tzinfo:
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, OSError) as error:
        raise ValueError(f"unknown time zone {name}") from error


def _since(owner: JSON, now: float) -> float:
    """Moments up to this one are over."""
    last = objects.seconds(objects.status(owner).get("lastScheduleTime"))
    deadline = objects.spec(owner).get("startingDeadlineSeconds")
    return max(last or objects.created(owner), now - deadline if deadline is not None else 0.0)


def _name(owner: JSON, moment: float) -> str:
    return f"{owner['metadata']['name']}-{int(moment // 60)}"


def _job(owner: JSON, moment: float) -> JSON:
    template = objects.spec(owner).get("jobTemplate") or {}
    meta = template.get("metadata") or {}
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": {
            "name": _name(owner, moment),
            "namespace": owner["metadata"]["namespace"],
            "labels": dict(meta.get("labels") or {}),
            "annotations": {**(meta.get("annotations") or {}), SCHEDULED: objects.stamp(moment)},
            "ownerReferences": [objects.owner_reference(owner, CRON_JOBS)],
        },
        "spec": template.get("spec") or {},
    }


def _told(owner: JSON, jobs: list[JSON]) -> list[Action]:
    """Events about Jobs that were running when the status was written."""
    before = {ref.get("uid") for ref in objects.status(owner).get("active") or ()}
    return [
        Event(owner, "Normal", "SawCompletedJob", f"Saw completed job: {job['metadata']['name']}, condition: {_end(job)}")
        for job in jobs
        if job["metadata"]["uid"] in before and finished(job)
    ]  # fmt: skip


def _end(job: JSON) -> str:
    return "Complete" if objects.is_true(job, "Complete") else "Failed"


def _forget(owner: JSON, jobs: list[JSON]) -> list[Action]:
    """Delete the oldest Jobs that have ended, beyond the limits."""
    spec, actions = objects.spec(owner), []
    for end, field, default in (
        ("Complete", "successfulJobsHistoryLimit", 3),
        ("Failed", "failedJobsHistoryLimit", 1),
    ):
        ended = [j for j in jobs if finished(j) and not objects.deleted(j) and _end(j) == end]
        surplus = ended[: max(0, len(ended) - int(spec.get(field, default)))]
        actions += [a for job in surplus for a in _delete(owner, job)]
    return actions


def _delete(owner: JSON, job: JSON) -> list[Action]:
    name = job["metadata"]["name"]
    return [
        Delete(JOBS, objects.key(job), job["metadata"]["uid"], "Background"),
        Event(owner, "Normal", "SuccessfulDelete", f"Deleted job {name}"),
    ]


def _status(owner: JSON, jobs: list[JSON], active: list[JSON]) -> JSON:
    old = objects.status(owner)
    status: JSON = {k: old[k] for k in ("lastScheduleTime", "lastSuccessfulTime") if old.get(k)}
    # Told by the Jobs that are there: one that could not be made is tried again.
    moments = [objects.annotations(j).get(SCHEDULED, "") for j in jobs]
    if newest := max([*moments, status.get("lastScheduleTime", "")]):
        status["lastScheduleTime"] = newest
    if active:
        status["active"] = [_reference(job) for job in active]
    ends = [objects.status(j).get("completionTime") for j in jobs if _end(j) == "Complete"]
    if newest := max((e for e in [*ends, status.get("lastSuccessfulTime")] if e), default=None):
        status["lastSuccessfulTime"] = newest
    return status


def _reference(job: JSON) -> JSON:
    meta = job["metadata"]
    named = {k: meta[k] for k in ("name", "namespace", "uid") if k in meta}
    return {"apiVersion": JOBS.api_version, "kind": JOBS.kind, **named}


def controller(context: Context) -> Keyed[Key]:
    """The controller of CronJobs."""
    return of_owner(context, CRON_JOBS, JOBS, plan)
