"""Probe workers as state machines: events and ``now`` in, actions out; no I/O, no clock.

One worker per container and probe type; a group of workers belongs to one *run* of a container
(a restart makes a new group, as a new container id does in the kubelet).

    waiting --tick--> running --outcome--> waiting          counts consecutive equal outcomes
    (startup)  gates the others: they wait until it has passed once
    failed(liveness, startup) -> Kill, then the whole group holds until the container is replaced

Ticks lie on a grid of ``periodSeconds`` that begins at the first attempt. A probe that takes
longer than its period swallows the ticks in between, but the last one fires at once: what a Go
ticker does, and so what users see with the kubelet.

Initial results: readiness Failure, liveness Success, startup Unknown. An Outcome of ERROR (the
prober itself could not probe) is discarded. After an agent's restart a group is resumed with the
results that the pod's status held (KEP-4781: Ready must not flip).
"""

from dataclasses import dataclass
from enum import StrEnum

from kubewire.kubelet.pod import Probe


class Kind(StrEnum):
    """The three probe types."""

    STARTUP = "startup"
    LIVENESS = "liveness"
    READINESS = "readiness"


class Result(StrEnum):
    """What a worker holds to be true of its container."""

    SUCCESS = "Success"
    FAILURE = "Failure"
    UNKNOWN = "Unknown"


class Outcome(StrEnum):
    """How one probe ended; a WARNING counts as success."""

    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"
    ERROR = "error"


def complaint_of(kind: Kind, outcome: Outcome, message: str) -> tuple[str, str] | None:
    """Reason and text of the event that tells of a probe's end; a success needs none."""
    title = f"{kind.capitalize()} probe"
    match outcome:
        case Outcome.FAILURE:
            return "Unhealthy", f"{title} failed: {message}"
        case Outcome.WARNING:
            return "ProbeWarning", f"{title} warning: {message}"
        case Outcome.ERROR:
            return "Unhealthy", f"{title} errored and resulted in unknown state: {message}"
    return None


