"""Up and down leave the host as it was, whatever happens in between."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Kubewire, host_network

SMALL = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}\n"


def members(home: Path) -> list[int]:
    """Host pids of the processes whose log or environment names a home; the proof that none is left."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(home).encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_the_host_is_the_same_before_during_and_after(kubewire: Kubewire) -> None:
    before = host_network()
    kubewire("up", "-f", "-", "--detach", text=SMALL)
    assert host_network() == before
    kubewire("down")
    assert host_network() == before
    assert not (kubewire.home / "kubewire").exists()
    assert members(kubewire.home) == []


def test_down_cleans_after_kills(kubewire: Kubewire, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    kubewire.environment["TMPDIR"] = str(temporary)
    kubewire("up", "-f", "-", "--detach", "--cni", "exec", text=SMALL)
    _kill_ingress(kubewire)
    record = json.loads((kubewire.home / "kubewire" / "cluster.json").read_text())
    fd = os.pidfd_open(record["pid"])
    os.kill(record["pid"], signal.SIGKILL)
    os.set_blocking(fd, True)
    import select

    select.select([fd], [], [], 20)
    os.close(fd)
    assert members(kubewire.home) == []
    assert "is dead" in kubewire("status", code=1).stdout
    kubewire("down")
    assert not (kubewire.home / "kubewire").exists()
    assert list(temporary.iterdir()) == []


def _kill_ingress(kubewire: Kubewire) -> None:
    """SIGKILL to the Ingress program; returns when another one is ready."""
    for pid in members(kubewire.home):
        process = Path(f"/proc/{pid}")
        is_python = (process / "exe").resolve() == Path(sys.executable).resolve()
        if is_python and (process / "comm").read_text() == "envoy\n":
            os.kill(pid, signal.SIGKILL)
            break
    while True:
        [pod] = kubewire.pods("kube-system", "app.kubernetes.io/name=kubewire-ingress")
        [container] = pod["status"]["containerStatuses"]
        if container["restartCount"] == 1 and container["ready"]:
            return


def test_the_foreground_ends_on_interrupt(kubewire: Kubewire) -> None:
    # What runs in the background of a shell is born deaf to it, and so would be its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    argv = [sys.executable, "-m", "kubewire", "up", "-f", "-"]
    with subprocess.Popen(
        argv, env=kubewire.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(SMALL)
        process.stdin.close()
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert members(kubewire.home) == []
    assert not (kubewire.home / "kubewire").exists()


@pytest.mark.parametrize("name", ["apiserver", "controllers", "node/node-1", "standin/node-1"])
def test_a_killed_process_is_healed(kubewire: Kubewire, name: str) -> None:
    kubewire("up", "-f", "-", "--detach", text=SMALL)
    rows = {
        r["name"]: r
        for r in json.loads(kubewire("status", "-o", "json", code=None).stdout)["processes"]
    }
    kubewire("node-exec", "node-1", "--", "kill", "-9", str(rows[name]["pid"]))
    while True:
        answer = kubewire("status", "-o", "json", code=None)
        report = json.loads(answer.stdout)
        after = {r["name"]: r for r in report["processes"]}[name]
        if answer.returncode == 0 and after["restarts"] == 1:
            break
    program = "import json,urllib.request as u;print(json.load(u.urlopen('http://127.0.0.1/', timeout=5))['pod'])"
    assert kubewire.python("default/a", program).strip() == "a"


def test_a_port_in_use_is_said_before_anything_starts(kubewire: Kubewire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = kubewire("up", "--publish", f"{port}:web:80", "--detach", code=2)
    assert f"--publish {port}: cannot listen on 127.0.0.1:{port}" in answer.stderr
    assert not (kubewire.home / "kubewire").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", "STDIN[document 1]: line 2"),
        (SMALL + "---\n" + SMALL.replace("image: x", "image: x, colour: red").replace("name: a", "name: b"), "STDIN[document 2] Pod default/b: spec.containers[0].colour: unknown field"),
        (SMALL.replace("containerPort: 80", "containerPort: eighty"), "STDIN[document 1] Pod default/a: spec.containers[0].ports[0].containerPort: "),
        (SMALL.replace("containerPort: 80}", "containerPort: 80}, {containerPort: 80, name: A_b}"), "spec.containers[0].ports[1].name"),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: x}]}}}\n", "STDIN[document 1] Deployment default/d: spec.template.metadata.labels"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}, {port: 80}]}\n", "STDIN[document 1] Service default/s: spec.ports"),
    ],
)  # fmt: skip
def test_bad_input_names_its_place_and_leaves_nothing(
    kubewire: Kubewire, text: str, complaint: str
) -> None:
    answer = kubewire("up", "-f", "-", "--detach", code=2, text=text)
    assert complaint in answer.stderr
    assert not (kubewire.home / "kubewire").exists()
    assert members(kubewire.home) == []


