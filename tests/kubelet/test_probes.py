"""The prober's state machines, in virtual time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubewire.kubelet.pod import Probe
from kubewire.kubelet.probes import Changed, Group, Kill, Kind, Outcome, Result, Run

OK, BAD, WARN, ERR = Outcome.SUCCESS, Outcome.FAILURE, Outcome.WARNING, Outcome.ERROR


def group(started_at: float = 0.0, **probes: Probe) -> Group:
    return Group(probes, started_at)


def play(found: Group, kind: Kind, outcomes: list[Outcome]) -> list[Result]:
    """Each outcome at the time its probe is due; the result after each."""
    results = []
    for outcome in outcomes:
        due = found.wake_at()
        assert due is not None
        assert Run(kind) in found.tick(due)
        found.ended(kind, outcome)
        results.append(found.workers[kind].result)
    return results


S, F, U = Result.SUCCESS, Result.FAILURE, Result.UNKNOWN


@pytest.mark.parametrize(
    ("kind", "success", "failure", "outcomes", "results"),
    [
        (Kind.READINESS, 1, 3, [OK], [S]),
        (Kind.READINESS, 1, 3, [OK, BAD, BAD, BAD], [S, S, S, F]),
        (Kind.READINESS, 1, 3, [OK, BAD, BAD, OK, BAD, BAD, BAD], [S, S, S, S, S, S, F]),
        (Kind.READINESS, 3, 1, [OK, OK, BAD, OK, OK, OK], [F, F, F, F, F, S]),
        (Kind.READINESS, 1, 3, [WARN], [S]),
        (Kind.READINESS, 1, 1, [OK, ERR, ERR, ERR], [S, S, S, S]),
        (Kind.READINESS, 1, 2, [OK, BAD, ERR, BAD], [S, S, S, F]),
        (Kind.LIVENESS, 1, 3, [BAD, BAD, OK, BAD, BAD, BAD], [S, S, S, S, S, F]),
        (Kind.STARTUP, 1, 3, [BAD, BAD, OK], [U, U, S]),
        (Kind.STARTUP, 1, 3, [BAD, BAD, BAD], [U, U, F]),
    ],
)
def test_thresholds_count_consecutive_results(
    kind: Kind, success: int, failure: int, outcomes: list[Outcome], results: list[Result]
) -> None:
    probe = Probe(success_threshold=success, failure_threshold=failure)
    assert play(group(**{kind.value: probe}), kind, outcomes) == results


def test_initial_results() -> None:
    found = group(readiness=Probe(), liveness=Probe(), startup=Probe())
    assert {k: w.result for k, w in found.workers.items()} == {
        Kind.READINESS: F, Kind.LIVENESS: S, Kind.STARTUP: U,
    }  # fmt: skip
    assert (found.started, found.ready) == (False, False)
    assert group().ready


def test_startup_gates_the_others() -> None:
    found = group(readiness=Probe(), liveness=Probe(), startup=Probe(period_seconds=5))
    assert found.tick(0) == [Run(Kind.STARTUP)]
    found.ended(Kind.STARTUP, BAD)
    assert found.tick(4.9) == []
    assert found.tick(5) == [Run(Kind.STARTUP)]
    assert found.ended(Kind.STARTUP, OK) == [Changed(Kind.STARTUP, S)]
    assert found.wake_at() == 0
    assert set(found.tick(5.01)) == {Run(Kind.LIVENESS), Run(Kind.READINESS)}
    found.ended(Kind.READINESS, OK)
    assert found.ready


@pytest.mark.parametrize("kind", [Kind.LIVENESS, Kind.STARTUP])
def test_failure_kills_once_with_the_probes_grace(kind: Kind) -> None:
    probe = Probe(failure_threshold=1, termination_grace_period_seconds=7)
    found = group(**{kind.value: probe})
    found.tick(0)
    assert found.ended(kind, BAD)[-1] == Kill(kind, 7)
    assert found.tick(1000) == []
    assert found.wake_at() is None


def test_readiness_goes_on_while_a_container_is_killed() -> None:
    found = group(readiness=Probe(period_seconds=1, failure_threshold=1), liveness=Probe(failure_threshold=1))  # fmt: skip
    found.tick(0)
    found.ended(Kind.READINESS, OK)
    found.ended(Kind.LIVENESS, BAD)
    assert found.tick(1) == [Run(Kind.READINESS)]
    found.ended(Kind.READINESS, BAD)
    assert not found.ready
    found.stop()
    assert found.tick(2) == []


def test_a_rehearsal_fails_at_once_the_run_that_it_found_only() -> None:
    probe = Probe(period_seconds=10, failure_threshold=3)
    first = group(liveness=probe)
    assert play(first, Kind.LIVENESS, [OK]) == [S]
    first.rehearse(Kind.LIVENESS, 5, fails=True)
    assert first.wake_at() == 5
    assert play(first, Kind.LIVENESS, [BAD]) == [F]
    assert play(group(20, liveness=probe), Kind.LIVENESS, [BAD, BAD, BAD]) == [S, S, F]


def test_a_rehearsal_waits_for_the_probe_under_way_and_may_be_called_off() -> None:
    found = group(liveness=Probe(failure_threshold=3))
    found.tick(0)
    found.rehearse(Kind.LIVENESS, 1, fails=True)
    assert found.ended(Kind.LIVENESS, OK) == []
    assert found.wake_at() == 1
    found.rehearse(Kind.LIVENESS, 1, fails=False)
    assert play(found, Kind.LIVENESS, [BAD]) == [S]


def test_readiness_never_kills() -> None:
    found = group(readiness=Probe(failure_threshold=1))
    found.tick(0)
    assert found.ended(Kind.READINESS, OK) == [Changed(Kind.READINESS, S)]
    found.tick(10)
    assert found.ended(Kind.READINESS, BAD) == [Changed(Kind.READINESS, F)]


def test_termination_stops_liveness_but_not_readiness() -> None:
    found = group(readiness=Probe(), liveness=Probe(failure_threshold=1))
    found.terminate()
    assert found.tick(0) == [Run(Kind.READINESS)]


def test_a_probe_under_way_at_termination_does_not_kill() -> None:
    found = group(liveness=Probe(failure_threshold=1))
    found.tick(0)
    found.terminate()
    assert found.ended(Kind.LIVENESS, BAD) == []


def test_delay_counts_from_the_start_of_the_container() -> None:
    found = group(100.0, readiness=Probe(initial_delay_seconds=15))
    assert found.tick(114.9) == []
    assert found.tick(115.0) == [Run(Kind.READINESS)]


def test_probes_are_serial_and_late_ticks_are_dropped() -> None:
    found = group(readiness=Probe(period_seconds=1))
    assert found.tick(0) == [Run(Kind.READINESS)]
    assert found.tick(3.5) == []
    found.ended(Kind.READINESS, OK)
    assert found.tick(3.5) == [Run(Kind.READINESS)]
    found.ended(Kind.READINESS, OK)
    assert found.wake_at() == 4


def test_resume_does_not_flip_ready() -> None:
    found = group(readiness=Probe(), startup=Probe())
    found.resume(started=True, ready=True, now=50.0, spread=0.5)
    assert found.ready
    assert found.wake_at() == 55.0
    assert found.tick(55.0) == [Run(Kind.READINESS)]


@given(
    st.floats(0.05, 20),
    st.lists(st.floats(0, 50), min_size=1, max_size=30),
)
def test_ticks_stay_on_the_grid(period: float, delays: list[float]) -> None:
    found = group(readiness=Probe(period_seconds=period))
    now = 0.0
    for delay in delays:
        due = found.wake_at()
        assert due is not None
        now = max(now, due)
        assert found.tick(now) == [Run(Kind.READINESS)]
        now += delay
        found.ended(Kind.READINESS, OK)
        following = found.wake_at()
        assert following is not None
        assert following > due
        assert abs(following / period - round(following / period)) < 1e-6
