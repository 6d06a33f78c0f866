"""Pod status from what is known of its containers: phase, conditions, containerStatuses. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime

from kubewire.api.meta import JSON, Condition
from kubewire.kubelet.lifecycle import has_finished, is_initialized, will_restart
from kubewire.kubelet.pod import Container, Pod
from kubewire.kubelet.qos import qos_class
from kubewire.kubelet.record import (
    ContainerRecord,
    PodRecord,
    Running,
    State,
    Terminated,
    Waiting,
)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with whole seconds, as metav1.Time is written."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod_status(
    pod: Pod,
    record: PodRecord,
    host_ips: tuple[str, ...],
    now: float,
    written: Sequence[JSON] = (),
) -> JSON:
    """The whole status that the kubelet owns.

    ``written`` are the conditions that it wrote last: newer than what the pod may hold.
    """
    at = phase(pod, record)
    status: JSON = {
        "phase": at,
        "conditions": _conditions(pod, record, at, now, written),
        "hostIP": host_ips[0] if host_ips else "",
        "hostIPs": [{"ip": ip} for ip in host_ips],
        "startTime": timestamp(record.started_at),
        "qosClass": qos_class(pod),
        "containerStatuses": [
            container_status(pod, c, record, now)
            for c in sorted(pod.spec.containers, key=lambda c: c.name)
        ],
    }
    if pod.spec.inits:
        status["initContainerStatuses"] = [
            container_status(pod, c, record, now) for c in pod.spec.inits
        ]
    if pod.spec.ephemerals:
        status["ephemeralContainerStatuses"] = [
            container_status(pod, c, record, now) for c in pod.spec.ephemerals
        ]
    if record.ips:
        status["podIP"] = record.ips[0]
        status["podIPs"] = [{"ip": ip} for ip in record.ips]
    if record.deadline_passed:
        status["reason"] = "DeadlineExceeded"
        status["message"] = "Pod was active on the node longer than the specified deadline"
    elif record.message:
        status["message"] = record.message
    return status


def phase(pod: Pod, record: PodRecord) -> str:
    """Pending, Running, Succeeded or Failed."""
    if record.deadline_passed:
        return "Failed"
    if has_finished(pod, record):
        ends = [
            record.containers[c.name].state
            for c in (*pod.spec.inits, *pod.spec.containers)
            if not c.is_sidecar
        ]
        fine = all(isinstance(e, Terminated) and e.exit_code == 0 for e in ends)
        return "Succeeded" if fine else "Failed"
    if not record.has_sandbox or not is_initialized(pod, record):
        return "Pending"
    has_run = all(record.containers[c.name].id for c in pod.spec.containers)
    return "Running" if has_run else "Pending"


def container_status(pod: Pod, container: Container, record: PodRecord, now: float) -> JSON:
    """One entry of containerStatuses or initContainerStatuses."""
    known = record.containers[container.name]
    state, last = _states(pod, container, record, now)
    is_done_init = container in pod.spec.inits and not container.is_sidecar
    # As upstream: readiness of an ephemeral container is nobody's business.
    is_ready = known.ready and container not in pod.spec.ephemerals
    ready = _is_completed(known) if is_done_init else is_ready
    status: JSON = {
        "name": container.name,
        "image": container.image,
        "imageID": known.image_id,
        "ready": ready,
        "restartCount": known.restarts,
        "started": known.started and isinstance(known.state, Running),
        "state": state,
        "lastState": last,
    }
    if known.id:
        status["containerID"] = known.id
    return status


def _is_completed(known: ContainerRecord) -> bool:
    return isinstance(known.state, Terminated) and known.state.exit_code == 0


def _states(pod: Pod, container: Container, record: PodRecord, now: float) -> tuple[JSON, JSON]:
    known = record.containers[container.name]
    state: State = known.state
    last = known.last
    is_waiting_for_restart = (
        isinstance(state, Terminated)
        and known.retry_at > now
        and not record.is_terminating
        and will_restart(pod, container, state)
    )
    if is_waiting_for_restart:
        assert isinstance(state, Terminated)
        meta = pod.metadata
        text = (
            f"back-off {known.backoff:g}s restarting failed container={container.name} "
            f"pod={meta.name}_{meta.namespace}({meta.uid})"
        )
        last = state
        state = Waiting("CrashLoopBackOff", text)
    elif (
        isinstance(state, Waiting)
        and state.reason == "ContainerCreating"
        and pod.spec.inits
        and record.has_sandbox
        and container not in pod.spec.ephemerals
        and not is_initialized(pod, record)
    ):
        state = Waiting("PodInitializing")
    return _state(state), _state(last) if last else {}


def _state(state: State) -> JSON:
    if isinstance(state, Running):
        return {"running": {"startedAt": timestamp(state.started_at)}}
    if isinstance(state, Waiting):
        waiting = {"reason": state.reason}
        if state.message:
            waiting["message"] = state.message
        return {"waiting": waiting}
    ended: JSON = {
        "exitCode": state.exit_code,
        "reason": state.why,
        "startedAt": timestamp(state.started_at),
        "finishedAt": timestamp(state.finished_at),
        "containerID": state.container_id,
    }
    if state.message:
        ended["message"] = state.message
    return {"terminated": ended}


def _conditions(
    pod: Pod, record: PodRecord, at: str, now: float, written: Sequence[JSON]
) -> list[JSON]:
    """The kubelet's own conditions; a strategic merge leaves those of others as they are."""
    before = {c.type: c for c in pod.status.conditions or ()}
    since = {c.type: (c.status, c.last_transition_time) for c in before.values()}
    since |= {c["type"]: (c["status"], c["lastTransitionTime"]) for c in written}
    containers_ready = _containers_ready(pod, record, at)
    found = [
        _condition(
            "PodReadyToStartContainers", record.has_sandbox and at in ("Pending", "Running")
        ),
        _initialized(pod, record, at),
        _ready(pod, containers_ready, before),
        containers_ready,
        _condition("PodScheduled", True),
    ]
    for condition in found:
        status, moment = since.get(condition["type"], ("", None))
        is_same = status == condition["status"] and moment
        condition["lastTransitionTime"] = moment if is_same else timestamp(now)
    return found