INITIAL = {
    Kind.READINESS: Result.FAILURE,
    Kind.LIVENESS: Result.SUCCESS,
    Kind.STARTUP: Result.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Run:
    """Action: probe now, and report the outcome by ``ended``."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Changed:
    """Action: the result of a worker is another one now."""

    kind: Kind
    result: Result


@dataclass(frozen=True, slots=True)
class Kill:
    """Action: kill the container; ``grace`` overrides the pod's grace period."""

    kind: Kind
    grace: float | None


Action = Run | Changed | Kill


@dataclass(slots=True)
class Worker:
    """One probe type of one run of a container."""

    kind: Kind
    spec: Probe
    result: Result
    due: float
    """Time of the next tick."""
    running: bool = False
    stopped: bool = False
    last: Result = Result.UNKNOWN
    """The last single outcome, below its threshold or not."""
    count: int = 0
    """How many times in a row ``last`` was seen."""
    settled: bool = False
    """At least one probe has ended."""
    hasty: bool = False
    """The next failure counts as ``failureThreshold`` of them."""

    def begin(self, now: float) -> None:
        """Take the tick: the next one is the first grid point after now."""
        late = now - self.due
        self.due += (int(late / self.spec.period) + 1 if late > 0 else 1) * self.spec.period
        self.running = True

    def end(self, outcome: Outcome) -> bool:
        """Count an outcome; true if it reached its threshold."""
        self.running = False
        self.settled = True
        if outcome is Outcome.ERROR:
            return False
        if self.hasty and outcome is Outcome.FAILURE:
            self.last, self.count, self.hasty = Result.FAILURE, self.spec.failures, False
        seen = Result.FAILURE if outcome is Outcome.FAILURE else Result.SUCCESS
        self.count = self.count + 1 if seen is self.last else 1
        self.last = seen
        needed = self.spec.failures if seen is Result.FAILURE else self.spec.successes
        return self.count >= needed


class Group:
    """All probes of one run of a container."""

    def __init__(self, probes: dict[str, Probe], started_at: float) -> None:
        self.workers = {
            Kind(kind): Worker(
                Kind(kind), spec, INITIAL[Kind(kind)], started_at + spec.initial_delay_seconds
            )
            for kind, spec in probes.items()
        }
        self._held = False

    def resume(self, *, started: bool, ready: bool, now: float, spread: float) -> None:
        """Go on after a restart of the agent: ``spread`` in [0, 1) staggers the first probes."""
        for worker in self.workers.values():
            worker.due = max(worker.due, now + spread * worker.spec.period)
        if started and Kind.STARTUP in self.workers:
            self.workers[Kind.STARTUP].result = Result.SUCCESS
        if ready and Kind.READINESS in self.workers:
            self.workers[Kind.READINESS].result = Result.SUCCESS

    @property
    def started(self) -> bool:
        """The container counts as started: its startup probe, if any, has passed."""
        startup = self.workers.get(Kind.STARTUP)
        return startup is None or startup.result is Result.SUCCESS

    @property
    def ready(self) -> bool:
        """Started, and the readiness probe, if any, holds."""
        readiness = self.workers.get(Kind.READINESS)
        return self.started and (readiness is None or readiness.result is Result.SUCCESS)

    @property
    def is_settling(self) -> bool:
        """A probe that decides readiness has not ended once: the status is about to change."""
        waiting = (self.workers.get(Kind.STARTUP), self.workers.get(Kind.READINESS))
        return any(w and not w.settled and w.running for w in waiting)

    def terminate(self) -> None:
        """The pod is being deleted: liveness and startup stop, readiness goes on."""
        for kind in (Kind.LIVENESS, Kind.STARTUP):
            if kind in self.workers:
                self.workers[kind].stopped = True
                self.workers[kind].result = Result.SUCCESS

    def stop(self) -> None:
        """The container has ended: nothing is probed any more."""
        self._held = True

    def tick(self, now: float) -> list[Action]:
        """Begin every probe that is due."""
        actions: list[Action] = []
        for worker in self.workers.values():
            if self._is_waiting(worker) and worker.due <= now:
                worker.begin(now)
                actions.append(Run(worker.kind))
        return actions

    def hurry(self, kind: Kind, at: float) -> None:
        """Bring the next tick of a worker forward to a moment."""
        if kind in self.workers:
            self.workers[kind].due = min(self.workers[kind].due, at)

    def rehearse(self, kind: Kind, now: float, *, fails: bool) -> None:
        """Probe now; one failure does: a rehearsal must not take three periods to show.

        That is for this run of the container only: the next one gets its periods, as upstream.
        """
        self.hurry(kind, now)
        if kind in self.workers:
            self.workers[kind].hasty = fails

    def wake_at(self) -> float | None:
        """When ``tick`` has something to do next."""
        return min((w.due for w in self.workers.values() if self._is_waiting(w)), default=None)

    def ended(self, kind: Kind, outcome: Outcome) -> list[Action]:
        """Take the outcome of a probe that ``tick`` asked for."""
        worker = self.workers[kind]
        reached = worker.end(outcome)
        if self._held or worker.stopped or not reached:
            return []
        actions: list[Action] = []
        if worker.result is not worker.last:
            worker.result = worker.last
            actions.append(Changed(kind, worker.result))
        if worker.result is Result.FAILURE and kind is not Kind.READINESS:
            # It has spoken; readiness goes on until the container has ended.
            worker.stopped = True
            actions.append(Kill(kind, worker.spec.termination_grace_period_seconds))
        return actions

    def _is_waiting(self, worker: Worker) -> bool:
        if self._held or worker.running or worker.stopped:
            return False
        if worker.kind is Kind.STARTUP:
            return worker.result is not Result.SUCCESS
        return self.started