def test_what_never_gets_ready_is_named(kubewire: Kubewire) -> None:
    text = SMALL.replace(
        "ports:", "readinessProbe: {exec: {command: [/bin/false]}, periodSeconds: 1}, ports:"
    )
    answer = kubewire(
        "up",
        "-f",
        "-",
        "--detach",
        "--wait-timeout",
        "3",
        "--run",
        "x=/bin/sleep 1000",
        code=1,
        text=text,
    )
    assert "Pod default/a: container c" in answer.stderr


def test_a_kind_and_a_field_that_nothing_acts_on_are_named_once(kubewire: Kubewire) -> None:
    text = (
        SMALL.replace("image: x", "image: x, resources: {limits: {cpu: 1}}")
        + "---\napiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3}\n"
    )
    kubewire("up", "-f", "-", "--detach", text=text)
    inert = json.loads(kubewire("status", "-o", "json").stdout)["inert"]
    assert "kind Widget.example.com/v1: 1 stored" in inert
    assert "field Pod spec.containers[].resources: in 1" in inert
    assert kubewire.api("/apis/example.com/v1/namespaces/default/widgets/w")["spec"] == {"size": 3}


def test_published_ports_lead_to_services(kubewire: Kubewire) -> None:
    import urllib.request

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: a}, ports: [{port: 80}]}\n"
    kubewire(
        "up",
        "-f",
        "-",
        "--detach",
        "--publish",
        f"{port}:s:80",
        text=SMALL.replace("name: a", "name: a, labels: {app: a}", 1) + service,
    )
    answer = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10))
    assert answer["pod"] == "a"


@pytest.mark.parametrize("mode", ["vxlan", "auto"])
def test_pods_of_different_nodes_reach_each_other_over(kubewire: Kubewire, mode: str) -> None:
    text = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}}}\n"
    kubewire("up", "-f", "-", "--detach", "--pod-network", mode, text=text)
    flows = json.loads(kubewire("reach", "-n", "default", "--pods", "-o", "json").stdout)["flows"]
    assert len(flows) == 4
    assert all(f["ok"] for f in flows)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--nodes", "0"), "--nodes 0: must be between 1 and 200"),
        (("--pod-cidr", "x"), "--pod-cidr x"),
        (("--lb-pool", "192.0.2.0/24,x"), "--lb-pool: x"),
        (
            ("--ip-family", "dual", "--pod-cidr", "10.0.0.0/16"),
            "--pod-cidr 10.0.0.0/16: --ip-family dual needs",
        ),
        (("--publish", "80"), "--publish 80: expected HOSTPORT:[NAMESPACE/]SERVICE:PORT"),
        (("--run", "x"), "--run x: expected IMAGE=COMMAND"),
        (("-f", "/nowhere"), 'the path "/nowhere" does not exist'),
    ],
)
def test_wrong_use_is_refused_in_one_line(
    kubewire: Kubewire, flags: tuple[str, ...], complaint: str
) -> None:
    answer = kubewire("up", "--detach", *flags, code=2)
    assert answer.stderr.startswith(complaint)
    assert answer.stderr.count("\n") == 1
    assert not (kubewire.home / "kubewire").exists()
