"""What is left of an ADD that was killed, at whichever step, and that it is undone."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from kubewire.cni import attach, builtin_ipam
from kubewire.cni.hostports import HostPorts
from kubewire.cni.journal import Journal
from kubewire.cni.plugin import Plugin
from kubewire.cni.spec import CniError
from kubewire.kernel import namespaces, netns, process
from kubewire.kernel.rtnetlink import RtNetlink

CONFIG = {
    "cniVersion": "1.1.0",
    "name": "net",
    "type": "kubewire-cni",
    "ipam": {"type": "kubewire-ipam", "subnet": "10.1.0.0/24"},
    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]},
}
ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/nowhere",
}


def test_a_mark_is_gone_with_its_call_and_stays_after_a_kill(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def killed() -> None:
        with journal.mark("p", {"CNI_X": "1", "PATH": "/"}, b"in"):
            os.kill(os.getpid(), signal.SIGKILL)

    process.fork_into(killed).wait_blocking()
    with journal.mark("alive", {}, b""):
        [call] = journal.abandoned()
        assert (call.program, call.env, call.stdin) == ("p", {"CNI_X": "1"}, b"in")
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_same_call_twice_at_once_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.mark("p", {"CNI_X": "1"}, b"in"):
        with pytest.raises(CniError, match="under way"), journal.mark("p", {"CNI_X": "1"}, b"in"):
            pass
        with journal.mark("p", {"CNI_X": "2"}, b"in"):
            assert list(journal.abandoned()) == []
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.kernel
@pytest.mark.parametrize("step", [(builtin_ipam, "run"), (attach, "add"), (HostPorts, "put")])
@pytest.mark.parametrize("by", ["recover", "next call"])
def test_a_killed_add_is_undone(
    step: tuple[Any, str], by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespaces.mount_tmpfs("/var/lib")
    netns.create(Path("/run/netns/c1"))
    where, name = step
    real = getattr(where, name)

    def last(*args: Any, **options: Any) -> None:
        real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    async def answer(command: str) -> tuple[int, bytes]:
        plugin = Plugin()
        try:
            if command == "recover":
                await plugin.recover()
                return 0, b""
            return await plugin.run("kubewire-cni", ENV | {"CNI_COMMAND": command}, json.dumps(CONFIG).encode())  # fmt: skip
        finally:
            await plugin.close()

    def call(command: str) -> tuple[int, bytes]:
        return asyncio.run(answer(command))

    def killed() -> None:
        monkeypatch.setattr(where, name, last)
        call("ADD")

    assert process.fork_into(killed).wait_blocking() == -signal.SIGKILL
    marks = Path("/var/lib/cni/kubewire/net/adding")
    assert len(list(marks.iterdir())) == 1
    assert call("recover" if by == "recover" else "STATUS")[0] == 0
    assert list(marks.iterdir()) == []
    with RtNetlink() as node, RtNetlink(Path("/run/netns/c1")) as pod:
        assert [link.name for link in (*node.links(), *pod.links())] == ["lo", "lo"]
    ports = Path("/var/lib/cni/kubewire/hostports.json")
    assert not ports.exists() or ports.read_text() == "{}"
    status, printed = call("ADD")
    assert status == 0, printed
    assert json.loads(printed)["ips"][0]["address"] == "10.1.0.3/32"
