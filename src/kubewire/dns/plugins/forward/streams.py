"""Connections to one upstream over TCP or TLS, kept for the next question as long as it answers.

One question is on a connection at a time, as CoreDNS does it: servers that answer in order only
would let a slow name hold up the others.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Keeping:
    """How long and how many connections are kept."""

    expire: float = 10.0
    """Seconds without a question."""
    max_age: float = 0.0
    """Seconds since it was opened; 0: any."""
    max_idle: int = 0
    """How many wait at once; 0: any number."""


@dataclass
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    born: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)


class Streams:
    """Asks over connections that it keeps."""

    def __init__(
        self,
        host: str,
        port: int,
        keeping: Keeping,
        *,
        context: ssl.SSLContext | None,
        server_name: str,
        source: tuple[str, int] | None,
        count: Callable[[bool], None],
    ) -> None:
        self._where = (host, port)
        self._keeping = keeping
        self._context = context
        self._server_name = server_name
        self._source = source
        self._count = count
        """Told whether a kept connection was found."""
        self._idle: list[_Connection] = []
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, data: bytes) -> bytes:
        """One message there, one back. OSError or IncompleteReadError if there is none."""
        while (kept := self._take()) is not None:
            try:
                return await self._exchange(kept, data)
            except (OSError, asyncio.IncompleteReadError):
                continue  # The server closed it in the meantime.
        self._count(False)
        reader, writer = await asyncio.open_connection(
            *self._where,
            ssl=self._context,
            local_addr=self._source,
            server_hostname=(self._server_name or self._where[0]) if self._context else None,
        )
        return await self._exchange(_Connection(reader, writer), data)

    def close(self) -> None:
        """Close what is kept."""
        if self._timer is not None:
            self._timer.cancel()
        for kept in self._idle:
            kept.writer.close()
        self._idle.clear()

    async def _exchange(self, connection: _Connection, data: bytes) -> bytes:
        done = False
        try:
            connection.writer.write(struct.pack("!H", len(data)) + data)
            answer = b""
            # Some servers answer twice; what is left of the question before is no answer to this.
            while answer[:2] != data[:2]:
                (length,) = struct.unpack("!H", await connection.reader.readexactly(2))
                answer = await connection.reader.readexactly(length)
            done = True
        finally:
            if not done:
                connection.writer.close()
        self._keep(connection)
        return answer

    def _take(self) -> _Connection | None:
        self._prune()
        if not self._idle:
            return None
        self._count(True)
        return self._idle.pop()

    def _keep(self, connection: _Connection) -> None:
        most = self._keeping.max_idle
        if self._keeping.expire <= 0 or (most and len(self._idle) >= most):
            connection.writer.close()
            return
        connection.used = time.monotonic()
        self._idle.append(connection)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._keeping.expire, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self._prune()
        if self._idle:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._keeping.expire, self._expired)

    def _prune(self) -> None:
        now, keeping = time.monotonic(), self._keeping
        for kept in tuple(self._idle):
            old = keeping.max_age and now - kept.born >= keeping.max_age
            closed = kept.reader.at_eof() or kept.writer.is_closing()
            if old or closed or now - kept.used >= keeping.expire:
                self._idle.remove(kept)
                kept.writer.close()
