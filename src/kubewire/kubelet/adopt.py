"""What a restarted agent knows of a pod: its record, read back from the pod's status. Pure.

Stand-ins go on playing while the agent is away, so their containers are still running, started and
ready as the status says (KEP-4781). Programs and builtins died with the agent.
"""

from typing import Any

from kubewire.kubelet.pod import Pod
from kubewire.kubelet.record import ContainerRecord, PodRecord, Running, Terminated
from kubewire.kubelet.rehearsal import parse
from kubewire.kubelet.runtime import STAND_IN_IMAGE

LOST_EXIT_CODE = 137


def adopted(pod: Pod, now: float, maximum: float, *, survived: bool) -> PodRecord:
    """The record to go on with; ``survived``: the pod's sandbox is still there."""
    record = PodRecord(started_at=parse(pod.status.start_time or "") or 0.0)
    known = {
        status["name"]: status
        for status in (
            *(pod.status.container_statuses or ()),
            *(pod.status.init_container_statuses or ()),
            *(pod.status.ephemeral_container_statuses or ()),
        )
    }
    for container in pod.spec.everything:
        found = ContainerRecord()
        if container.name in known:
            _read(found, known[container.name], now, maximum, survived=survived)
        record.containers[container.name] = found
    return record


def _read(
    found: ContainerRecord, status: dict[str, Any], now: float, maximum: float, *, survived: bool
) -> None:
    found.id = status.get("containerID", "")
    found.image_id = status.get("imageID", "")
    found.restarts = int(status.get("restartCount", 0))
    state = status.get("state") or {}
    found.last = _terminated(status.get("lastState") or {})
    if "running" in state:
        found.state = Running(parse(state["running"].get("startedAt", "")) or now)
        if survived and found.image_id == STAND_IN_IMAGE:
            found.started = bool(status.get("started"))
            found.ready = bool(status.get("ready"))
        else:
            found.end(LOST_EXIT_CODE, now, maximum)
    elif ended := _terminated(state):
        found.state = ended
        found.ended_at, found.runs = ended.finished_at, 1
    elif found.last is not None:
        # In back-off: it goes on where it was, as if it had ended for the second time.
        found.state, found.last = found.last, None
        found.ended_at, found.runs, found.backoff = found.state.finished_at, 2, 10.0


def _terminated(state: dict[str, Any]) -> Terminated | None:
    ended = state.get("terminated")
    if ended is None:
        return None
    return Terminated(
        int(ended.get("exitCode", 0)),
        parse(ended.get("finishedAt", "")) or 0.0,
        parse(ended.get("startedAt", "")) or 0.0,
        ended.get("reason", ""),
        ended.get("message", ""),
        ended.get("containerID", ""),
    )
