"""From which moment a change of endpoints counts, look by look."""

import pytest

from kubewire.api.meta import JSON, Key
from kubewire.controllermanager.triggertime import TriggerTimes

OLD, MADE, EARLY, LATE = (f"2026-01-01T00:00:{n:02}Z" for n in (1, 2, 3, 4))
Look = tuple[str, dict[str, str]]
"""When the Service was made, and when each pod's Ready condition turned ("": it has none)."""


def service(made: str) -> JSON:
    return {"metadata": {"name": "s", "namespace": "d", "creationTimestamp": made}}


def pod(name: str, turned: str) -> JSON:
    conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": turned}]
    status = {"conditions": conditions} if turned else {}
    return {"metadata": {"name": name, "namespace": "d", "uid": name}, "status": status}


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(MADE, {})], MADE),
        ([(MADE, {"a": LATE})], MADE),
        ([(MADE, {}), (MADE, {})], ""),
        ([(MADE, {}), (MADE, {"a": LATE})], LATE),
        ([(MADE, {}), (MADE, {"a": LATE, "b": EARLY})], EARLY),
        ([(MADE, {"b": EARLY}), (MADE, {"a": LATE, "b": EARLY})], LATE),
        ([(MADE, {"a": LATE}), (MADE, {"a": EARLY})], ""),
        ([(MADE, {"a": LATE}), (MADE, {})], ""),
        ([(MADE, {}), (MADE, {"a": ""})], ""),
        ([(MADE, {"a": OLD}), (LATE, {"a": OLD})], LATE),
        ([(MADE, {"a": OLD}), (LATE, {"a": EARLY})], EARLY),
    ],
)
def test_the_earliest_new_moment_counts(looks: list[Look], expected: str) -> None:
    times = TriggerTimes()
    for made, pods in looks:
        got = times.changed(service(made), [pod(*p) for p in pods.items()])
    assert got == expected


def test_a_service_that_went_is_new_when_it_comes_back() -> None:
    times = TriggerTimes()
    times.changed(service(LATE), [])
    times.forget(Key("d", "s"))
    assert times.changed(service(MADE), []) == MADE
