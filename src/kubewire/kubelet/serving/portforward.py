"""/portForward: connections to a pod's loopback, over SPDY or over channels of a WebSocket.

kubectl speaks SPDY/3.1, since 1.31 in a tunnel through a WebSocket: for each connection it opens two
streams with the same ``requestID``, one for data, one for what went wrong. Other clients name their
ports in the query and get two channels each: 2i for data, 2i+1 for errors, both of which begin with
the port's number (two bytes, little endian).
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import WSMsgType, web

from kubewire.api.errors import StatusError
from kubewire.client import remotecommand
from kubewire.kernel import netns
from kubewire.kubelet.serving import bare
from kubewire.kubelet.worker import PodWorker
from kubewire.lang import spdy

VERSION = "portforward.k8s.io"
TUNNEL = "SPDY/3.1+portforward.k8s.io"
CHUNK = 1 << 16
BACKLOG = 64
"""Chunks that wait for a slow program in the pod; then the client waits."""
LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

Send = Callable[[bytes], Awaitable[None]]


async def answer(request: web.BaseRequest, worker: PodWorker) -> web.StreamResponse:
    """Forward until the client goes."""
    if not worker.record.has_sandbox:
        raise StatusError("InternalError", f'pod "{worker.pod.metadata.name}" does not run')
    if bare.is_asked(request):
        async with (
            bare.upgraded(request, (VERSION,)) as connection,
            Streams(worker, connection.write) as streams,
        ):
            async for data in connection.read():
                if not await streams.feed(data):
                    break
        return bare.finished()
    ws = web.WebSocketResponse(protocols=(TUNNEL, *remotecommand.PROTOCOLS))
    await ws.prepare(request)
    if ws.ws_protocol == TUNNEL:
        async with Streams(worker, ws.send_bytes) as streams:
            async for message in ws:
                if message.type is WSMsgType.BINARY and not await streams.feed(message.data):
                    break
    else:
        await _channels(ws, worker, [int(port) for port in request.query.getall("port", [])])
    await ws.close()
    return ws


class Pipe:
    """What flows from the client into one connection; b"" is the end."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(BACKLOG)
        self._is_closed = False

    async def put(self, data: bytes) -> None:
        """Pass on bytes; waits if the other side is slow."""
        if not self._is_closed:
            await self._queue.put(data)

    async def get(self) -> bytes:
        """The next bytes."""
        return await self._queue.get()

    def close(self) -> None:
        """Nobody reads any more: whoever waits to put something goes on."""
        self._is_closed = True
        while not self._queue.empty():
            self._queue.get_nowait()


async def connect(worker: PodWorker, port: int) -> socket.socket:
    """A connection to a pod's loopback, in the family that answers; OSError says why not."""
    loop, failures = asyncio.get_running_loop(), []
    for family, address in LOOPBACKS:
        made = netns.socket_in(worker.netns, family)
        made.setblocking(False)
        try:
            await loop.sock_connect(made, (address, port))
        except OSError as error:
            made.close()
            name = "tcp4" if family == socket.AF_INET else "tcp6"
            where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            why = os.strerror(error.errno).lower() if error.errno else str(error)
            failures.append(f"dial {name} {where}: connect: {why}")
        else:
            return made
    raise OSError(f"failed to connect to localhost:{port} inside the pod: {', '.join(failures)}")


async def relay(made: socket.socket, pipe: Pipe, send: Send) -> None:
    """Copy in both directions until both have ended."""
    reader, writer = await asyncio.open_connection(sock=made)

    async def inward() -> None:
        while data := await pipe.get():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def outward() -> None:
        while data := await reader.read(CHUNK):
            await send(data)

    feeding = asyncio.create_task(inward())
    try:
        with contextlib.suppress(OSError):
            await outward()
    finally:
        feeding.cancel()
        pipe.close()
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await feeding


def failure(worker: PodWorker, port: int, error: OSError) -> str:
    """What the error stream says, as upstream begins it."""
    meta = worker.pod.metadata
    return f"error forwarding port {port} to pod {meta.uid}, uid : {error}"


