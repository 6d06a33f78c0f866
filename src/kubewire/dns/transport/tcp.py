"""TCP and DNS over TLS: length-prefixed messages, pipelined, answered as they become ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from kubewire.dns.dispatch import Answer, Peer, monotonic
from kubewire.dns.transport.asking import NOWHERE, Behind, peer

FIRST = 3.0
"""Seconds for the first message."""
IDLE = 10.0
"""Seconds for every other one: a sender that dribbles does not win time by it."""
WRITE = 5.0
"""Seconds that a client may leave its answers unread."""
IN_FLIGHT = 128
"""Questions of one connection that may wait at a time; more are read later."""


class TcpConnection(asyncio.Protocol):
    """One connection; answers may leave in another order than their questions came (RFC 7766)."""

    def __init__(
        self,
        behind: Behind,
        *,
        first: float = FIRST,
        idle: float = IDLE,
        write: float = WRITE,
        max_queries: int = 0,
    ) -> None:
        self._behind = behind
        self._first, self._idle, self._write_time = first, idle, write
        self._left = max_queries or -1
        self._buffer = bytearray()
        self._waiting: set[asyncio.Task[None]] = set()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        """Runs while the client reads more slowly than it asks."""
        self._client: Peer = NOWHERE
        self._local: Peer = NOWHERE
        self._closing = False
        self._ended = False
        """The client sends no more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._client = peer(transport.get_extra_info("peername"))
        self._local = peer(transport.get_extra_info("sockname"))
        self._behind.connections.add(self)
        self._patience(self._first)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went."""
        self._behind.connections.discard(self)
        for timer in (self._timer, self._unread):
            if timer:
                timer.cancel()
        for task in self._waiting:
            task.cancel()

    def pause_writing(self) -> None:
        """The client does not read its answers: take no more questions of it."""
        assert self._transport is not None
        self._unread = asyncio.get_running_loop().call_later(
            self._write_time, self._transport.abort
        )
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._unread:
            self._unread.cancel()
        self._unread = None
        self._go_on()

    def data_received(self, data: bytes) -> None:
        """Take every complete message out of the stream."""
        self._buffer += data
        self._take()

    def _take(self) -> None:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2 and not self._closing and not self._stalled:
            end = at + 2 + int.from_bytes(buffer[at : at + 2], "big")
            if len(buffer) < end:
                break
            self._one(bytes(buffer[at + 2 : end]))
            at = end
        if at:
            del buffer[:at]
            self._patience(self._idle)

    def eof_received(self) -> bool:
        """The client has asked its last question: answer what is still open, then close."""
        self._ended = True
        return bool(self._waiting) or self._stalled

    def close(self) -> None:
        """Finish what is being answered, take nothing new."""
        self._closing = True
        if not self._waiting and self._transport:
            self._transport.close()

    def _one(self, data: bytes) -> None:
        if len(data) < 12:
            self.close()
            return
        dispatcher = self._behind.dispatcher
        entry = dispatcher.tables["tcp"].entries.get(data[2:])
        if entry is not None and entry.until > monotonic():
            entry.hits += 1
            self._write(data[:2] + entry.answers[entry.hits % len(entry.answers)][2:])
        else:
            found = dispatcher.receive(data, self._client, self._local, "tcp")
            if found is None or isinstance(found, bytes | list):
                self._write(found)
            else:
                self._wait(found)
        self._left -= 1
        if self._left == 0:
            self.close()

    def _wait(self, found: Awaitable[Answer]) -> None:
        task = asyncio.get_running_loop().create_task(self._later(found), name="dns answer")
        self._waiting.add(task)
        task.add_done_callback(self._done)
        if self._stalled and self._transport:
            self._transport.pause_reading()

    async def _later(self, found: Awaitable[Answer]) -> None:
        self._write(await found)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._waiting.discard(task)
        self._go_on()

    def _go_on(self) -> None:
        """Read on if questions and answers flow; close if there is nothing left to do."""
        if self._transport is None or self._transport.is_closing() or self._stalled:
            return
        self._take()
        if (self._closing or self._ended) and not self._waiting and not self._stalled:
            self._transport.close()
        elif not self._stalled:
            self._transport.resume_reading()

    @property
    def _stalled(self) -> bool:
        return self._unread is not None or len(self._waiting) >= IN_FLIGHT

    def _write(self, answer: Answer) -> None:
        if answer is None or self._transport is None or self._transport.is_closing():
            return
        messages = [answer] if isinstance(answer, bytes) else answer
        self._transport.write(b"".join(len(m).to_bytes(2, "big") + m for m in messages))

    def _patience(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._bored)

    def _bored(self) -> None:
        if self._waiting:
            self._patience(self._idle)
        elif self._transport:
            self._transport.close()
