"""kubectl itself asks the kubelets of a cluster: logs, exec, attach, cp, port-forward."""

import contextlib
import copy
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SEARCH
from tests.e2e.conftest import Kubewire

pytestmark = pytest.mark.tool("kubectl")

PRINTER = """
import sys, time
for number in range(5): print("line", number, flush=True)
print("oops", file=sys.stderr, flush=True)
print("x" * 40000, flush=True)
while line := sys.stdin.readline(): print("got", line.strip(), flush=True)
time.sleep(1000)
"""
CRASHER = "import sys; print('run', flush=True); sys.exit(3)"
MANIFEST = json.dumps(
    {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {"restartPolicy": policy, "containers": [{"name": "c", **container}]},
            }
            for name, policy, container in (
                ("printer", "Always", {"image": "py", "args": ["-c", PRINTER], "stdin": True}),
                ("played", "Always", {"image": "nginx", "ports": [{"containerPort": 80}]}),
                ("done", "Never", {"image": "py", "args": ["-c", "print('all of it')"]}),
                ("crasher", "Always", {"image": "py", "args": ["-c", CRASHER]}),
            )
        ],
    }
)


class Kubectl:
    """kubectl with the kubeconfig of a cluster."""

    def __init__(self, cluster: Kubewire) -> None:
        self.cluster = cluster
        config = cluster.home / cluster.name / "kubeconfig"
        program = shutil.which("kubectl", path=SEARCH) or ""
        self.command = [program, "--kubeconfig", str(config)]
        self.environment = {**os.environ, "HOME": str(cluster.home)}

    def __call__(
        self, *arguments: str, code: int = 0, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run it; ``code`` is the exit status that it must have."""
        done = subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=self.cluster.patience,
            check=False,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done

    @contextlib.contextmanager
    def beside(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run it while the block runs."""
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [*self.command, *arguments],
            env=self.environment,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    cluster = Kubewire(tmp_path_factory.mktemp("kubectl"))
    run = f"py={sys.executable}"
    try:
        # The crasher never gets ready.
        cluster("up", "-f", "-", "--run", run, "--nodes", "1", "--detach", "--wait-timeout", "1", text=MANIFEST, code=1)  # fmt: skip
        found = Kubectl(cluster)
        found("wait", "--for=condition=Ready", "pod/printer", "pod/played", "--timeout=60s")
        found("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/done", "--timeout=60s")
        found("wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/crasher", "--timeout=60s")  # fmt: skip
        yield found
    finally:
        cluster("down", code=None)
        shutil.rmtree(cluster.home, ignore_errors=True)


@pytest.fixture(params=["websocket", "spdy"])
def streaming(kubectl: Kubectl, request: pytest.FixtureRequest) -> Kubectl:
    """kubectl that streams in either way: as it does by itself, and as it did before 1.31."""
    found = copy.copy(kubectl)
    if request.param == "spdy":
        off = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"}  # fmt: skip
        found.environment = {**kubectl.environment, **off}
    return found


LINES = [f"line {number}" for number in range(5)]


def test_logs(kubectl: Kubectl) -> None:
    out = kubectl("logs", "printer").stdout.splitlines()
    assert out[:5] == LINES
    assert {"oops", "x" * 40000} < set(out)
    assert kubectl("logs", "done").stdout == "all of it\n"
    assert "kubewire stand-in for image nginx" in kubectl("logs", "played").stdout
    assert kubectl("logs", "printer", "--tail", "0").stdout == ""
    assert kubectl("logs", "printer", "--limit-bytes", "9").stdout == "line 0\nli"
    assert kubectl("logs", "printer", "--since-time=2999-01-01T00:00:00Z").stdout == ""
    [stamped] = kubectl("logs", "done", "--timestamps").stdout.splitlines()
    assert stamped.endswith("Z all of it")
    assert kubectl("logs", "done", "--tail", "1", "-c", "c", "--since", "1h").stdout == "all of it\n"  # fmt: skip


def test_logs_of_the_run_before(kubectl: Kubectl) -> None:
    assert kubectl("logs", "crasher", "--previous").stdout == "run\n"
    refused = kubectl("logs", "printer", "--previous", code=1).stderr
    assert 'previous terminated container "c" in pod "printer" not found' in refused


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("tailLines=-1", 422, 'PodLogOptions "done" is invalid: tailLines: Invalid value: -1'),
        ("limitBytes=0", 422, "limitBytes: Invalid value: 0: must be greater than 0"),
        ("stream=x", 422, 'Unsupported value: "x": supported values: "All", "Stderr", "Stdout"'),
        ("tailLines=x", 400, 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("container=none", 400, "container none is not valid for pod done"),
    ],
)
def test_log_options_that_cannot_be(kubectl: Kubectl, query: str, status: int, text: str) -> None:
    found = kubectl("get", "--raw", f"/api/v1/namespaces/default/pods/done/log?{query}", code=1)
    del status
    assert text in found.stderr


def test_following_ends_with_the_container(kubectl: Kubectl) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "short"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "c", "image": "py", "stdin": True, "args": ["-c", "print('begin', flush=True); print(input())"]}],
        },
    }  # fmt: skip
    kubectl("apply", "-f", "-", text=json.dumps(manifest))
    kubectl("wait", "--for=condition=Ready", "pod/short", "--timeout=60s")
    with kubectl.beside("logs", "-f", "short") as following:
        assert following.stdout
        assert following.stdout.readline() == "begin\n"
        kubectl("attach", "-i", "short", text="end\n")
        assert following.communicate(timeout=60) == ("end\n", "")


