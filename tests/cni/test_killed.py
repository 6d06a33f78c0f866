"""Programs, agents and runtimes that end in the middle, and what the next call makes of it."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cni.programs import MAIN, cables, held
from cni.runtime import BIN, SOCKET, Runtime, agent, serve
from kubewire.cni import install
from kubewire.kernel import netns, process
from kubewire.kernel.rtnetlink import GROUP_LINK, RtNetlink, monitor

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("machine")]


def test_without_an_agent_the_answer_is_try_again() -> None:
    for compiler in ("cc", ""):
        install.install_programs(BIN, socket=SOCKET, compiler=compiler)
        runtime = Runtime([MAIN], [BIN])
        for command in ("ADD", "DEL"):
            done = runtime.call(command, runtime.config(MAIN, None))
            assert (done.status, done.answer["code"]) == (1, 11)
            assert str(SOCKET) in done.answer["msg"]
            assert done.answer["cniVersion"] == "1.0.0"


def test_an_agent_killed_in_the_middle_of_an_add(served: Runtime) -> None:
    """A socket that accepts and says nothing more, then closes: code 11, and DEL cleans up."""
    SOCKET.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(SOCKET))
        server.listen()
        config = served.config(MAIN, None)
        child = process.fork_into(lambda: sys.exit(served.call("ADD", config).answer["code"]))
        connection, _ = server.accept()
        connection.close()
        assert child.wait_blocking() == 11
    SOCKET.unlink()
    with agent():
        served.delete(None)


def test_an_add_that_is_killed_before_its_answer_is_read() -> None:
    """All is made, but the runtime takes it for failed: the next call undoes it."""
    install.install_programs(BIN, socket=SOCKET, standalone=True)
    runtime = Runtime([MAIN], [BIN])
    netns.create(Path("/run/netns/c1"))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}  # fmt: skip
    with subprocess.Popen(BIN / "kubewire-cni", env=env, stdin=subprocess.PIPE, stdout=writing) as add:  # fmt: skip
        assert add.stdin is not None
        add.stdin.write(json.dumps(runtime.config(MAIN, None)).encode())
        add.stdin.close()
        while "pipe_write" not in Path(f"/proc/{add.pid}/wchan").read_text():
            assert add.poll() is None
            os.sched_yield()
        assert len(cables()) == 1
        add.kill()
    os.close(reading)
    os.close(writing)
    result = runtime.add("c2")
    assert cables() == [result["interfaces"][0]["name"]]
    runtime.delete(result, "c2")


def test_an_add_whose_answer_nobody_reads() -> None:
    install.install_programs(BIN, socket=SOCKET, standalone=True)
    runtime = Runtime([MAIN], [BIN])
    netns.create(Path("/run/netns/c1"))
    reading, writing = os.pipe()
    os.close(reading)
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}  # fmt: skip
    stdin = json.dumps(runtime.config(MAIN, None)).encode()
    done = subprocess.run(BIN / "kubewire-cni", env=env, input=stdin, stdout=writing, check=False)
    os.close(writing)
    assert done.returncode == 1
    result = runtime.add("c2")
    assert cables() == [result["interfaces"][0]["name"]]


def test_the_agent_replaces_a_socket_that_a_killed_one_left() -> None:
    install.install_programs(BIN, socket=SOCKET, compiler="")
    runtime = Runtime([MAIN], [BIN])
    child = process.fork_into(serve)
    while not SOCKET.exists():
        os.sched_yield()
    child.signal(signal.SIGKILL)
    child.wait_blocking()
    assert runtime.call("ADD", runtime.config(MAIN, None)).answer["code"] == 11
    stale = SOCKET.stat().st_ino
    again = process.fork_into(serve)
    while SOCKET.stat().st_ino == stale:
        os.sched_yield()
    runtime.add()
    again.kill()


def test_state_that_somebody_clears_is_made_anew(runtime: Runtime) -> None:
    result = runtime.add()
    shutil.rmtree("/run/data")
    done = runtime.call("CHECK", runtime.config(MAIN, result))
    assert (done.status, done.answer["code"]) == (1, 101)
    runtime.delete(result)
    again = runtime.add("c2")
    assert again["ips"][0]["address"] == "10.1.0.2/32"
    assert held() == 1


def test_an_add_that_its_client_gave_up_is_undone() -> None:
    install.install_programs(BIN, socket=SOCKET, compiler="")
    netns.create(Path("/run/netns/c1"))
    with agent() as server:
        # Stopped in the middle of the call: the client ends before there is an answer.
        os.kill(server.pid, signal.SIGSTOP)
        call = Runtime([MAIN], [BIN]).config(MAIN, None)
        env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}  # fmt: skip
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(SOCKET))
        head = "\0".join(["kubewire-cni", *(f"{k}={v}" for k, v in env.items())])
        client.sendall(f"{head}\0\0{json.dumps(call)}".encode())
        client.close()
        os.kill(server.pid, signal.SIGCONT)
        # The agent serves in turn: whoever is answered now comes after the undoing.
        other = Runtime([MAIN], [BIN])
        other.add("c2")
        while len(cables()) > 1:
            os.sched_yield()
        assert held() >= 1


def test_addresses_of_containers_that_ended_without_del_are_taken_back(served: Runtime) -> None:
    ipam = {"type": "kubewire-ipam", "subnet": "10.2.0.0/30", "dataDir": "/run/s"}
    served.plugins = [MAIN | {"ipam": ipam}]
    config = served.config(served.plugins[0], None)
    host = served.add("gone")["interfaces"][0]["name"]
    netns.create(Path("/run/netns/c2"))
    assert served.call("ADD", config, "c2").answer["code"] == 11
    with monitor(GROUP_LINK) as changes, RtNetlink() as node:
        netns.delete(Path("/run/netns/gone"))
        # The kernel takes a namespace apart when it finds the time.
        while host in node:
            select.select([changes.socket], [], [])
            changes.receive()
    assert served.call("ADD", config, "c2").answer["ips"][0]["address"] == "10.2.0.2/32"


def test_del_takes_the_devices_at_once(served: Runtime) -> None:
    for number in range(3):
        result = served.add(f"c{number}")
        served.delete(result, f"c{number}")
        with RtNetlink() as node, RtNetlink(Path(f"/run/netns/c{number}")) as pod:
            assert [link.name for link in (*node.links(), *pod.links())] == ["lo", "lo"]
