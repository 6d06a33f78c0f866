"""DNS over HTTPS (RFC 8484): what a request means, what an answer looks like.

HTTP/2 is ours by h2, HTTP/1.1 is aiohttp's; which of them a client gets is settled by ALPN.
Without the tls plugin the listener speaks plain HTTP/1.1, for a proxy in front of it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from kubewire.dns.transport.asking import Behind, ask, peer
from kubewire.dns.transport.http2 import (
    MOST,
    STREAMS,
    Fields,
    Http2Connection,
    HttpAnswer,
    HttpRequest,
)
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import WireError, parse
from kubewire.lang.dns.record import soa_numbers

if TYPE_CHECKING:
    from aiohttp import web

PATH = "/dns-query"
TYPE = "application/dns-message"
CONNECTIONS = 200
NO_RECORDS, LONGEST = 5, 3600
"""Seconds that an answer without records may be kept, and that any may."""


class NotAQuestionError(ValueError):
    """Not what RFC 8484 asks for."""


def message_of(method: str, path: str, body: bytes) -> bytes:
    """The DNS message of a request. Raises NotAQuestionError."""
    if method == "POST":
        data = body
    elif method == "GET":
        values = parse_qs(urlsplit(path).query, keep_blank_values=True).get("dns", [])
        if len(values) != 1:
            raise NotAQuestionError("no 'dns' query parameter found" if not values else "multiple 'dns' query values found")  # fmt: skip
        try:
            data = base64.b64decode(values[0] + "=" * (-len(values[0]) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise NotAQuestionError("illegal base64 data") from None
    else:
        raise NotAQuestionError(f"method not allowed: {method}")
    try:
        parse(data)
    except WireError as error:
        raise NotAQuestionError(str(error)) from error
    return data


def max_age(answer: bytes) -> int:
    """Seconds that HTTP caches may keep it: the lowest TTL; of an absence, what its SOA says."""
    message = parse(answer)
    records = (*message.answer, *message.authority, *message.additional)
    ttls = [r.ttl for r in records]
    if not message.answer:
        ttls += [soa_numbers(r)[4] for r in message.authority if r.type == codes.SOA]
    return min(LONGEST, *ttls) if ttls else NO_RECORDS


async def answer(behind: Behind, request: HttpRequest, proto: str = "https") -> HttpAnswer:
    """Answer one request."""
    if urlsplit(request.path).path != PATH:
        return _plain(404, "")
    try:
        data = message_of(request.method, request.path, bytes(request.body))
    except NotAQuestionError as error:
        return _plain(400, str(error))
    found = await ask(behind, data, request.client, request.local, proto)
    if found is None:
        return _plain(500, "No response")
    fields = [
        ("content-type", TYPE),
        ("cache-control", f"max-age={max_age(found)}"),
        ("content-length", str(len(found))),
    ]
    return HttpAnswer(200, fields, found)


def _plain(status: int, text: str) -> HttpAnswer:
    body = f"{text}\n".encode()
    fields: Fields = [("content-type", "text/plain; charset=utf-8")]
    return HttpAnswer(status, [*fields, ("content-length", str(len(body)))], body)


class DohConnection(asyncio.Protocol):
    """A connection until it is known which HTTP it speaks."""

    def __init__(self, behind: Behind, *, idle: float) -> None:
        self._behind = behind
        self._idle = idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand over to the protocol that the client chose."""
        assert isinstance(transport, asyncio.Transport)
        limits = self._behind.block.limits
        most = limits.get("https.max_connections", CONNECTIONS)
        if most and len(self._behind.connections) >= most:
            transport.abort()
            return
        secure = transport.get_extra_info("ssl_object")
        assert secure is None or isinstance(secure, ssl.SSLObject)
        chosen: asyncio.Protocol
        if secure is not None and secure.selected_alpn_protocol() == "h2":
            chosen = Http2Connection(
                self._behind, lambda r: answer(self._behind, r), idle=self._idle, streams=STREAMS
            )
        else:
            chosen = Http1(self._behind, self._idle)
        transport.set_protocol(chosen)
        chosen.connection_made(transport)


class Http1(asyncio.Protocol):
    """An HTTP/1.1 connection: aiohttp's protocol, counted among ours."""

    def __init__(self, behind: Behind, idle: float) -> None:
        from aiohttp import web

        self._behind = behind
        server = web.Server(self._serve, access_log=None, keepalive_timeout=idle)
        self._inner = server()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = transport
        self._behind.connections.add(self)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client went."""
        self._behind.connections.discard(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._inner.data_received(data)

    def eof_received(self) -> None:
        """The client sends no more."""
        self._inner.eof_received()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._inner.resume_writing()

    def close(self) -> None:
        """Close after what is being answered."""
        self._inner.close()
        if self._transport is not None and self._inner._current_request is None:
            self._transport.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        transport: Any = request.transport
        asked = HttpRequest(
            request.method, request.raw_path if hasattr(request, "raw_path") else str(request.rel_url),
            peer(transport and transport.get_extra_info("peername")),
            peer(transport and transport.get_extra_info("sockname")),
        )  # fmt: skip
        while len(asked.body) <= MOST and (piece := await request.content.readany()):
            asked.body += piece
        found = await answer(self._behind, asked)
        return web.Response(status=found.status, headers=found.headers, body=found.body)
