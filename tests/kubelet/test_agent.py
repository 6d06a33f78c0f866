import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

from kubelet.wires import Wires
from kubewire.api.meta import JSON, Key
from kubewire.api.resources import CONFIG_MAPS, EVENTS, NODES, PODS
from kubewire.kubelet.agent import Kubelet
from kubewire.kubelet.files import Resolver
from kubewire.kubelet.logs import Question
from kubewire.kubelet.runtime import Builtin, BuiltinPod
from kubewire.kubelet.standin.server import Server
from kubewire.testing.fakeapi import FakeApi

pytestmark = pytest.mark.kernel
HERE = Path("/proc/self/ns/net")


def pod(name: str = "web", **spec: Any) -> JSON:
    spec = {
        "nodeName": "node-1",
        "containers": [{"name": "main", "image": "nginx:1", "ports": [{"containerPort": 80}]}],
        **spec,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": spec,
        "status": {"phase": "Pending"},
    }


def container(name: str = "main", **more: Any) -> JSON:
    return {"name": name, "image": "nginx:1", **more}


class Bench:
    """A node under test."""

    def __init__(self, tmp_path: Path, api: FakeApi, **options: Any) -> None:
        self.tmp_path = tmp_path
        self.api = api
        self.network = Wires()
        self.options = options
        self.kubelet = self.make()

    def make(self) -> Kubelet:
        return Kubelet(
            self.api.client(),
            "node-1",
            ["127.0.0.1"],
            self.tmp_path,
            self.network,
            node_netns=HERE,
            **self.options,
        )

    def pod(self, name: str = "web") -> JSON:
        return self.api.get(PODS, name, "default") or {}

    def status(self, name: str = "web") -> JSON:
        return self.pod(name).get("status") or {}

    def main(self, name: str = "web") -> JSON:
        statuses = self.status(name).get("containerStatuses") or [{}]
        return statuses[0]

    def condition(self, type_: str, name: str = "web") -> str:
        found = [c for c in self.status(name).get("conditions") or () if c["type"] == type_]
        return str(found[0]["status"]) if found else ""

    def events(self) -> list[tuple[str, str]]:
        return [(e["reason"], e["message"]) for e in self.api.all(EVENTS)]

    def writes(self, name: str = "web") -> int:
        path = f"/api/v1/namespaces/default/pods/{name}/status"
        return sum(r.path == path for r in self.api.requests)

    async def ready(self, name: str = "web") -> None:
        await self.api.until(lambda: self.condition("Ready", name) == "True")

    async def get(self, target: str, ip: str, port: int = 80) -> JSON:
        reader, writer = await asyncio.open_connection(ip, port)
        writer.write(f"GET {target} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        found: JSON = json.loads(answer.partition(b"\r\n\r\n")[2])
        return found


@asynccontextmanager
async def node(
    tmp_path: Path,
    *objects: JSON,
    images: Mapping[str, Sequence[str]] | None = None,
    builtins: Mapping[str, Builtin] | None = None,
    **options: Any,
) -> AsyncIterator[Bench]:
    api = FakeApi(*objects)
    await api.client().create(NODES, {"metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.244.0.0/24"]}})  # fmt: skip
    bench = Bench(tmp_path, api, images=images, builtins=builtins, **options)
    stand_in = asyncio.create_task(Server(tmp_path).serve(str(tmp_path / "standin.sock")))
    task = asyncio.create_task(bench.kubelet.run())
    try:
        yield bench
    finally:
        for one in (task, stand_in):
            one.cancel()
            with suppress(asyncio.CancelledError):
                await one


def printed(log: Path) -> str:
    """What a log shows."""
    return b"".join(map(Question().answer, log.read_bytes().split(b"\n")[:-1])).decode()


async def test_a_stand_in_pod_is_ready_with_one_status_write(tmp_path: Path) -> None:
    probe = {"httpGet": {"path": "/ready", "port": "http"}, "timeoutSeconds": 30}
    ports = [{"containerPort": 80, "name": "http"}]
    web = pod(containers=[container(ports=ports, readinessProbe=probe, livenessProbe=probe)])
    async with node(tmp_path, web) as bench:
        await bench.ready()
        status = bench.status()
        said = await bench.get("/x", status["podIP"])
        assert bench.writes() == 1
    assert said["pod"] == "web"
    assert status["phase"] == "Running"
    assert status["podIPs"] == [{"ip": status["podIP"]}]
    assert status["hostIP"] == "127.0.0.1"
    assert status["qosClass"] == "BestEffort"
    main = status["containerStatuses"][0]
    assert main["imageID"] == "kubewire.dev/stand-in"
    assert main["containerID"].startswith("kubewire-standin://")
    assert (main["ready"], main["started"], main["restartCount"]) == (True, True, 0)
    assert "stand-in answers for: main (nginx:1)" in status["message"]


