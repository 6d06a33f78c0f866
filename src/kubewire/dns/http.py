"""The few lines of HTTP/1.1 that health, ready and prometheus need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Page = tuple[int, str, bytes]
"""Status, content type, body."""
Handler = Callable[[], Page]

_PHRASES = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


class HttpServer:
    """GET of fixed paths at one address."""

    def __init__(self, host: str, port: int, pages: dict[str, Handler]) -> None:
        self._host, self._port, self._pages = host, port, pages
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; beside an older instance of ourselves during a reload."""
        self._server = await asyncio.start_server(
            self._serve, self._host or None, self._port, reuse_port=True
        )

    async def close(self) -> None:
        """Stop to listen."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
            words = head.split(b"\r\n", 1)[0].split(b" ")
            path = words[1].decode("latin-1").partition("?")[0] if len(words) > 1 else ""
            handler = self._pages.get(path)
            status, kind, body = (
                handler()
                if handler
                else (404, "text/plain; charset=utf-8", b"404 page not found\n")
            )
            writer.write(
                f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {kind}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + (b"" if words[0] == b"HEAD" else body)
            )
            await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        finally:
            writer.close()


def split_address(text: str, default_host: str = "") -> tuple[str, int]:
    """Host and port of ``[host]:port``; no port is any free one. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port or "0").isdecimal() or int(port or 0) > 65535:
        raise ValueError(f"address {text}: missing port in address")
    return host.strip("[]") or default_host, int(port or 0)
