"""An upstream over HTTPS that speaks no HTTP/2: one question at a time on each connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp
from yarl import URL

from kubewire.lang.dns.message import MAX_MESSAGE


class Http1:
    """Connections that aiohttp keeps."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext,
        server_name: str,
        source: tuple[str, int] | None,
        count: Callable[[bool], None],
    ) -> None:
        self._url = URL.build(scheme="https", host=host, port=port)
        self._server_name = server_name
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_create_end.append(_counting(count, kept=False))
        tracing.on_connection_reuseconn.append(_counting(count, kept=True))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, local_addr=source, limit=0),
            trace_configs=[tracing], auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(),
        )  # fmt: skip

    async def ask(self, method: str, path: str, fields: dict[str, str], body: bytes) -> bytes:
        """One request; the body of its answer. Raises ConnectionError."""
        url = self._url.join(URL(path, encoded=True))
        try:
            async with self._session.request(
                method, url, data=body or None, headers=fields, allow_redirects=False,
                server_hostname=self._server_name,
            ) as answer:  # fmt: skip
                if answer.status != 200:
                    raise ConnectionError(f"HTTP status {answer.status}")
                whole = bytearray()
                while len(whole) <= MAX_MESSAGE and (piece := await answer.content.readany()):
                    whole += piece
                return bytes(whole)
        except aiohttp.ClientError as error:
            raise ConnectionError(str(error)) from error

    def close(self) -> asyncio.Task[None]:
        """Hang up."""
        return asyncio.get_running_loop().create_task(self._session.close(), name="close http1")


def _counting(count: Callable[[bool], None], *, kept: bool) -> Callable[..., Any]:
    async def happened(*_: object) -> None:
        count(kept)

    return happened
