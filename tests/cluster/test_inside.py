"""exec, node-exec and reach against a folder that looks like a running cluster's."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kubewire.cluster import reach
from kubewire.cluster.dialer import Dial, dial_all
from kubewire.cluster.reach import Flow, Key
from kubewire.cluster.state import ClusterState, process_start_time
from kubewire.kernel import netns

pytestmark = pytest.mark.kernel


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterState:
    folder = tmp_path / "home" / "kubewire"
    node = folder / "run" / "nodes" / "node-1"
    pod = node / "pods" / "u1"
    pod.mkdir(parents=True)
    (node / "names").mkdir()
    (node / "names" / "default_web").symlink_to("../pods/u1")
    (folder / "run" / "netns").mkdir()
    for path in (pod / "netns", folder / "run" / "netns" / "node-1"):
        netns.create(path)
    (pod / "hosts").write_text("10.0.0.9\tsomewhere\n")
    (pod / "data").mkdir()
    (pod / "data" / "key").write_text("value")
    description = {
        "netns": str(pod / "netns"),
        "hostname": "web",
        "containerNames": ["main"],
        "binds": [{"source": str(pod / "hosts"), "target": "/etc/hosts"}],
        "containers": {
            "main": {
                "binds": [{"source": str(pod / "data"), "target": "/kubewire-data/x"}],
                "env": {"WHO": "me"},
                "cwd": "/kubewire-data",
            }
        },
    }
    (pod / "pod.json").write_text(json.dumps(description))
    pid = os.getpid()
    state = ClusterState("kubewire", folder, pid, process_start_time(pid), nodes=("node-1",))
    state.save()
    return state


def kubewire(cluster: ClusterState, *words: str, data: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "kubewire", *words],
        input=data,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KUBEWIRE_HOME": str(cluster.directory.parent)},
    )
    return done.returncode, done.stdout, done.stderr


def test_exec_sees_the_pod(cluster: ClusterState) -> None:
    script = "hostname; cat /etc/hosts x/key; echo; pwd; echo $WHO; ls /sys/class/net; cat; exit 7"
    code, out, err = kubewire(cluster, "exec", "web", "--", "sh", "-c", script, data="typed")
    assert (code, err) == (7, "")
    assert out == "web\n10.0.0.9\tsomewhere\nvalue\n/kubewire-data\nme\nlo\ntyped"
    assert not Path("/kubewire-data").exists()


def test_exec_passes_the_end_by_a_signal_on(cluster: ClusterState) -> None:
    assert kubewire(cluster, "exec", "web", "--", "sh", "-c", "kill -TERM $$")[0] == 143


def test_exec_names_what_is_not_there(cluster: ClusterState) -> None:
    code, _, err = kubewire(cluster, "exec", "-n", "other", "web", "--", "true")
    assert (code, err) == (2, "pod other/web: no node of cluster kubewire runs it\n")
    code, _, err = kubewire(cluster, "exec", "web", "-c", "x", "--", "true")
    assert (code, err) == (2, "pod default/web: no container x (it has main)\n")
    code, _, err = kubewire(cluster, "exec", "web", "--", "no-such-program")
    assert (code, err) == (127, "Error: no-such-program: No such file or directory\n")
    code, _, err = kubewire(cluster, "node-exec", "x", "--", "true")
    assert (code, err) == (2, "node x: not in cluster kubewire (it has node-1)\n")


def test_node_exec_is_in_the_nodes_namespace(cluster: ClusterState) -> None:
    path = cluster.run_dir / "netns" / "node-1"
    code, out, _ = kubewire(cluster, "node-exec", "node-1", "--", "readlink", "/proc/self/ns/net")
    assert (code, out) == (0, f"net:[{path.stat().st_ino}]\n")


def test_flows_are_tried_all_at_once(cluster: ClusterState) -> None:
    place = str(cluster.run_dir / "nodes" / "node-1" / "pods" / "u1" / "netns")
    said = b'HTTP/1.1 200 OK\r\n\r\n{"namespace": "default", "pod": "web"}'
    with (
        netns.socket_in(place) as listener,
        netns.socket_in(place, kind=socket.SOCK_DGRAM) as echo,
    ):
        listener.bind(("127.0.0.1", 80))
        listener.listen()
        echo.bind(("127.0.0.1", 53))

        def serve() -> None:
            peer, _ = listener.accept()
            peer.recv(1000)
            peer.sendall(said)
            peer.close()
            data, address = echo.recvfrom(1000)
            echo.sendto(data, address)

        thread = threading.Thread(target=serve)
        thread.start()
        dials = [
            Dial(place, "127.0.0.1", 80, "TCP"),
            Dial(place, "127.0.0.1", 81, "TCP"),
            Dial(place, "127.0.0.1", 53, "UDP"),
            Dial(place, "127.0.0.1", 54, "UDP"),
            Dial(place, "10.9.9.9", 80, "TCP"),
        ]
        found = dial_all(dials, 5.0)
        thread.join()
    assert [(r.ok, r.error, r.answered_by) for r in found] == [
        (True, None, "default/web"),
        (False, "connection refused", None),
        (True, None, None),
        (False, "connection refused", None),
        (False, "network is unreachable", None),
    ]


@pytest.mark.parametrize(
    ("said", "ok", "error"),
    [
        (b'HTTP/1.1 200 OK\r\n\r\n{"namespace": "default", "pod": "web"}', True, None),
        (b"HTTP/1.1 503 x\r\n\r\nupstream connect error", False, "the proxy reached no endpoint"),
        (b"", False, "closed without an answer"),
    ],
)
def test_behind_a_proxy_only_an_answer_counts(
    cluster: ClusterState, said: bytes, ok: bool, error: str | None
) -> None:
    place = str(cluster.run_dir / "nodes" / "node-1" / "pods" / "u1" / "netns")
    with netns.socket_in(place) as listener:
        listener.bind(("127.0.0.1", 80))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            peer.recv(1000)
            peer.sendall(said)
            peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        found = dial_all([Dial(place, "127.0.0.1", 80, "TCP", proxied=True)], 5.0)[0]
        thread.join()
    assert (found.ok, found.error) == (ok, error)


def test_attempt_dials_from_the_pod(cluster: ClusterState) -> None:
    flow = Flow(Key("default", "web"), Key("default", "web"), "Pod", "127.0.0.1", 9, "TCP")
    assert reach.attempt(cluster, [flow], 1.0, behind_envoy=False) == [
        {
            "from": "default/web", "to": "default/web", "toKind": "Pod", "ip": "127.0.0.1",
            "port": 9, "protocol": "TCP", "ok": False, "answeredBy": None,
            "error": "connection refused", "ms": None,
        }
    ]  # fmt: skip
