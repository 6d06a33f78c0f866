"""A program that somebody runs in a container: its streams, and the terminal if it has one."""

import asyncio
import os
import pty
from collections.abc import Callable, Mapping, Sequence

from kubewire.client.remotecommand import Size
from kubewire.kernel import process, terminal
from kubewire.kubelet.capture import kill_group
from kubewire.kubelet.enter import Entrance


class Command:
    """A running program, with what ``remotecommand.pump`` wants of a process."""

    def __init__(self, child: process.Process) -> None:
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self.on_resize: Callable[[Size], None] = lambda size: None
        self._child = child

    async def wait(self) -> int:
        """Exit status, or minus the signal that ended it."""
        return await self._child.wait()

    def kill(self) -> None:
        """End it and what it has started."""
        kill_group(self._child.pid)
        self._child.kill()

    def close(self) -> None:
        """Let go of the streams."""
        if self.stdin is not None:
            self.stdin.close()
        for reader in (self.stdout, self.stderr):
            if reader is not None and (transport := getattr(reader, "_transport", None)):
                transport.close()


async def start(
    entrance: Entrance, argv: Sequence[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
) -> Command:
    """Start it; OSError if it cannot."""
    if tty:
        return await _with_terminal(entrance, argv, stdin=stdin)
    null = process.DEVNULL
    ends = [_Pipe() if wanted else None for wanted in (stdin, stdout, stderr)]
    fds = [(e.reading if i == 0 else e.writing) if e else null for i, e in enumerate(ends)]
    try:
        child = _spawn(entrance, argv, entrance.environment, fds, entrance.prepare)
    except OSError:
        for end in ends:
            if end:
                end.close()
        raise
    command = Command(child)
    fed, out, err = ends
    if fed:
        os.close(fed.reading)
        command.stdin = await _writer(fed.writing)
    if out:
        os.close(out.writing)
        command.stdout = await _reader(out.reading)
    if err:
        os.close(err.writing)
        command.stderr = await _reader(err.reading)
    return command


class _Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe2(os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


async def _with_terminal(entrance: Entrance, argv: Sequence[str], *, stdin: bool) -> Command:
    ours, theirs = pty.openpty()

    def prepare() -> None:
        entrance.prepare()
        terminal.take()

    try:
        environment = {**entrance.environment, **terminal.ENVIRONMENT}
        child = _spawn(entrance, argv, environment, [theirs] * 3, prepare)
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    command = Command(child)
    command.stdin = await _writer(os.dup(ours)) if stdin else None
    command.stdout = await _reader(ours)

    command.on_resize = lambda size: terminal.resize(ours, size.width, size.height)
    return command


def _spawn(
    entrance: Entrance,
    argv: Sequence[str],
    environment: Mapping[str, str],
    fds: Sequence[int],
    prepare: Callable[[], None],
) -> process.Process:
    return process.spawn(
        argv,
        netns=entrance.netns,
        env=environment,
        stdin=fds[0],
        stdout=fds[1],
        stderr=fds[2],
        prepare=prepare,
    )


async def _reader(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    file = os.fdopen(fd, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    return reader


async def _writer(fd: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    file = os.fdopen(fd, "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
    return asyncio.StreamWriter(transport, protocol, None, loop)