async def test_the_node_is_registered(tmp_path: Path) -> None:
    async with node(tmp_path, zone="east") as bench:
        found = await bench.api.until(
            lambda: (n := bench.api.get(NODES, "node-1")) and n.get("status") and n
        )
    assert found["metadata"]["labels"]["topology.kubernetes.io/zone"] == "east"
    assert found["metadata"]["labels"]["kubernetes.io/hostname"] == "node-1"
    assert {"type": "InternalIP", "address": "127.0.0.1"} in found["status"]["addresses"]
    assert found["status"]["capacity"]["pods"] == "250"


async def test_deletion_takes_the_pod_away(tmp_path: Path) -> None:
    async with node(tmp_path, pod()) as bench:
        await bench.ready()
        assert bench.network.wired
        await bench.api.client().delete(PODS, "web", "default")
        await bench.api.until(lambda: not bench.pod())
        assert not bench.network.wired
        assert not list((tmp_path / "pods").iterdir())


async def test_readiness_moves_and_liveness_restarts(tmp_path: Path) -> None:
    # A machine that is busy for a second is no failure.
    often = {"periodSeconds": 0.05, "failureThreshold": 1, "timeoutSeconds": 30}
    fast = {"httpGet": {"port": 80}} | often
    web = pod(
        containers=[
            container(ports=[{"containerPort": 80}], readinessProbe=fast, livenessProbe=fast)
        ]
    )
    async with node(tmp_path, web) as bench:
        await bench.ready()
        until = "2999-01-01T00:00:00Z"
        client = bench.api.client()
        note = {"metadata": {"annotations": {"kubewire.dev/fail.readiness": until}}}
        await client.patch(PODS, "web", note, "default")
        await bench.api.until(lambda: bench.condition("Ready") == "False")
        assert bench.main()["restartCount"] == 0
        note = {"metadata": {"annotations": {
            "kubewire.dev/fail.readiness": None, "kubewire.dev/fail.liveness": until,
        }}}  # fmt: skip
        await client.patch(PODS, "web", note, "default")
        await bench.api.until(lambda: bench.main()["restartCount"] >= 1)
        note["metadata"]["annotations"]["kubewire.dev/fail.liveness"] = None
        await client.patch(PODS, "web", note, "default")
        await bench.api.until(lambda: any("Killing" in e for e in bench.events()))
    assert any("rehearsed failure" in text for _, text in bench.events())
    assert ("Killing", "Container main failed liveness probe, will be restarted") in bench.events()


async def test_an_edited_config_map_reaches_the_program(tmp_path: Path) -> None:
    script = (
        "import os,time\n"
        "print('up', flush=True)\n"
        "while sorted(os.listdir('/etc/app')) != ['a', 'c']: time.sleep(0.01)\n"
        "print(open('/etc/app/a').read(), flush=True)\n"
    )
    web = pod(
        containers=[
            container(
                image="app:v2",
                args=["-c", script],
                volumeMounts=[{"name": "conf", "mountPath": "/etc/app"}],
            )
        ],
        volumes=[{"name": "conf", "configMap": {"name": "conf"}}],
        restartPolicy="Never",
    )
    conf: dict[str, Any] = {
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "conf", "namespace": "default"}, "data": {"a": "old", "b": "gone"},
    }  # fmt: skip
    async with node(tmp_path, web, conf, images={"app": [sys.executable]}) as bench:
        await bench.api.until(lambda: bench.status().get("phase") == "Running")
        bench.api.put({**conf, "data": {"a": "new", "c": "more"}})
        await bench.api.until(lambda: bench.status().get("phase") == "Succeeded")
        log = tmp_path / "pods" / "uid-web" / "logs" / "main.log"
        assert printed(log) == "up\nnew\n"


