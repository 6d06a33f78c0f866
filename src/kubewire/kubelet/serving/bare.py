"""Streams over bare SPDY/3.1, as kubectl before 1.31 and most Go programs ask for them.

The request is upgraded as a whole: from the 101 on, the connection carries SPDY frames. exec and
attach have a stream for each of error, stdin, stdout, stderr and resize, which the client opens;
port-forward has pairs of them (see ``portforward``).
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from kubewire.api.errors import StatusError
from kubewire.client import remotecommand
from kubewire.client.forward import Hijacked
from kubewire.client.remotecommand import ERROR, RESIZE, STDERR, STDIN, STDOUT, Session
from kubewire.lang import spdy

PROTOCOL = "SPDY/3.1"
VERSIONS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
PATIENCE = 30.0
"""Seconds for the client to open its streams."""
CHUNK = 1 << 16

_CHANNELS = {"error": ERROR, "stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "resize": RESIZE}
_WANTED = {"input": STDIN, "output": STDOUT, "error": STDERR}


def is_asked(request: web.BaseRequest) -> bool:
    """The client wants bare SPDY."""
    return request.headers.get("Upgrade", "").upper() == PROTOCOL


class Bare:
    """The upgraded connection: bytes in both directions."""

    def __init__(self, request: web.BaseRequest) -> None:
        transport = request.transport
        assert transport is not None
        self._transport = transport
        self._protocol: Any = request.protocol
        self._received = asyncio.StreamReader()
        self._received.set_transport(transport)

    async def write(self, data: bytes) -> None:
        """Send; waits if the client is slow."""
        if not self._transport.is_closing():
            self._transport.write(data)
            await self._protocol._drain_helper()

    async def read(self) -> AsyncIterator[bytes]:
        """What the client sends, until it goes."""
        while data := await self._received.read(CHUNK):
            yield data

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """From aiohttp: bytes after the request."""
        self._received.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        """From aiohttp: the client has gone."""
        self._received.feed_eof()

    def close(self) -> None:
        """End the connection once everything is sent."""
        self._transport.close()


@contextlib.asynccontextmanager
async def upgraded(request: web.BaseRequest, versions: Iterable[str]) -> AsyncIterator[Bare]:
    """Accept the upgrade with the first version that the client knows, too."""
    offered = [
        version.strip()
        for line in request.headers.getall("X-Stream-Protocol-Version", [])
        for version in line.split(",")
    ]
    chosen = next((version for version in versions if version in offered), None)
    if chosen is None:
        text = f"unable to upgrade: unable to negotiate protocol: client supports {offered}, server accepts {list(versions)}"  # fmt: skip
        raise StatusError("Forbidden", text)
    await request.read()
    bare = Bare(request)
    request.protocol.set_parser(bare)  # type: ignore[arg-type]
    lines = (
        "HTTP/1.1 101 Switching Protocols",
        "Connection: Upgrade",
        f"Upgrade: {PROTOCOL}",
        f"X-Stream-Protocol-Version: {chosen}",
    )
    try:
        await bare.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        yield bare
    finally:
        bare.close()


def finished() -> web.StreamResponse:
    """What a handler returns when the connection is over."""
    response = Hijacked()
    response.force_close()
    return response


async def serve(
    request: web.BaseRequest, command: Callable[[Session], Awaitable[int]]
) -> web.StreamResponse:
    """Run a command behind streams, as ``remotecommand.serve`` does behind a WebSocket."""
    query = request.query
    wanted = {channel for name, channel in _WANTED.items() if query.get(name) in ("1", "true")}
    if query.get("tty") in ("1", "true"):
        wanted = (wanted - {STDERR}) | {RESIZE}
    async with upgraded(request, VERSIONS) as bare:
        streams = _Streams(bare)
        listening = asyncio.create_task(streams.listen())
        try:
            async with asyncio.timeout(PATIENCE):
                await streams.wait_for({ERROR, *wanted})
            session = streams.session
            status = await remotecommand.outcome(session, command, _until_done(listening))
            await streams.end(status)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    return finished()


async def _until_done(task: "asyncio.Task[None]") -> None:
    await asyncio.wait({task})


class _Streams:
    """The streams of one command."""

    def __init__(self, bare: Bare) -> None:
        self.session = Session(self._send)
        self._bare = bare
        self._spdy = spdy.Connection()
        self._channels: dict[int, int] = {}
        """Stream -> channel."""
        self._opened = asyncio.Event()

    async def wait_for(self, channels: set[int]) -> None:
        """Return when the client has opened these."""
        while not channels <= set(self._channels.values()):
            self._opened.clear()
            await self._opened.wait()

    async def listen(self) -> None:
        """Sort what the client sends until it goes."""
        with contextlib.suppress(spdy.ProtocolError):
            async for data in self._bare.read():
                for event in self._spdy.feed(data):
                    await self._take(event)

    async def end(self, status: dict[str, Any]) -> None:
        """Say how the command ended, and no more."""
        await self._send(ERROR, json.dumps(status).encode())
        for stream in self._channels:
            await self._bare.write(self._spdy.finish(stream))

    async def _send(self, channel: int, data: bytes) -> None:
        for stream, known in self._channels.items():
            if known == channel:
                await self._bare.write(self._spdy.send(stream, data))

    async def _take(self, event: spdy.Event) -> None:
        match event:
            case spdy.Opened(stream, headers):
                channel = _CHANNELS.get(headers.get("streamtype", ""))
                if channel is None:
                    await self._bare.write(self._spdy.reset(stream))
                    return
                self._channels[stream] = channel
                await self._bare.write(self._spdy.reply(stream))
                self._opened.set()
            case spdy.Data(stream, data) if stream in self._channels:
                self.session.take(self._channels[stream], data)
            case spdy.Finished(stream) | spdy.Reset(stream):
                if self._channels.get(stream) == STDIN:
                    self.session.end()
            case spdy.Pinged(pong):
                await self._bare.write(pong)
