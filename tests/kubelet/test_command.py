"""Programs that are run in a container: their streams to a client, whoever is slow or stays."""

import asyncio
import os
import signal

import pytest

from kubewire.client.remotecommand import DRAIN, STDERR, STDOUT, Session, Size, pump
from kubewire.kubelet.enter import Entrance
from kubewire.kubelet.serving import command

pytestmark = pytest.mark.kernel

HERE = Entrance("/proc/self/ns/net", "here", environment=dict(os.environ))


class Client:
    """What a client has got, by channel; it may look at the first bytes for a while."""

    def __init__(self, delay: float = 0.0) -> None:
        self.got = {STDOUT: b"", STDERR: b""}
        self.session = Session(self._take)
        self.heard = asyncio.Event()
        self._delay = delay

    async def _take(self, channel: int, data: bytes) -> None:
        delay, self._delay = self._delay, 0.0
        await asyncio.sleep(delay)
        self.got[channel] += data
        self.heard.set()

    async def run(self, script: str, *, stdin: bool = False) -> int:
        argv = ("sh", "-c", script)
        running = await command.start(HERE, argv, stdin=stdin, stdout=True, stderr=True, tty=False)
        try:
            async with asyncio.timeout(60):
                return await pump(self.session, running)
        finally:
            running.close()


async def test_streams_and_status() -> None:
    client = Client()
    client.session.take(0, b"typed")
    client.session.end()
    assert await client.run("cat; echo err >&2; hostname; kill -9 $$", stdin=True) == 137
    assert client.got == {STDOUT: b"typedhere\n", STDERR: b"err\n"}


async def test_what_is_left_running_is_not_waited_for() -> None:
    client = Client()
    assert await client.run("sleep 1000 & echo $!") == 0
    os.kill(int(client.got[STDOUT]), signal.SIGKILL)


async def test_a_slow_client_gets_all() -> None:
    client = Client(delay=2 * DRAIN)
    assert await client.run("head -c 150000 /dev/zero") == 0
    assert len(client.got[STDOUT]) == 150_000


async def test_a_terminal_and_its_size() -> None:
    argv = ("sh", "-c", "read x; stty size; echo $TERM")
    running = await command.start(HERE, argv, stdin=True, stdout=True, stderr=False, tty=True)
    running.on_resize(Size(90, 30))
    client = Client()
    client.session.take(0, b"go\r")
    assert await pump(client.session, running) == 0
    running.close()
    assert client.got[STDOUT].replace(b"\r", b"") == b"go\n30 90\nxterm\n"


async def test_a_program_that_cannot_start_leaves_nothing_open() -> None:
    before = open_files()
    for tty in (False, True):
        with pytest.raises(OSError, match="/none"):
            await command.start(HERE, ["/none"], stdin=True, stdout=True, stderr=True, tty=tty)
    assert open_files() == before


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def test_a_client_that_goes_ends_the_program() -> None:
    client = Client()
    running = asyncio.create_task(client.run("echo $$; sleep 1000"))
    await client.heard.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(client.got[STDOUT]), 0)