class _Pair(NamedTuple):
    data: int
    error: int
    port: int


class Streams:
    """SPDY's streams as connections; a context, at whose end all of them end."""

    def __init__(self, worker: PodWorker, send: Send) -> None:
        self._worker = worker
        self._write = send
        self._spdy = spdy.Connection()
        self._half: dict[str, dict[str, int]] = {}
        """Streams by request and type, of requests that lack one."""
        self._pipes: dict[int, Pipe] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def __aenter__(self) -> "Streams":
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def feed(self, data: bytes) -> bool:
        """Take bytes of the client; false when it does not speak SPDY."""
        try:
            events = self._spdy.feed(data)
        except spdy.ProtocolError:
            return False
        for event in events:
            await self._take(event)
        return True

    async def _take(self, event: spdy.Event) -> None:
        match event:
            case spdy.Opened(stream, headers):
                await self._write(self._spdy.reply(stream))
                await self._open(stream, headers)
            case spdy.Data(stream, data) if stream in self._pipes:
                await self._pipes[stream].put(data)
            case spdy.Finished(stream) if stream in self._pipes:
                await self._pipes[stream].put(b"")
            case spdy.Reset(stream) if stream in self._tasks:
                self._tasks[stream].cancel()
            case spdy.Pinged(pong):
                await self._write(pong)

    async def _open(self, stream: int, headers: dict[str, str]) -> None:
        request, kind = headers.get("requestid", ""), headers.get("streamtype", "")
        port = headers.get("port", "")
        if kind not in ("data", "error") or not port.isdigit():
            await self._write(self._spdy.reset(stream))
            return
        if kind == "data":
            self._pipes[stream] = Pipe()
        known = self._half.setdefault(request, {})
        known[kind] = stream
        if len(known) == 2:
            del self._half[request]
            pair = _Pair(known["data"], known["error"], int(port))
            task = asyncio.create_task(self._forward(pair))
            self._tasks[pair.data] = task
            task.add_done_callback(lambda _: self._forget(pair))

    def _forget(self, pair: _Pair) -> None:
        self._tasks.pop(pair.data, None)
        self._pipes.pop(pair.data, None)

    async def _forward(self, pair: _Pair) -> None:
        try:
            made = await connect(self._worker, pair.port)
        except OSError as error:
            self._pipes[pair.data].close()
            text = failure(self._worker, pair.port, error)
            await self._write(self._spdy.send(pair.error, text.encode()))
        else:
            await relay(
                made,
                self._pipes[pair.data],
                lambda data: self._write(self._spdy.send(pair.data, data)),
            )
        for stream in (pair.data, pair.error):
            await self._write(self._spdy.finish(stream))


async def _channels(ws: web.WebSocketResponse, worker: PodWorker, ports: list[int]) -> None:
    """Two channels for each port of the query."""
    pipes = [Pipe() for _ in ports]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_channel(ws, worker, index, port, pipes[index]))
            for index, port in enumerate(ports)
        ]
        async for message in ws:
            if message.type is WSMsgType.BINARY and message.data:
                channel, data = message.data[0], message.data[1:]
                if channel == remotecommand.CLOSE and data:
                    channel, data = data[0], b""
                elif not data:
                    continue
                index, is_error = divmod(channel, 2)
                if not is_error and index < len(pipes):
                    await pipes[index].put(data)
        for task in tasks:
            task.cancel()


async def _channel(
    ws: web.WebSocketResponse, worker: PodWorker, index: int, port: int, pipe: Pipe
) -> None:
    data, error_channel = bytes((2 * index,)), bytes((2 * index + 1,))
    for channel in (data, error_channel):
        await ws.send_bytes(channel + port.to_bytes(2, "little"))
    try:
        made = await connect(worker, port)
    except OSError as error:
        pipe.close()
        await ws.send_bytes(error_channel + failure(worker, port, error).encode())
    else:
        await relay(made, pipe, lambda found: ws.send_bytes(data + found))
