"""UDP with the compiled loop: a thread of the library answers what the table knows.

What it does not know lies aside until this listener takes it, asks the dispatcher and sends the
answer; an eventfd tells when. Questions that were asked before are answered even while the event
loop works on something long.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import socket
from collections.abc import Iterator

from kubewire.dns.dispatch import Dispatcher
from kubewire.dns.native import NativeTable
from kubewire.dns.transport.datagrams import CONTROL, NAME, Datagrams

ASIDE = 1 << 18
"""Octets that the library puts aside at most."""
AT_ONCE = 64
"""Messages before other work of the event loop gets its turn."""


class CompiledListener(Datagrams):
    """One UDP socket and its thread."""

    def __init__(self, sock: socket.socket, dispatcher: Dispatcher, lib: ctypes.CDLL) -> None:
        super().__init__(sock, dispatcher)
        self._lib = lib
        self._buffer = ctypes.create_string_buffer(ASIDE)
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._handle: int | None = None
        self._left: Iterator[tuple[bytes, bytes]] = iter(())

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread."""
        # The thread waits inside of the call; what Python sends here does not wait.
        self.sock.setblocking(True)
        self._handle = self._lib.kw_loop_start(
            self.sock.fileno(), self._event, self._table(), self.name_size, self.control_size
        )
        if not self._handle:
            raise OSError("the thread of a UDP socket cannot be started")
        loop.add_reader(self._event, self._readable)

    def close(self) -> None:
        """End the thread and close the socket."""
        self.closed = True
        asyncio.get_running_loop().remove_reader(self._event)
        if self._handle:
            self._lib.kw_loop_stop(self._handle)
            self._handle = None
        os.close(self._event)
        self.sock.close()

    def swap(self, dispatcher: Dispatcher) -> None:
        """Answer from now on by another configuration."""
        before = self.dispatcher  # keeps its table until the thread has let go of it
        super().swap(dispatcher)
        if self._handle:
            self._lib.kw_loop_swap(self._handle, self._table())
        del before

    def _table(self) -> int:
        table = self.dispatcher.tables["udp"]
        assert isinstance(table, NativeTable)
        return table.handle

    def _readable(self) -> None:
        os.eventfd_read(self._event)
        size = self._lib.kw_loop_take(self._handle, self._buffer)
        self._left = _messages(ctypes.string_at(self._buffer, size))
        if not self._work():
            asyncio.get_running_loop().remove_reader(self._event)
            asyncio.get_running_loop().call_soon(self._go_on)

    def _work(self) -> bool:
        """Answer some messages; True when none is left."""
        count = 0
        ready: list[bytes] = []
        for data, back in itertools.islice(self._left, AT_ONCE):
            count += 1
            answer = self.ask(data, back)
            if isinstance(answer, bytes):
                ready += (len(answer).to_bytes(4, "little"), back, answer)
        if ready:
            packed = b"".join(ready)
            self._lib.kw_loop_send(self._handle, packed, len(packed))
        return count < AT_ONCE

    def _go_on(self) -> None:
        if self.closed:
            return
        if self._work():
            asyncio.get_running_loop().add_reader(self._event, self._readable)
        else:
            asyncio.get_running_loop().call_soon(self._go_on)


def _messages(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Messages and where they came from, as ``put_aside`` lays them out."""
    at = 0
    while at < len(raw):
        start = at + 4 + NAME + CONTROL
        end = start + int.from_bytes(raw[at : at + 4], "little")
        yield raw[start:end], raw[at + 4 : start]
        at = end


__all__ = ["CompiledListener"]