async def test_a_program_runs_in_the_pod(tmp_path: Path) -> None:
    script = (
        "import os,socket;print(open('/etc/app/key').read(),os.environ['WHO'],os.environ['IP'],"
        "socket.gethostname(),open('/etc/resolv.conf').read(),flush=True)"
    )
    web = pod(
        containers=[
            container(
                image="app:v2",
                args=["-c", script],
                env=[
                    {"name": "A", "value": "a"},
                    {"name": "WHO", "value": "$(A)-$(NONE)"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                ],
                volumeMounts=[{"name": "conf", "mountPath": "/etc/app"}],
            )
        ],
        volumes=[{"name": "conf", "configMap": {"name": "conf"}}],
        restartPolicy="Never",
    )
    conf = {
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "conf", "namespace": "default"}, "data": {"key": "value"},
    }  # fmt: skip
    images = {"app": [sys.executable]}
    async with node(
        tmp_path, web, conf, images=images, cluster_dns=["10.96.0.10"], host_resolver=Resolver()
    ) as bench:
        await bench.api.until(lambda: bench.status().get("phase") in ("Succeeded", "Failed"))
        log = tmp_path / "pods" / "uid-web" / "logs" / "main.log"
        ip = bench.status()["podIP"]
        assert printed(log) == (
            f"value a-$(NONE) {ip} web search default.svc.cluster.local svc.cluster.local "
            "cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n\n"
        )
        assert bench.main()["imageID"] == "kubewire.dev/program"
    assert run(["ls", "/etc/app"], capture_output=True, check=False).returncode


async def test_a_crashing_program_backs_off(tmp_path: Path) -> None:
    web = pod(containers=[container(image="app", args=["-c", "exit 3"])])
    async with node(tmp_path, web, images={"app": ["/bin/sh"]}) as bench:
        await bench.api.until(
            lambda: (
                bench.main().get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
            )
        )
        main = bench.main()
        assert main["restartCount"] == 1
        assert main["lastState"]["terminated"]["exitCode"] == 3
        assert (
            "back-off 10s restarting failed container=main" in main["state"]["waiting"]["message"]
        )
        assert bench.status()["phase"] == "Running"


async def test_a_job_like_pod_succeeds(tmp_path: Path) -> None:
    web = pod(restartPolicy="Never", containers=[container(image="app", args=["-c", "exit 0"])])
    async with node(tmp_path, web, images={"app": ["/bin/sh"]}) as bench:
        await bench.api.until(lambda: bench.status().get("phase") == "Succeeded")
        assert bench.main()["state"]["terminated"]["reason"] == "Completed"
        await bench.api.until(lambda: not bench.network.wired)


WORDS: list[tuple[str, dict[str, str], str, str]] = [
    ("said", {}, "echo last words > /dev/termination-log", "last words\n"),
    ("nothing", {}, "echo only a log", ""),
    ("elsewhere", {"terminationMessagePath": "/opt/kubewire-test/why"}, "echo x > /opt/kubewire-test/why", "x\n"),
    ("cut", {}, "head -c 5000 /dev/zero | tr '\\0' a > /dev/termination-log", "a" * 4096),
    ("log", {"terminationMessagePolicy": "FallbackToLogsOnError"}, "echo why; exit 1", "why\n"),
    ("file first", {"terminationMessagePolicy": "FallbackToLogsOnError"}, "echo a > /dev/termination-log; exit 1", "a\n"),
    ("no error", {"terminationMessagePolicy": "FallbackToLogsOnError"}, "echo why", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "more", "script", "message"), WORDS, ids=[w[0] for w in WORDS])
async def test_termination_messages(
    tmp_path: Path, text: str, more: dict[str, str], script: str, message: str
) -> None:
    fields = {"terminationMessagePath": "/dev/termination-log"} | more
    main = container(image="app", args=["-c", script], **fields)
    web = pod(restartPolicy="Never", containers=[main])
    async with node(tmp_path, web, images={"app": ["/bin/sh"]}) as bench:
        await bench.api.until(lambda: bench.status().get("phase") in ("Succeeded", "Failed"))
        ended = bench.main()["state"]["terminated"]
        assert ended.get("message", "") == message
    # The machine itself has no such file.
    assert run(["ls", "/dev/termination-log"], capture_output=True, check=False).returncode


async def test_an_ephemeral_container_is_added_and_runs_once(tmp_path: Path) -> None:
    async with node(tmp_path, pod(), images={"debug": ["/bin/sh"]}) as bench:
        await bench.ready()
        debug = [
            container("look", image="debug", args=["-c", "exit 3"]),
            container("play", image="other"),
        ]
        patch = {"spec": {"ephemeralContainers": debug}}
        await bench.api.client().patch(PODS, "web", patch, "default")

        def states() -> list[str]:
            found = bench.status().get("ephemeralContainerStatuses") or ()
            return [next(iter(s["state"])) for s in found]

        await bench.api.until(lambda: states() == ["terminated", "running"])
        shown = bench.status()["ephemeralContainerStatuses"]
        assert shown[0]["state"]["terminated"]["exitCode"] == 3
        assert shown[0]["restartCount"] == 0
        assert bench.status()["phase"] == "Running"
        await bench.api.client().delete(PODS, "web", "default")
        await bench.api.until(lambda: not bench.pod())


