"""Pods through their lives, in virtual time."""

from typing import Any

import msgspec
import pytest

from kubewire.kubelet.lifecycle import Remove, Start, Stop, plan
from kubewire.kubelet.pod import Pod
from kubewire.kubelet.record import ContainerRecord, PodRecord
from kubewire.kubelet.status import pod_status


def make(**spec: Any) -> Pod:
    spec = {"containers": [{"name": "a"}, {"name": "b"}], **spec}
    meta = {"name": "web", "namespace": "ns", "uid": "u1"}
    return msgspec.convert({"metadata": meta, "spec": spec}, Pod)


class Life:
    """Performs plans: what starts runs until ``end`` is called."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.now = 0.0
        self.record = PodRecord(has_sandbox=True, started_at=0.0, ips=("10.0.0.1",))
        for container in pod.spec.everything:
            self.record.containers[container.name] = ContainerRecord()

    def step(self) -> list[str]:
        done = []
        for action in plan(self.pod, self.record, self.now).actions:
            if isinstance(action, Remove):
                done.append("remove")
                continue
            known = self.record.containers[action.container.name]
            if isinstance(action, Start):
                known.run(f"x://{action.container.name}", "", self.now, has_probes=False)
            elif isinstance(action, Stop):
                known.is_stopping = True
            done.append(f"{type(action).__name__.lower()} {action.container.name}")
        return done

    def end(self, name: str, code: int = 0) -> None:
        self.record.containers[name].end(code, self.now, 300.0)

    def wake_at(self) -> float | None:
        return plan(self.pod, self.record, self.now).wake_at

    def status(self) -> dict[str, Any]:
        return pod_status(self.pod, self.record, ("172.30.0.10",), self.now)

    def condition(self, type_: str) -> dict[str, Any]:
        return next(c for c in self.status()["conditions"] if c["type"] == type_)


def test_init_containers_run_in_order() -> None:
    life = Life(make(initContainers=[{"name": "i"}, {"name": "j"}]))
    assert life.step() == ["start i"]
    assert life.step() == []
    assert life.status()["phase"] == "Pending"
    assert life.condition("Initialized")["message"] == "containers with incomplete status: [i j]"
    waiting = life.status()["containerStatuses"][0]["state"]["waiting"]
    assert waiting["reason"] == "PodInitializing"
    life.end("i")
    assert life.step() == ["start j"]
    life.end("j")
    assert life.step() == ["start a", "start b"]
    assert life.status()["phase"] == "Running"
    assert life.condition("Initialized")["status"] == "True"


def test_a_sidecar_only_has_to_be_started() -> None:
    life = Life(make(initContainers=[{"name": "s", "restartPolicy": "Always"}, {"name": "i"}]))
    assert life.step() == ["start s"]
    life.record.containers["s"].started = False
    assert life.step() == []
    life.record.containers["s"].started = True
    assert life.step() == ["start i"]
    life.end("i")
    assert life.step() == ["start a", "start b"]
    life.end("s", 1)
    assert life.step() == ["start s"]


def test_a_failing_init_container_fails_the_pod_only_with_never() -> None:
    life = Life(make(restartPolicy="Never", initContainers=[{"name": "i"}]))
    life.step()
    life.end("i", 1)
    assert life.step() == []
    assert life.status()["phase"] == "Failed"
    life = Life(make(initContainers=[{"name": "i"}]))
    life.step()
    life.end("i", 1)
    assert life.step() == ["start i"]
    assert life.status()["phase"] == "Pending"


@pytest.mark.parametrize(
    ("policy", "code", "phase", "restarts"),
    [
        ("Always", 0, "Running", True),
        ("Always", 1, "Running", True),
        ("OnFailure", 0, "Succeeded", False),
        ("OnFailure", 1, "Running", True),
        ("Never", 0, "Succeeded", False),
        ("Never", 1, "Failed", False),
    ],
)
def test_restart_policy(policy: str, code: int, phase: str, restarts: bool) -> None:
    life = Life(make(restartPolicy=policy, containers=[{"name": "a"}]))
    life.step()
    life.end("a", code)
    assert life.status()["phase"] == phase
    assert life.step() == (["start a"] if restarts else [])
    assert life.status()["containerStatuses"][0]["restartCount"] == int(restarts)


def test_back_off_grows_from_nothing_to_five_minutes() -> None:
    life = Life(make(containers=[{"name": "a"}]))
    life.step()
    delays = []
    for _ in range(9):
        life.end("a", 1)
        wake = life.wake_at()
        delays.append(0.0 if wake is None else wake - life.now)
        if wake is not None:
            status = life.status()["containerStatuses"][0]
            assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            assert status["lastState"]["terminated"]["exitCode"] == 1
            life.now = wake
        assert life.step() == ["start a"]
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300, 300]
    life.now += 600
    life.end("a", 1)
    assert life.step() == ["start a"]


def test_deletion_stops_containers_then_sidecars_in_reverse() -> None:
    side = {"restartPolicy": "Always"}
    life = Life(make(initContainers=[{"name": "s", **side}, {"name": "t", **side}]))
    life.step(), life.step(), life.step()
    life.record.is_terminating = True
    assert life.step() == ["stop a", "stop b"]
    assert life.step() == []
    life.end("a")
    assert life.step() == []
    life.end("b")
    assert life.step() == ["stop t"]
    life.end("t")
    assert life.step() == ["stop s"]
    life.end("s")
    assert life.step() == ["remove"]


def test_a_finished_pod_stops_its_sidecars_and_stays() -> None:
    side = {"name": "s", "restartPolicy": "Always"}
    life = Life(make(restartPolicy="Never", initContainers=[side], containers=[{"name": "a"}]))
    life.step(), life.step()
    life.end("a")
    assert life.step() == ["stop s"]
    life.end("s", 143)
    assert life.step() == []
    assert life.status()["phase"] == "Succeeded"
    assert life.condition("Ready")["reason"] == "PodCompleted"


def test_ready_needs_every_container_and_every_gate() -> None:
    pod = make(readinessGates=[{"conditionType": "x/y"}])
    life = Life(pod)
    life.step()
    life.record.containers["b"].ready = False
    assert life.condition("Ready")["message"] == "containers with unready status: [b]"
    life.record.containers["b"].ready = True
    assert life.condition("ContainersReady")["status"] == "True"
    ready = life.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ReadinessGatesNotReady")
    assert ready["message"] == (
        'corresponding condition of pod readiness gate "x/y" does not exist.'
    )
    for value in ("False", "True"):
        status = {"conditions": [{"type": "x/y", "status": value}]}
        raw = {**msgspec.to_builtins(pod), "status": status}
        life.pod = msgspec.convert(raw, Pod)
        assert life.condition("Ready")["status"] == value


def test_active_deadline() -> None:
    life = Life(make(activeDeadlineSeconds=30))
    life.step()
    life.record.started_at = 1.0
    assert life.wake_at() == 31.0
    life.record.deadline_passed = True
    assert life.step() == ["stop a", "stop b"]
    status = life.status()
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")


def test_a_transition_keeps_its_time() -> None:
    life = Life(make())
    life.step()
    first = life.status()
    life.now = 100.0
    written = first["conditions"]
    again = pod_status(life.pod, life.record, ("172.30.0.10",), life.now, written)
    assert again["conditions"] == written


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (None, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
        ({"limits": {"cpu": 1}}, "Burstable"),
    ],
)
def test_qos_class(resources: Any, expected: str) -> None:
    life = Life(make(containers=[{"name": "a", "resources": resources}]))
    assert life.status()["qosClass"] == expected


def test_an_ephemeral_container_runs_once_and_ends_with_the_pod() -> None:
    pod = make(initContainers=[{"name": "i"}], ephemeralContainers=[{"name": "debug"}])
    life = Life(pod)
    # It does not wait for init containers: they may be what is looked at.
    assert life.step() == ["start debug", "start i"]
    life.end("i")
    life.step()
    assert life.status()["phase"] == "Running"
    assert life.status()["ephemeralContainerStatuses"][0]["ready"] is False
    life.end("debug", 3)
    assert life.step() == []
    [shown] = life.status()["ephemeralContainerStatuses"]
    assert shown["state"]["terminated"]["exitCode"] == 3
    assert life.status()["phase"] == "Running"
    late = Life(pod)
    late.step()
    late.record.is_terminating = True
    assert late.step() == ["stop i", "stop debug"]
