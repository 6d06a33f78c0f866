"""HTTP/2 servers: h2 speaks the protocol, this drives it over one connection of asyncio.

Requests are small and whole: headers and body are gathered, one coroutine gives the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from kubewire.dns.dispatch import Peer
from kubewire.dns.transport.asking import NOWHERE, Behind, peer

MOST = 65_536 + 64
"""Octets of a request's body: a DNS message and what wraps it."""
STREAMS = 256

Fields = list[tuple[str, str]]


@dataclass
class HttpRequest:
    """What a client asks."""

    method: str
    path: str
    client: Peer
    local: Peer
    body: bytearray = field(default_factory=bytearray)


@dataclass
class HttpAnswer:
    """What it gets."""

    status: int
    headers: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)


Answerer = Callable[[HttpRequest], Awaitable[HttpAnswer]]


class Http2Connection(asyncio.Protocol):
    """One connection."""

    def __init__(
        self, behind: Behind, answer: Answerer, *, idle: float, streams: int, connections: int = 0
    ) -> None:
        self._behind = behind
        self._most = connections
        self._answer = answer
        self._idle = idle
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self._h2.local_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = streams
        self._requests: dict[int, HttpRequest] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._unsent: dict[int, tuple[bytes, Fields]] = {}
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._client, self._local = NOWHERE, NOWHERE
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        assert isinstance(transport, asyncio.Transport)
        if self._most and len(self._behind.connections) >= self._most:
            transport.abort()
            return
        self._transport = transport
        self._client = peer(transport.get_extra_info("peername"))
        self._local = peer(transport.get_extra_info("sockname"))
        self._behind.connections.add(self)
        self._h2.initiate_connection()
        self._flush()
        self._patience()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went."""
        self._behind.connections.discard(self)
        if self._timer:
            self._timer.cancel()
        for task in self._tasks.values():
            task.cancel()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._transport is None:
            return
        try:
            for event in self._h2.receive_data(data):
                self._happened(event)
        except h2.exceptions.ProtocolError:
            self._flush()
            self._hang_up()
            return
        self._flush()
        self._patience()

    def close(self) -> None:
        """Say goodbye; finish what was asked."""
        self._closing = True
        self._h2.close_connection()
        self._flush()
        if not self._tasks:
            self._hang_up()

    def _happened(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=int(stream), headers=headers):
                named: dict[Any, Any] = dict(headers or ())
                self._requests[stream] = HttpRequest(
                    str(named.get(":method", "")), str(named.get(":path", "")),
                    self._client, self._local,
                )  # fmt: skip
            case h2.events.DataReceived(stream_id=int(stream), data=data):
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                request = self._requests.get(stream)
                if request is not None:
                    request.body += data or b""
                    if len(request.body) > MOST:
                        del self._requests[stream]
                        self._h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
            case h2.events.StreamEnded(stream_id=int(stream)):
                if (request := self._requests.pop(stream, None)) is not None:
                    self._begin(stream, request)
            case h2.events.StreamReset(stream_id=int(stream)):
                self._requests.pop(stream, None)
                self._unsent.pop(stream, None)
                if task := self._tasks.get(stream):
                    task.cancel()
            case h2.events.WindowUpdated():
                for stream in tuple(self._unsent):
                    self._send(stream)
            case h2.events.ConnectionTerminated():
                self._hang_up()

    def _begin(self, stream: int, request: HttpRequest) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(stream, request), name="http2")
        self._tasks[stream] = task
        task.add_done_callback(lambda _: self._done(stream))

    def _done(self, stream: int) -> None:
        self._tasks.pop(stream, None)
        if self._closing and not self._tasks and not self._unsent:
            self._hang_up()

    async def _serve(self, stream: int, request: HttpRequest) -> None:
        answer = await self._answer(request)
        headers = [(":status", str(answer.status)), *answer.headers]
        try:
            whole = not answer.body and not answer.trailers
            self._h2.send_headers(stream, headers, end_stream=whole)
            if not whole:
                self._unsent[stream] = (answer.body, answer.trailers)
                self._send(stream)
        except h2.exceptions.ProtocolError:
            self._unsent.pop(stream, None)  # the client has reset it meanwhile
        self._flush()

    def _send(self, stream: int) -> None:
        """Send as much of a body as the client lets us."""
        body, trailers = self._unsent[stream]
        while body:
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if room <= 0:
                self._unsent[stream] = (body, trailers)
                return
            piece, body = body[:room], body[room:]
            self._h2.send_data(stream, piece, end_stream=not body and not trailers)
        if trailers:
            self._h2.send_headers(stream, trailers, end_stream=True)
        del self._unsent[stream]

    def _flush(self) -> None:
        if self._transport is not None and (data := self._h2.data_to_send()):
            self._transport.write(data)

    def _patience(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle, self._bored)

    def _bored(self) -> None:
        if self._tasks:
            self._patience()
        else:
            self.close()

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()
