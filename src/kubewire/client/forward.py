"""Pass an HTTP request on to another server, byte for byte where HTTP allows it.

Answers are streamed as they come, so that a watch through a proxy is still a watch. A request to
upgrade (WebSocket, SPDY) gets a connection of its own; from the server's 101 on, bytes are copied
in both directions.
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import ClientConnectorError, ClientError, ClientResponse, ClientSession, hdrs, web
from multidict import CIMultiDict

if TYPE_CHECKING:
    from yarl import URL

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NO_BODY = frozenset({204, 304})
CHUNK = 1 << 16


class Upstream(NamedTuple):
    """Where to send it, and how."""

    session: ClientSession
    url: "URL"
    tls: ssl.SSLContext | bool = True
    headers: Mapping[str, str] = {}
    """Set on the request, whatever the client sent."""
    defaults: Mapping[str, str] = {}
    """Set if the client did not send them."""
    relocate: Callable[[str], str] | None = None
    """Rewrites the Location of a redirect."""
    rewrite_html: Callable[[bytes], bytes] | None = None
    """Rewrites a page, which is then sent in one piece."""
    refusal: Callable[[int, str], Exception] | None = None
    """Makes an exception of an answer of 400 or above, instead of passing it on."""


class UnreachableError(Exception):
    """The other server does not answer."""


async def forward(request: web.BaseRequest, upstream: Upstream) -> web.StreamResponse:
    """Answer a request with what the other server answers."""
    if is_upgrade(request):
        return await _tunnel(request, upstream)
    headers = _headers(request, upstream)
    body = request.content if request.can_read_body else None
    try:
        answer = await upstream.session.request(
            request.method,
            upstream.url,
            headers=headers,
            data=body,
            ssl=upstream.tls,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
    except (ClientError, OSError) as error:
        raise UnreachableError(_why(error)) from error
    async with answer:
        if upstream.refusal is not None and answer.status >= 400:
            raise upstream.refusal(answer.status, await answer.text())
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                response.headers.add(name, value)
        if upstream.relocate is not None and "Location" in response.headers:
            response.headers["Location"] = upstream.relocate(response.headers["Location"])
        if upstream.rewrite_html is not None and answer.content_type == "text/html":
            return await _rewritten(request, answer, response, upstream.rewrite_html)
        if hdrs.CONTENT_LENGTH not in answer.headers and answer.status not in _NO_BODY:
            response.enable_chunked_encoding()
        await response.prepare(request)
        if request.method != "HEAD":
            # The other server's end in mid-answer must reach the client as an end, not as an error.
            with contextlib.suppress(ClientError):
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
        await response.write_eof()
        return response


def _why(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if isinstance(error, ClientConnectorError):
        why = os.strerror(number).lower() if number else str(error)
        return f"dial tcp {error.host}:{error.port}: connect: {why}"
    return str(error) or type(error).__name__


async def _rewritten(
    request: web.BaseRequest,
    answer: ClientResponse,
    response: web.StreamResponse,
    rewrite: Callable[[bytes], bytes],
) -> web.StreamResponse:
    page = await answer.read()
    if "Content-Encoding" not in answer.headers:
        page = rewrite(page)
    response.content_length = len(page)
    await response.prepare(request)
    await response.write_eof(page if request.method != "HEAD" else b"")
    return response


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether the client wants to speak something else than HTTP from here on."""
    tokens = request.headers.get("Connection", "").lower().split(",")
    return "upgrade" in (t.strip() for t in tokens) and "Upgrade" in request.headers


def _headers(request: web.BaseRequest, upstream: Upstream) -> CIMultiDict[str]:
    named = {t.strip().lower() for t in request.headers.get("Connection", "").split(",")}
    out: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.items():
        if name.lower() not in HOP_BY_HOP and name.lower() not in named and name.lower() != "host":
            out.add(name, value)
    for name, value in upstream.defaults.items():
        out.setdefault(name, value)
    out.update(upstream.headers)
    return out


class Hijacked(web.StreamResponse):
    """A response whose bytes are written by somebody else, to the connection itself."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Send no head."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send no end."""
        return

    @property
    def prepared(self) -> bool:
        """The head has gone out long ago."""
        return True


class _Feed:
    """Takes the bytes that the client sends after its request."""

    def __init__(self, writer: asyncio.StreamWriter, client: asyncio.Transport) -> None:
        self._writer = writer
        self._client = client
        self._draining: asyncio.Task[None] | None = None

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._writer.write(data)
        if self._draining is None and self._writer.transport.get_write_buffer_size() > CHUNK:
            self._client.pause_reading()
            self._draining = asyncio.create_task(self._drain())
        return False, b""

    async def _drain(self) -> None:
        """Read on when the other server has taken what it was sent."""
        with contextlib.suppress(OSError):
            await self._writer.drain()
        self._draining = None
        if not self._client.is_closing():
            self._client.resume_reading()

    def feed_eof(self) -> None:
        with contextlib.suppress(OSError):
            if self._writer.can_write_eof():
                self._writer.write_eof()
            else:  # TLS knows no half of a connection.
                self._writer.close()


async def _tunnel(request: web.BaseRequest, upstream: Upstream) -> web.StreamResponse:
    url = upstream.url
    tls = upstream.tls if url.scheme == "https" else None
    assert url.host is not None
    try:
        reader, writer = await asyncio.open_connection(
            url.host, url.port, ssl=tls, server_hostname=url.host if tls else None
        )
    except OSError as error:
        raise UnreachableError(_why(error)) from error
    transport = request.transport
    assert transport is not None
    try:
        body = await request.read()
        writer.write(_request_head(request, upstream, len(body)) + body)
        await writer.drain()
        protocol: Any = request.protocol
        protocol.set_parser(_Feed(writer, transport))
        # The head of the answer is passed on as it is: it is the 101, or a refusal and then the end.
        while chunk := await reader.read(CHUNK):
            if transport.is_closing():
                break
            transport.write(chunk)
            await protocol._drain_helper()
    except OSError:
        transport.abort()
    finally:
        writer.close()
        transport.close()
    response = Hijacked()
    response.force_close()
    return response


def _request_head(request: web.BaseRequest, upstream: Upstream, length: int) -> bytes:
    headers = _headers(request, upstream)
    headers["Connection"] = "Upgrade"
    headers["Upgrade"] = request.headers["Upgrade"]
    headers.popall("Content-Length", None)
    if length or request.method != "GET":
        headers["Content-Length"] = str(length)
    port = upstream.url.port
    lines: Iterable[str] = (
        f"{request.method} {upstream.url.raw_path_qs} HTTP/1.1",
        f"Host: {upstream.url.host}:{port}",
        *(f"{name}: {value}" for name, value in headers.items()),
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
