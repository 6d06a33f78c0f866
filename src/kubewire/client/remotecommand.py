"""exec and attach over a WebSocket: the server's side of ``v5.channel.k8s.io`` and ``v4``.

Every message begins with the number of its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final
Status, 4 the terminal's size; in v5, 255 closes a channel, which is how the end of stdin is said.
The API server passes such requests through untouched, so whoever answers as a kubelet speaks this.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from kubewire.api.meta import JSON

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
CHUNK = 1 << 15
DRAIN = 1.0
"""Seconds of silence after which the output of a process that has ended is taken to have ended."""


class Size(NamedTuple):
    """A terminal's size."""

    width: int
    height: int


class Session:
    """The streams of one command, whatever carries them."""

    def __init__(self, send: Callable[[int, bytes], Awaitable[None]]) -> None:
        self._send = send
        self._stdin: asyncio.Queue[bytes] = asyncio.Queue()
        self.on_resize: Callable[[Size], None] = lambda size: None

    async def stdin(self) -> AsyncIterator[bytes]:
        """What the client types, until it closes its side."""
        while data := await self._stdin.get():
            yield data

    async def stdout(self, data: bytes) -> None:
        """Send output."""
        await self._send(STDOUT, data)

    async def stderr(self, data: bytes) -> None:
        """Send error output."""
        await self._send(STDERR, data)

    def end(self) -> None:
        """The client sends no more input."""
        self._stdin.put_nowait(b"")

    def take(self, channel: int, data: bytes) -> None:
        """What the client sent on a channel."""
        if channel == STDIN and data:
            self._stdin.put_nowait(data)
        elif channel == RESIZE:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                size = json.loads(data)
                self.on_resize(Size(int(size["Width"]), int(size["Height"])))
        elif channel == CLOSE and data[:1] == bytes((STDIN,)):
            self.end()


def status_of(code: int) -> JSON:
    """The Status that tells a client how a command ended."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    text = f"command terminated with non-zero exit code: exit status {code}"
    causes = [{"reason": "ExitCode", "message": str(code)}]
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": text,
        "details": {"causes": causes},
    }


async def serve(
    request: web.BaseRequest, command: Callable[[Session], Awaitable[int]]
) -> web.StreamResponse:
    """Run a command behind a WebSocket; its result is the exit status that the client sees."""
    ws = web.WebSocketResponse(protocols=PROTOCOLS)
    await ws.prepare(request)
    session = Session(lambda channel, data: ws.send_bytes(bytes((channel,)) + data))

    async def listen() -> None:
        async for message in ws:
            if message.type is WSMsgType.BINARY and message.data:
                session.take(message.data[0], message.data[1:])

    status = await outcome(session, command, listen())
    if not ws.closed:
        with contextlib.suppress(ConnectionError):
            await ws.send_bytes(bytes((ERROR,)) + json.dumps(status).encode())
            await ws.close(code=WSCloseCode.OK)
    return ws


async def outcome(
    session: Session,
    command: Callable[[Session], Awaitable[int]],
    listen: Coroutine[Any, Any, None],
) -> JSON:
    """Run a command while somebody listens to the client; the Status that it is to be told.

    The command is cancelled when the client goes away first.
    """
    working = asyncio.ensure_future(command(session))
    listening = asyncio.create_task(listen)
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        session.end()
        if not working.done():
            working.cancel()
        return status_of(await working)
    except asyncio.CancelledError:
        return {"metadata": {}, "status": "Failure", "message": "the client went away"}
    except OSError as error:
        text = f"error executing command: {error.strerror or error}"
        return {"metadata": {}, "status": "Failure", "reason": "InternalError", "message": text, "code": 500}  # fmt: skip
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


class Process(Protocol):
    """A process with pipes, such as asyncio's."""

    stdin: asyncio.StreamWriter | None
    stdout: asyncio.StreamReader | None
    stderr: asyncio.StreamReader | None

    async def wait(self) -> int:
        """Exit status, or minus the signal that ended it."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


async def pump(session: Session, process: Process) -> int:
    """Connect a process' pipes (those that it has) to the session; returns its exit status."""
    feeding = asyncio.create_task(_feed(session, process.stdin)) if process.stdin else None
    streams = ((process.stdout, session.stdout), (process.stderr, session.stderr))
    found = [_Copy(reader, send) for reader, send in streams if reader]
    copies = {asyncio.create_task(copy.run()): copy for copy in found}
    try:
        code = await process.wait()
        await _drain(copies)
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    finally:
        for task in (*copies, *([feeding] if feeding else ())):
            task.cancel()
    return code if code >= 0 else 128 - code


async def _feed(session: Session, stdin: asyncio.StreamWriter) -> None:
    # A command that does not read to the end of its input is no error.
    with contextlib.suppress(ConnectionError):
        async for data in session.stdin():
            stdin.write(data)
            await stdin.drain()
        stdin.close()


class _Copy:
    """One direction of one stream."""

    def __init__(
        self, reader: asyncio.StreamReader, send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self._reader = reader
        self._send = send
        self.is_idle = False
        """There is nothing to send."""

    async def run(self) -> None:
        """Copy until the end."""
        # A terminal says EIO at its end; a client that is gone wants nothing.
        with contextlib.suppress(OSError):
            while True:
                self.is_idle = True
                data = await self._reader.read(CHUNK)
                self.is_idle = False
                if not data:
                    return
                await self._send(data)


async def _drain(copies: Mapping["asyncio.Task[None]", _Copy]) -> None:
    """Send what a process that has ended has left, however slow the client is.

    What it has left running may hold its output open for ever: nobody waits for that.
    """
    pending = set(copies)
    while pending:
        done, pending = await asyncio.wait(pending, timeout=DRAIN)
        if not done and all(copies[task].is_idle for task in pending):
            return