async def test_init_containers_and_a_sidecar(tmp_path: Path) -> None:
    web = pod(
        initContainers=[
            container("first"),
            container("side", restartPolicy="Always", ports=[{"containerPort": 90}]),
        ]
    )
    async with node(tmp_path, web) as bench:
        await bench.ready()
        first, side = bench.status()["initContainerStatuses"]
        assert first["state"]["terminated"]["exitCode"] == 0
        assert (side["ready"], side["started"]) == (True, True)
        said = await bench.get("/", bench.status()["podIP"], 90)
        assert said["container"] == "side"


async def test_stand_ins_survive_a_restart_of_the_agent(tmp_path: Path) -> None:
    slow = {"httpGet": {"port": 80}, "periodSeconds": 60, "timeoutSeconds": 30}
    web = pod(containers=[container(ports=[{"containerPort": 80}], readinessProbe=slow)])
    async with node(tmp_path, web) as bench:
        await bench.ready()
        before = bench.main()
        # The first agent still runs beside it: only what the second one does is looked at.
        second = asyncio.create_task(bench.make().run())
        count = len(bench.api.requests)
        await bench.api.until(
            lambda: any(r.path.endswith("web/status") for r in bench.api.requests[count:])
        )
        bodies = [r.body for r in bench.api.requests[count:] if r.path.endswith("web/status")]
        second.cancel()
        with suppress(asyncio.CancelledError):
            await second
        for body in bodies:
            ready = [c for c in body["status"]["conditions"] if c["type"] == "Ready"]
            assert ready[0]["status"] == "True"
        after = bench.main()
        assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)


async def test_a_pod_that_went_while_no_agent_was_there_leaves_nothing(tmp_path: Path) -> None:
    async with node(tmp_path, pod()) as bench:
        await bench.ready()
    gone = tmp_path / "pods" / "uid-web"
    assert gone.exists()
    assert "uid-web" in bench.network.wired
    async with node(tmp_path, pod("other")) as again:
        again.network.wired["uid-web"] = bench.network.wired["uid-web"]
        await again.api.until(lambda: again.condition("Ready", "other") == "True")
        assert "uid-web" not in again.network.wired
    assert not gone.exists()
    assert not (tmp_path / "names" / "default_web").is_symlink()


async def test_a_network_that_fails_is_tried_again(tmp_path: Path) -> None:
    async with node(tmp_path) as bench:
        bench.network.refuse = 1
        bench.api.put(pod())
        await bench.ready()
        assert (
            "FailedCreatePodSandBox",
            "Failed to create pod sandbox: no address is free",
        ) in bench.events()


async def test_a_builtin_runs_in_the_pods_namespaces(tmp_path: Path) -> None:
    def builtin(told: BuiltinPod) -> None:
        text = f"{told.name} {told.args} {told.ips} {Path('/etc/hostname').read_text()}"
        os.write(1, text.encode())  # pytest keeps sys.stdout for itself

    web = pod(restartPolicy="Never", containers=[container(image="kubewire.dev/x", args=["--a"])])
    async with node(tmp_path, web, builtins={"kubewire.dev/x": builtin}) as bench:
        await bench.api.until(lambda: bench.status().get("phase") in ("Succeeded", "Failed"))
        log = printed(tmp_path / "pods" / "uid-web" / "logs" / "main.log")
        assert log == f"web ('--a',) ('{bench.status()['podIP']}',) web\n"


async def test_a_missing_configmap_is_said_and_waited_for(tmp_path: Path) -> None:
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]
    web = pod(containers=[container(image="app", args=["-c", "sleep 100"], env=env)])
    async with node(tmp_path, web, images={"app": ["/bin/sh"]}) as bench:
        waiting = await bench.api.until(lambda: bench.main().get("state", {}).get("waiting"))
        assert waiting == {
            "reason": "CreateContainerConfigError",
            "message": 'configmap "late" not found',
        }
        assert bench.api.get(CONFIG_MAPS, "late", "default") is None
        assert Key("default", "late") not in bench.api.objects[CONFIG_MAPS]


async def test_agents_report_only_what_runs(tmp_path: Path) -> None:
    async with node(tmp_path, pod()) as bench:
        await bench.ready()
        await bench.api.converge()
        bench.api.put(pod("second"))
        await bench.api.converge()
        assert bench.condition("Ready", "second") == "True"
