"""What the agent knows of a pod that runs on its node; ``lifecycle`` and ``status`` read it."""

from dataclasses import dataclass, field

MINIMUM_BACKOFF = 10.0
RESET_AFTER = 600.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not running; ``reason`` is the one-word answer to why."""

    reason: str = "ContainerCreating"
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """Running since a moment of the wall clock."""

    started_at: float


@dataclass(frozen=True, slots=True)
class Terminated:
    """Ended."""

    exit_code: int
    finished_at: float
    started_at: float = 0.0
    reason: str = ""
    message: str = ""
    container_id: str = ""

    @property
    def why(self) -> str:
        """The reason, by default what the exit code says."""
        return self.reason or ("Completed" if self.exit_code == 0 else "Error")


State = Waiting | Running | Terminated


@dataclass(slots=True)
class ContainerRecord:
    """One container of a pod, across its restarts."""

    state: State = Waiting()
    last: Terminated | None = None
    id: str = ""
    image_id: str = ""
    restarts: int = 0
    started: bool = False
    ready: bool = False
    is_stopping: bool = False
    backoff: float = 0.0
    """Delay before the next restart, counted from the end of the last run."""

    @property
    def retry_at(self) -> float:
        """When a container that has ended, or could not be made, may start again."""
        return self.ended_at + self.backoff

    ended_at: float = 0.0

    def run(self, container_id: str, image_id: str, now: float, *, has_probes: bool) -> None:
        """A run has begun; it counts as a restart if there was one before."""
        if self.id:
            self.restarts += 1
        if isinstance(self.state, Terminated):
            self.last = self.state
        self.id, self.image_id = container_id, image_id
        self.state = Running(now)
        self.is_stopping = False
        self.started = self.ready = not has_probes

    def end(self, exit_code: int, now: float, maximum: float, message: str = "") -> None:
        """A run has ended: 0, 10, 20, 40 ... seconds until the next, from anew after 10 minutes."""
        started_at = self.state.started_at if isinstance(self.state, Running) else now
        self.state = Terminated(exit_code, now, started_at, "", message, self.id)
        self._delay(now, now - started_at, maximum, first=0.0)

    def fail(self, reason: str, message: str, now: float, maximum: float) -> None:
        """A run could not begin."""
        if isinstance(self.state, Terminated):
            self.last = self.state
        self.state = Waiting(reason, message)
        self._delay(now, 0.0, maximum, first=min(1.0, maximum))

    def _delay(self, now: float, ran_for: float, maximum: float, *, first: float) -> None:
        self.ended_at = now
        self.started = self.ready = self.is_stopping = False
        if self.runs == 0 or ran_for >= RESET_AFTER:
            self.backoff = first
        elif self.runs == 1:
            self.backoff = min(MINIMUM_BACKOFF, maximum)
        else:
            self.backoff = min(max(self.backoff * 2, MINIMUM_BACKOFF), maximum)
        self.runs = 1 if ran_for >= RESET_AFTER else self.runs + 1

    runs: int = 0
    """Ends in a row that count for the back-off."""


@dataclass(slots=True)
class PodRecord:
    """One pod: its sandbox and its containers by name, init containers among them."""

    containers: dict[str, ContainerRecord] = field(default_factory=dict)
    ips: tuple[str, ...] = ()
    started_at: float = 0.0
    has_sandbox: bool = False
    is_terminating: bool = False
    deadline_passed: bool = False
    """activeDeadlineSeconds is over."""
    message: str = ""
    """Plain text for status.message: what runs in place of the images."""