def _condition(type_: str, value: bool, reason: str = "", message: str = "") -> JSON:
    condition: JSON = {"type": type_, "status": "True" if value else "False"}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def _initialized(pod: Pod, record: PodRecord, at: str) -> JSON:
    if at == "Succeeded":
        return _condition("Initialized", True, "PodCompleted")
    if record.has_sandbox and is_initialized(pod, record):
        return _condition("Initialized", True)
    if not pod.spec.inits:
        return _condition("Initialized", True)
    names = [
        c.name
        for c in pod.spec.inits
        if not (
            record.containers[c.name].started
            if c.is_sidecar
            else _is_completed(record.containers[c.name])
        )
    ]
    return _condition(
        "Initialized",
        False,
        "ContainersNotInitialized",
        f"containers with incomplete status: [{' '.join(names)}]",
    )


def _containers_ready(pod: Pod, record: PodRecord, at: str) -> JSON:
    if at == "Succeeded":
        return _condition("ContainersReady", False, "PodCompleted")
    if at == "Failed":
        return _condition("ContainersReady", False, "PodFailed")
    judged = (*(c for c in pod.spec.inits if c.is_sidecar), *pod.spec.containers)
    unready = [c.name for c in judged if not record.containers[c.name].ready]
    if not unready:
        return _condition("ContainersReady", True)
    text = f"containers with unready status: [{' '.join(unready)}]"
    return _condition("ContainersReady", False, "ContainersNotReady", text)


def _ready(pod: Pod, containers_ready: JSON, before: dict[str, Condition]) -> JSON:
    if containers_ready["status"] != "True":
        return {**containers_ready, "type": "Ready"}
    complaints = []
    for gate in pod.spec.readiness_gates or ():
        condition = before.get(gate.condition_type)
        if condition is None:
            complaints.append(
                f'corresponding condition of pod readiness gate "{gate.condition_type}" '
                "does not exist."
            )
        elif condition.status != "True":
            complaints.append(
                f'the status of pod readiness gate "{gate.condition_type}" is not "True", '
                f"but {condition.status}"
            )
    if not complaints:
        return _condition("Ready", True)
    return _condition("Ready", False, "ReadinessGatesNotReady", ", ".join(complaints))
