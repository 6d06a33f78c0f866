"""``kubewire apiserver`` and ``kubewire api-proxy`` as programs: what they print, how they end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "kubewire"]


def start(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=environment,
        start_new_session=True,
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
    data = tmp_path / "data"
    folder, environment = temporary(tmp_path)
    process = start("apiserver", "--port", "0", "--data-dir", str(data), environment=environment)
    assert process.stdout is not None
    assert str(data / "kubeconfig") in process.stdout.readline()
    process.kill()
    process.communicate()
    assert (data / "kubeconfig").exists()
    assert list(folder.iterdir()) == []


def temporary(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder for temporary files, and the environment that names it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder, {**os.environ, "TMPDIR": str(folder)}


def gone(folder: Path) -> bool:
    """Nothing is left; whoever clears up after a kill gets some time for it."""
    end = time.monotonic() + 30
    while list(folder.iterdir()) and time.monotonic() < end:
        time.sleep(0.01)
    return not list(folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_without_a_data_folder_nothing_is_left(tmp_path: Path, number: int) -> None:
    folder, environment = temporary(tmp_path)
    process = start("apiserver", "--port", "0", environment=environment)
    assert process.stdout is not None
    assert str(folder) in process.stdout.readline()
    os.killpg(process.pid, number)
    # Nor does anything that it started hold its output.
    process.communicate()
    assert gone(folder)


@pytest.mark.kernel
def test_a_killed_ingress_program_leaves_nothing(tmp_path: Path) -> None:
    folder, environment = temporary(tmp_path)
    api = start("apiserver", "--port", "0", "--kubeconfig-out", str(tmp_path / "kubeconfig"))
    assert api.stdout is not None
    api.stdout.readline()
    process = start("ingress", "--kubeconfig", str(tmp_path / "kubeconfig"), environment=environment)  # fmt: skip
    while not list(folder.glob("*/admin.sock")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert gone(folder)
    # Not killed: this test's sandbox ends at once, and a keeper with it.
    api.terminate()
    api.communicate()


WRONG = [
    (["apiserver", "--service-cluster-ip-range", "10.0.0.0/33"], "--service-cluster-ip-range"),
    (["apiserver", "--service-cluster-ip-range", "10.0.0.0/16,10.1.0.0/16"], "at most one range"),
    (["apiserver", "--port", "70000"], "70000 is not in the range 0<=x<=65535"),
    (["apiserver", "--port", "0", "--data-dir", "/proc/none"], "/proc/none: No such file"),
    (["apiserver", "--port", "0", "--cert-dir", "/proc/none"], "/proc/none: No such file"),
    (["apiserver", "--port", "0", "--kubeconfig-out", "/proc/none/k"], "/proc/none: No such file"),
    (
        ["apiserver", "--port", "0", "--bind-address", "no.such.invalid"],
        "--bind-address no.such.invalid: ",
    ),
    (["ingress", "--publish-service", "x"], "--publish-service: 'x': expected NAMESPACE/NAME"),
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
