"""When CronJobs start what, as a table; and that their Jobs run."""

from typing import Any

import pytest

from kubewire.api.meta import JSON
from kubewire.api.resources import CRON_JOBS, JOBS
from kubewire.controllermanager import objects
from kubewire.controllermanager.actions import Create, Delete, Event, Patch, Plan
from kubewire.controllermanager.cronjob import SCHEDULED, plan
from kubewire.testing.fakekubelet import FakeKubelet

NOW = 1_800_000_030.0
"""2027-01-15, half a minute after 08:00 UTC."""
CREATED = "2027-01-15T06:30:10Z"
NAME = "c-30000000"
"""Of the Job of 08:00."""


def make(status: JSON | None = None, **spec: Any) -> JSON:
    template = {"spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}
    job = {"metadata": {"labels": {"a": "b"}}, "spec": {"template": template}}
    meta = {"name": "c", "namespace": "d", "uid": "u", "creationTimestamp": CREATED}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": meta,
        "spec": {"schedule": "0 * * * *", "jobTemplate": job} | spec,
        "status": status or {},
    }


def job(name: str, end: str = "", at: str = "2027-01-15T07:00:00Z") -> JSON:
    conditions = [{"type": end, "status": "True"}] if end else []
    return {
        "metadata": {"name": name, "namespace": "d", "uid": name, "annotations": {SCHEDULED: at}, "creationTimestamp": at},
        "status": {"conditions": conditions, **({"completionTime": at} if end == "Complete" else {})},
    }  # fmt: skip


def created(made: Plan) -> list[str]:
    return [a.obj["metadata"]["name"] for a in made.actions if isinstance(a, Create)]


def deleted(made: Plan) -> list[str]:
    return [a.key.name for a in made.actions if isinstance(a, Delete)]


def events(made: Plan) -> list[str]:
    return [a.reason for a in made.actions if isinstance(a, Event)]


RUNNING = job("c-29999940")
ROWS: list[tuple[str, JSON, list[JSON], list[str], list[str], list[str]]] = [
    ("due", make(), [], [NAME], [], []),
    ("made already", make(), [job(NAME)], [], [], []),
    ("the last moment only", make(schedule="*/10 * * * *"), [], [NAME], [], []),
    ("told by the status", make({"lastScheduleTime": "2027-01-15T08:00:00Z"}), [], [], [], []),
    ("before its time", make(schedule="0 9 * * *"), [], [], [], []),
    ("suspended", make(suspend=True), [], [], [], []),
    ("too late", make(startingDeadlineSeconds=20), [], [], [], []),
    ("late, but not too late", make(startingDeadlineSeconds=40), [], [NAME], [], []),
    ("elsewhere", make(schedule="0 9 * * *", timeZone="Europe/Berlin"), [], [NAME], [], []),
    ("beside another", make(), [RUNNING], [NAME], [], []),
    ("not beside another", make(concurrencyPolicy="Forbid"), [RUNNING], [], [], ["JobAlreadyActive"]),
    ("instead of another", make(concurrencyPolicy="Replace"), [RUNNING], [NAME], ["c-29999940"], ["SuccessfulDelete"]),
    ("no schedule", make(schedule="x"), [], [], [], ["UnparseableSchedule"]),
    ("no such zone", make(timeZone="Nowhere/City"), [], [], [], ["UnparseableSchedule"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "owner", "jobs", "starts", "stops", "told"), ROWS, ids=[r[0] for r in ROWS]
)
def test_what_starts(
    text: str, owner: JSON, jobs: list[JSON], starts: list[str], stops: list[str], told: list[str]
) -> None:
    made = plan(owner, jobs, NOW)
    assert (created(made), deleted(made), events(made)) == (starts, stops, told)
    idle = text == "suspended" or "UnparseableSchedule" in told
    assert (made.again is None) == idle
    assert idle or 0 < (made.again or 0) <= 86400


def test_the_job() -> None:
    [found] = [a.obj for a in plan(make(), [], NOW).actions if isinstance(a, Create)]
    assert found["metadata"]["labels"] == {"a": "b"}
    assert found["metadata"]["annotations"] == {SCHEDULED: "2027-01-15T08:00:00Z"}
    assert found["metadata"]["ownerReferences"][0]["controller"] is True
    assert found["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_history_and_status() -> None:
    done = [job(f"c-{n}", "Complete", f"2027-01-15T0{n}:00:00Z") for n in range(1, 6)]
    failed = [job(f"f-{n}", "Failed", f"2027-01-15T0{n}:00:00Z") for n in range(1, 4)]
    made = plan(make({"active": [{"uid": "c-5"}]}, schedule="0 9 * * *"), [*done, *failed, RUNNING], NOW)  # fmt: skip
    assert deleted(made) == ["c-1", "c-2", "f-1", "f-2"]
    assert "SawCompletedJob" in events(made)
    [patch] = [a for a in made.actions if isinstance(a, Patch)]
    status = patch.patch["status"]
    assert status["lastScheduleTime"] == "2027-01-15T07:00:00Z"
    assert status["lastSuccessfulTime"] == "2027-01-15T05:00:00Z"
    assert [a["name"] for a in status["active"]] == ["c-29999940"]


async def test_a_job_runs_and_is_told(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    kubelet.finishes = lambda pod: "Succeeded"
    owner = make(schedule="* * * * *")
    owner["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    api.put(owner)

    def told() -> bool:
        found = api.get(CRON_JOBS, "c", "d")
        return bool(found and objects.status(found).get("lastSuccessfulTime"))

    await api.until(told)
    assert objects.labels(api.all(JOBS)[0])["a"] == "b"
