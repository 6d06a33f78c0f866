"""``kubewire apiserver`` and ``kubewire api-proxy`` as programs: what they print, how they end."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "kubewire"]


def start(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=pipe, stderr=pipe, text=True, env=environment
    )


def test_it_serves_until_told_to_stop(tmp_path: Path) -> None:
    out = tmp_path / "kubeconfig"
    process = start("apiserver", "--port", "0", "--kubeconfig-out", str(out))
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("https://127.0.0.1:")
    assert str(out) in line
    assert out.stat().st_mode & 0o077 == 0
    assert json.loads(out.read_text())["clusters"][0]["cluster"]["server"] in line
    proxy = start("api-proxy", "--kubeconfig", str(out), "--port", "0")
    assert proxy.stdout is not None
    assert proxy.stdout.readline().startswith("Starting to serve on 127.0.0.1:")
    for running in (proxy, process):
        os.kill(running.pid, signal.SIGTERM)
        assert running.wait(30) == 0
        running.communicate()


def test_a_killed_one_leaves_only_its_data_folder(tmp_path: Path) -> None:
    data, temporary = tmp_path / "data", tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = start("apiserver", "--port", "0", "--data-dir", str(data), environment=environment)
    assert process.stdout is not None
    assert str(data / "kubeconfig") in process.stdout.readline()
    process.kill()
    process.communicate()
    assert (data / "kubeconfig").exists()
    assert list(temporary.iterdir()) == []


WRONG = [
    (["apiserver", "--service-cluster-ip-range", "10.0.0.0/33"], "--service-cluster-ip-range"),
    (["apiserver", "--service-cluster-ip-range", "10.0.0.0/16,10.1.0.0/16"], "at most one range"),
    (["api-proxy", "-u", "/x", "-p", "1"], "cannot set --unix-socket and --port at the same time"),
    (["api-proxy", "--kubeconfig", "/none", "--accept-hosts", "("], "--accept-hosts"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG, ids=[w[1] for w in WRONG])
def test_wrong_use_is_one_line_and_status_2(arguments: list[str], text: str) -> None:
    process = start(*arguments)
    _, error = process.communicate()
    assert process.returncode == 2
    assert text in error
    assert len(error.strip().splitlines()) == 1


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = start("apiserver", "--port", port, "--data-dir", str(tmp_path))
        _, error = process.communicate()
    assert process.returncode == 2
    assert f"--port {port}: cannot listen on 127.0.0.1: Address already in use" in error