def test_exec(streaming: Kubectl) -> None:
    script = "cat; echo err >&2; hostname; exit 7"
    for pod in ("printer", "played"):
        done = streaming("exec", "-i", pod, "--", "sh", "-c", script, text="typed\n", code=7)
        assert done.stdout == f"typed\n{pod}\n"
        assert done.stderr == "err\ncommand terminated with exit code 7\n"
    missing = streaming("exec", "played", "--", "/none", code=1).stderr
    assert "No such file or directory" in missing
    stopped = streaming("exec", "done", "--", "true", code=1).stderr
    assert "cannot exec into a container in a completed pod" in stopped


def test_exec_with_a_terminal(streaming: Kubectl) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*streaming.command, "exec", "-it", "played", "--", "sh", "-c", "tty; echo $TERM; read x; echo $x$x"],
        env=streaming.environment, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while b"xterm" not in shown:
        shown += os.read(ours, 1024)
    assert b"/dev/pts/" in shown
    os.write(ours, b"again\r")
    while b"againagain" not in shown:
        shown += os.read(ours, 1024)
    assert process.wait(60) == 0
    os.close(ours)


def test_attach_types_and_shows(streaming: Kubectl) -> None:
    with streaming.beside("attach", "-i", "printer") as attached:
        assert attached.stdin and attached.stdout
        attached.stdin.write("one\n")
        attached.stdin.flush()
        while attached.stdout.readline() not in ("got one\n", ""):
            pass
        assert attached.poll() is None


def test_files_are_copied_in_and_out(streaming: Kubectl, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    (tmp_path / "file").write_bytes(os.urandom(200_000))
    streaming("cp", str(tmp_path / "file"), f"printer:{there}")
    streaming("cp", f"printer:{there}", str(back))
    assert back.read_bytes() == (tmp_path / "file").read_bytes()
    streaming("cp", "played:/etc/hostname", str(tmp_path / "name"))
    assert (tmp_path / "name").read_text() == "played\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_port_forward(streaming: Kubectl) -> None:
    good, bad = free_port(), free_port()
    ports = f"{good}:80", f"{bad}:81"
    with streaming.beside("port-forward", "pod/played", *ports) as forwarding:
        assert forwarding.stdout and forwarding.stderr
        for _ in range(4):
            assert "Forwarding from" in forwarding.stdout.readline()
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{good}/hostname", timeout=20) as answer:
                assert answer.read() == b"played"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{bad}/", timeout=20)
        text = forwarding.stderr.readline()
    assert "error forwarding port 81 to pod" in text
    assert "failed to connect to localhost:81 inside the pod: dial tcp4 127.0.0.1:81" in text


def test_debug(kubectl: Kubectl) -> None:
    script = "import os, sys; print(os.uname().nodename, sys.stdin.readline())"
    out = kubectl("debug", "-i", "played", "--image=py", "--arguments-only", "--", "-c", script, text="typed\n").stdout  # fmt: skip
    assert "played typed" in out
    found = json.loads(kubectl("get", "pod", "played", "-o", "json").stdout)
    [status] = found["status"]["ephemeralContainerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 0
    [container] = found["spec"]["ephemeralContainers"]
    assert "played typed" in kubectl("logs", "played", "-c", container["name"]).stdout


def test_the_kubelets_own_pages(kubectl: Kubectl) -> None:
    node = "/api/v1/nodes/node-1/proxy"
    assert kubectl("get", "--raw", f"{node}/healthz").stdout == "ok"
    pods = json.loads(kubectl("get", "--raw", f"{node}/pods").stdout)["items"]
    running = json.loads(kubectl("get", "--raw", f"{node}/runningpods/").stdout)["items"]
    names = {p["metadata"]["name"] for p in pods}
    assert {"printer", "played", "done", "crasher"} < names
    assert names - {p["metadata"]["name"] for p in running} >= {"done"}
    assert kubectl("get", "--raw", f"{node}/run/default/played/c?cmd=hostname").stdout == "played\n"
    metrics = kubectl("get", "--raw", f"{node}/metrics").stdout
    assert 'kubelet_node_name{node="node-1"} 1.0' in metrics
    assert 'kubelet_running_containers{container_state="running"}' in metrics
    probes = kubectl("get", "--raw", f"{node}/metrics/probes").stdout
    assert 'probe_type="Readiness",result="successful"' in probes


ASK = """
import ssl, sys, urllib.request, urllib.error
token = open("/var/run/secrets/kubernetes.io/serviceaccount/token").read()
for header in ("", "Bearer x", "Bearer " + token):
    request = urllib.request.Request(sys.argv[1], headers={"Authorization": header})
    context = ssl.create_default_context(cafile="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
    try:
        print(urllib.request.urlopen(request, context=context, timeout=20).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""


def test_strangers_are_refused(kubectl: Kubectl) -> None:
    ip = kubectl("get", "node", "node-1", "-o", "jsonpath={.status.addresses[0].address}").stdout
    url = f"https://{ip}:10250/pods"
    asked = kubectl("exec", "printer", "--", sys.executable, "-c", ASK, url)
    assert asked.stdout.split() == ["401", "401", "200"]
