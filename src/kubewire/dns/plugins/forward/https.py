"""An upstream over HTTPS (RFC 8484): one HTTP/2 connection, as many questions on it as there are.

One that does not choose HTTP/2 in the handshake is asked over HTTP/1.1 (``http1.py``) from then on.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from kubewire.dns.plugins.forward.http1 import Http1
from kubewire.lang.dns.message import MAX_MESSAGE

PATH = "/dns-query"
MEDIA = "application/dns-message"
_MEDIA = (("accept", MEDIA), ("content-type", MEDIA))


class _Answer:
    """What has come of one answer."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """All has come."""
        if self.whole.done():
            return
        if self.status == 200:
            self.whole.set_result(bytes(self.body))
        else:
            self.whole.set_exception(ConnectionError(f"HTTP status {self.status}"))


class _Connection(asyncio.Protocol):
    """One connection: questions by stream."""

    def __init__(self) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._answers: dict[int, _Answer] = {}
        self._transport: asyncio.Transport | None = None
        self.closed = False
        self.old = False
        """The upstream did not choose HTTP/2."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        found = transport.get_extra_info("ssl_object")
        if found.selected_alpn_protocol() != "h2":
            self.old = True
            self.close()
            return
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        for answer in self._answers.values():
            if not answer.whole.done():
                answer.whole.set_exception(ConnectionError("the upstream hung up"))

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._happened(event)
        except h2.exceptions.ProtocolError:
            self.close()
            return
        self._flush()

    async def ask(self, fields: list[tuple[str, str]], body: bytes) -> bytes:
        """One request; the body of its answer."""
        stream = self._h2.get_next_available_stream_id()
        answer = self._answers[stream] = _Answer()
        try:
            self._h2.send_headers(stream, fields, end_stream=not body)
            if body:
                self._h2.send_data(stream, body, end_stream=True)
            self._flush()
            return await answer.whole
        finally:
            del self._answers[stream]

    def close(self) -> None:
        """Hang up."""
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def _happened(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.close()
            return
        answer = self._answers.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if answer is not None and len(answer.body) <= MAX_MESSAGE:
                answer.body += event.data
        if answer is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            answer.status = int(next(v for k, v in event.headers if k in (b":status", ":status")))
        elif isinstance(event, h2.events.StreamEnded):
            answer.end()
        elif isinstance(event, h2.events.StreamReset) and not answer.whole.done():
            answer.whole.set_exception(ConnectionError("the upstream reset the stream"))

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)


class Https:
    """Asks by POST or GET over a connection that it keeps."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext,
        server_name: str,
        source: tuple[str, int] | None,
        method: str,
        count: Callable[[bool], None],
    ) -> None:
        self._where = (host, port)
        self._context = context
        self._server_name = server_name or host
        self._source = source
        self._method = method
        self._count = count
        self._opening = asyncio.Lock()
        self._connection: _Connection | None = None
        self._old: Http1 | None = None
        self._closing: asyncio.Task[None] | None = None
        literal = f"[{host}]" if ":" in host else host
        self._authority = literal if port == 443 else f"{literal}:{port}"

    async def ask(self, data: bytes) -> bytes:
        """One message there, one back. ``data`` has the id 0, which lets caches help."""
        connection = None if self._old else await self._open()
        path, body = PATH, data
        if self._method == "GET":
            path += "?dns=" + base64.urlsafe_b64encode(data).rstrip(b"=").decode()
            body = b""
        if connection is None:
            assert self._old is not None
            return await self._old.ask(self._method, path, dict(_MEDIA), body)
        fields = [
            (":method", self._method), (":scheme", "https"), (":authority", self._authority),
            (":path", path), *_MEDIA,
        ]  # fmt: skip
        try:
            return await connection.ask(fields, body)
        except h2.exceptions.ProtocolError as error:
            connection.close()
            raise ConnectionError(str(error)) from error

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
        if self._old is not None:
            self._closing = self._old.close()

    async def _open(self) -> _Connection | None:
        """The connection; None: it takes HTTP/1.1."""
        async with self._opening:
            kept = self._connection
            if self._old:
                return None
            if kept is not None and not kept.closed:
                self._count(True)
                return kept
            _, made = await asyncio.get_running_loop().create_connection(
                _Connection, *self._where, ssl=self._context, server_hostname=self._server_name,
                local_addr=self._source,
            )  # fmt: skip
            if made.old:
                self._old = Http1(
                    *self._where, context=self._context, server_name=self._server_name,
                    source=self._source, count=self._count,
                )  # fmt: skip
                return None
            self._count(False)
            self._connection = made
            return made
