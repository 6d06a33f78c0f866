"""The seam between the client and a server: bytes in, bytes or lines out, StatusError otherwise.

Two implementations: ``HttpTransport`` (aiohttp, below) and the in-process fake of
``kubewire.testing.fakeapi``. aiohttp costs 300 ms to import, so only the first request pays.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import msgspec

from kubewire import __version__
from kubewire.api.errors import StatusError
from kubewire.client.credentials import Credentials
from kubewire.client.kubeconfig import Connection

if TYPE_CHECKING:
    from ssl import SSLContext

    from aiohttp import BaseConnector, ClientResponse, ClientSession, ClientTimeout

CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 60.0
IDLE_SECONDS = 330.0
"""A stream without a byte for this long is dead: bookmarks come every minute."""


class Transport(Protocol):
    """What a Client needs to know about the way to the server."""

    async def send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> bytes:
        """One request; the body of a 2xx answer, StatusError for everything else."""

    def stream(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str]
    ) -> AsyncGenerator[list[bytes], None]:
        """GET whose answer is lines without end; yields all complete lines of each read."""

    async def close(self) -> None:
        """Close every connection."""


class HttpTransport:
    """One aiohttp session: TLS context and connections are reused."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._credentials = Credentials(connection)
        self._session: ClientSession | None = None
        self._opening = asyncio.Lock()
        self._base = connection.server
        self._fixed: dict[str, Any] = {}

    async def send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> bytes:
        """Send and read the whole answer; once again after a 401 if credentials can change."""
        async with self._request(method, path, params, body, headers) as response:
            payload: bytes = await response.read()
            if response.status < 300:
                return payload
            if response.status == 401 and self._credentials.refreshable:
                self._credentials.refresh()
            else:
                raise as_status_error(response.status, payload, response.headers)
        async with self._request(method, path, params, body, headers) as response:
            payload = await response.read()
            if response.status < 300:
                return payload
            raise as_status_error(response.status, payload, response.headers)

    async def stream(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str]
    ) -> AsyncGenerator[list[bytes], None]:
        """Yield lines as they come, none at first: the answer has begun; ends when the server ends it."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=IDLE_SECONDS
        )
        async with self._request("GET", path, params, None, headers, timeout=timeout) as response:
            if response.status >= 300:
                raise as_status_error(response.status, await response.read(), response.headers)
            yield []
            rest = b""
            async for chunk in response.content.iter_any():
                head, newline, tail = chunk.rpartition(b"\n")
                if newline:
                    lines = (rest + head).split(b"\n")
                    rest = tail
                    yield [line for line in lines if line]
                else:
                    rest += chunk

    async def close(self) -> None:
        """Close the session."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @contextlib.asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        timeout: "ClientTimeout | None" = None,  # noqa: ASYNC109
    ) -> AsyncIterator["ClientResponse"]:
        import aiohttp

        session = self._session or await self._open()
        wanted = dict(headers)
        try:
            if self._credentials.refreshable:
                wanted["Authorization"] = await asyncio.to_thread(self._credentials.authorization)
            options = self._fixed if timeout is None else self._fixed | {"timeout": timeout}
            async with session.request(
                method,
                self._base + path,
                params=params or None,
                data=body,
                headers=wanted,
                **options,
            ) as response:
                yield response
        except TimeoutError as error:
            raise StatusError(
                "Timeout", f"{method} {self._connection.server}{path}: no answer in time"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            text = f"the connection to the server {self._connection.server} failed: {_why(error)}"
            raise StatusError("ServiceUnavailable", text) from error

    async def _open(self) -> "ClientSession":
        async with self._opening:
            if self._session is None:
                self._session = await self._make()
            return self._session

    def _pin(self, context: "SSLContext | None") -> dict[str, Any]:
        # The certificate is checked against the server's own name even if an address replaces it.
        server = urlsplit(self._connection.server)
        name = self._connection.tls_server_name
        if self._connection.address:
            name = name or server.hostname or ""
            if not self._connection.address.startswith("unix:"):
                self._base = server._replace(netloc=self._connection.address).geturl()
        if context is None:
            return {}
        return {"ssl": context} | ({"server_hostname": name} if name else {})

    async def _make(self) -> "ClientSession":
        import aiohttp

        self._fixed = self._pin(await asyncio.to_thread(self._credentials.tls))
        headers = {"User-Agent": f"kubewire/{__version__}", **self._connection.headers}
        if not self._credentials.refreshable and (value := self._credentials.authorization()):
            headers["Authorization"] = value
        return aiohttp.ClientSession(
            connector=_connector(self._connection.address),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS),
            read_bufsize=1 << 18,
            proxy=self._connection.proxy_url or None,
        )


def _why(error: Exception) -> str:
    """What went wrong, without aiohttp's internals."""
    inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
    return str(getattr(inner, "strerror", None) or inner or error or type(error).__name__)


def as_status_error(code: int, payload: bytes, headers: Mapping[str, str]) -> StatusError:
    """Turn an answer that is not 2xx into a StatusError, whatever its body is."""
    try:
        status = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        error = StatusError.from_wire(status)
    else:
        said = payload[:200].decode(errors="replace").strip()
        error = StatusError(_REASONS.get(code, "InternalError"), said or f"HTTP {code}", code=code)
    if not error.retry_after and (seconds := headers.get("Retry-After", "")).isdigit():
        error.retry_after = int(seconds)
    return error


_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    502: "ServiceUnavailable",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def _connector(address: str) -> "BaseConnector":
    import aiohttp

    # Watches hold a connection each, so the number of connections has no limit here; callers
    # bound their own concurrency.
    if address.startswith("unix:"):
        return aiohttp.UnixConnector(address.removeprefix("unix:"), limit=0)
    return aiohttp.TCPConnector(limit=0, resolver=aiohttp.ThreadedResolver(), keepalive_timeout=60)
