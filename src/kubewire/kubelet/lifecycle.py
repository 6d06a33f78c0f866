"""What to do next for a pod: pod spec + what is known of its containers -> actions. Pure.

    sandbox -> init containers in order (a sidecar only has to be started) -> containers
    ephemeral containers: once, as soon as there is a sandbox
    deletion, activeDeadlineSeconds: containers stop together, then sidecars in reverse order
    a container that ended: restartPolicy decides, the back-off of its record says when

The agent performs the actions, updates the records and asks again; asking twice does no harm.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kubewire.kubelet.pod import Container, Pod
from kubewire.kubelet.record import ContainerRecord, PodRecord, Running, Terminated, Waiting


@dataclass(frozen=True, slots=True)
class Start:
    """Action: start a container, again or for the first time."""

    container: Container


@dataclass(frozen=True, slots=True)
class Stop:
    """Action: stop a running container gracefully."""

    container: Container


@dataclass(frozen=True, slots=True)
class Remove:
    """Action: every container has ended and deletion was asked for: take the pod away."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to ask again though nothing has happened."""

    actions: tuple[Start | Stop | Remove, ...] = ()
    wake_at: float | None = None


def plan(pod: Pod, record: PodRecord, now: float) -> Plan:
    """Decide the next actions for a pod."""
    if record.is_terminating or record.deadline_passed or has_finished(pod, record):
        return _wind_down(pod, record)
    if not record.has_sandbox:
        return Plan()
    starts: list[Start | Stop | Remove] = []
    wakes = [deadline(pod, record)]
    for container in _startable(pod, record):
        known = record.containers[container.name]
        if known.retry_at <= now:
            starts.append(Start(container))
        else:
            wakes.append(known.retry_at)
    return Plan(tuple(starts), min((w for w in wakes if w is not None), default=None))


def deadline(pod: Pod, record: PodRecord) -> float | None:
    """When activeDeadlineSeconds is over."""
    seconds = pod.spec.active_deadline_seconds
    return None if seconds is None or not record.started_at else record.started_at + seconds


def will_restart(pod: Pod, container: Container, ended: Terminated) -> bool:
    """What restartPolicy says of a container that has ended."""
    if container.is_sidecar:
        return True
    if container in pod.spec.ephemerals:
        return False
    policy = container.restart_policy or pod.spec.restart_policy
    if container in pod.spec.inits:
        return policy != "Never" and ended.exit_code != 0
    return policy == "Always" or (policy == "OnFailure" and ended.exit_code != 0)


def is_initialized(pod: Pod, record: PodRecord) -> bool:
    """Every init container has succeeded, every sidecar has started."""
    return next(_pending_inits(pod, record), None) is None


def has_finished(pod: Pod, record: PodRecord) -> bool:
    """No container will run again: the pod has succeeded or failed."""
    if not record.containers:
        return False
    failed_init = any(
        _is_final(pod, c, record) and not _succeeded(record.containers[c.name])
        for c in pod.spec.inits
        if not c.is_sidecar
    )
    return failed_init or all(_is_final(pod, c, record) for c in pod.spec.containers)


def _succeeded(known: ContainerRecord) -> bool:
    return isinstance(known.state, Terminated) and known.state.exit_code == 0


def _is_final(pod: Pod, container: Container, record: PodRecord) -> bool:
    state = record.containers[container.name].state
    return isinstance(state, Terminated) and not will_restart(pod, container, state)


def _pending_inits(pod: Pod, record: PodRecord) -> Iterator[Container]:
    """Init containers that still block the next step, in order."""
    if any(record.containers[c.name].id for c in pod.spec.containers):
        return
    for container in pod.spec.inits:
        known = record.containers[container.name]
        if not (known.started if container.is_sidecar else _succeeded(known)):
            yield container


def _startable(pod: Pod, record: PodRecord) -> Iterator[Container]:
    """Containers that may run now and do not: at most one pending init container, or the rest."""
    yield from (c for c in pod.spec.ephemerals if _may_start(pod, c, record))
    blocking = next(_pending_inits(pod, record), None)
    for container in pod.spec.inits:
        if (container is blocking or container.is_sidecar) and _may_start(pod, container, record):
            yield container
        if container is blocking:
            return
    for container in pod.spec.containers:
        if _may_start(pod, container, record):
            yield container


def _may_start(pod: Pod, container: Container, record: PodRecord) -> bool:
    state = record.containers[container.name].state
    if isinstance(state, Terminated):
        return will_restart(pod, container, state)
    return isinstance(state, Waiting)


def _wind_down(pod: Pod, record: PodRecord) -> Plan:
    """Stop the containers together, then the sidecars one by one in reverse order."""
    ordinary = [c for c in pod.spec.everything if not c.is_sidecar]
    running = [c for c in ordinary if _is_running(record, c)]
    if not running:
        running = [c for c in reversed(pod.spec.inits) if _is_running(record, c)][:1]
    stops = tuple(Stop(c) for c in running if not record.containers[c.name].is_stopping)
    if running or not record.is_terminating:
        return Plan(stops)
    return Plan((Remove(),))


def _is_running(record: PodRecord, container: Container) -> bool:
    known = record.containers.get(container.name)
    return known is not None and isinstance(known.state, Running)
