"""UDP with the compiled loop: a thread of the library answers what the table knows.

What it does not know lies aside until this listener takes it, asks the dispatcher and sends the
answer; an eventfd tells when. Questions that were asked before are answered even while the event
loop works on something long.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import socket
import struct

from kubewire.dns.dispatch import Dispatcher
from kubewire.dns.native import NativeTable, cut_key
from kubewire.dns.table import Entry
from kubewire.dns.transport.datagrams import CONTROL, NAME, Datagrams

ASIDE = 1 << 18
"""Octets that the library puts aside at most."""
AT_ONCE = 128
"""Messages before other work of the event loop gets its turn."""
HEAD = 4 + NAME + CONTROL
"""Before each message: its length and where it came from."""
NO_SLOT = 0xFFFFFFFF
"""An answer that is not kept now; those of the chain were kept on the way if they may be."""
_length = struct.Struct("=I").unpack_from
_reply = struct.Struct("=5I").pack


class CompiledListener(Datagrams):
    """One UDP socket and its thread."""

    def __init__(self, sock: socket.socket, dispatcher: Dispatcher, lib: ctypes.CDLL) -> None:
        super().__init__(sock, dispatcher)
        self._lib = lib
        self._buffer = ctypes.create_string_buffer(ASIDE)
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._handle: int | None = None
        self._taken, self._at = b"", 0
        """Messages as ``put_aside`` lays them out, and up to where they are answered."""

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread."""
        # The thread waits inside of the call; what Python sends here does not wait.
        self.sock.setblocking(True)
        self._handle = self._lib.kw_loop_start(
            self.sock.fileno(), self._event, self._table().handle, self.name_size, self.control_size
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
            self._lib.kw_loop_swap(self._handle, self._table().handle)
        del before

    def _table(self) -> NativeTable:
        table = self.dispatcher.tables["udp"]
        assert isinstance(table, NativeTable)
        return table

    def _readable(self) -> None:
        os.eventfd_read(self._event)
        size = self._lib.kw_loop_take(self._handle, self._buffer)
        self._taken, self._at = ctypes.string_at(self._buffer, size), 0
        if not self._work():
            asyncio.get_running_loop().remove_reader(self._event)
            asyncio.get_running_loop().call_soon(self._go_on)

    def _work(self) -> bool:
        """Answer some messages; True when none is left."""
        taken, at = self._taken, self._at
        table = self._table()
        shortcut = self.dispatcher.shortcuts.answer
        replies: list[bytes] = []
        for _ in range(AT_ONCE):
            if at >= len(taken):
                break
            start = at + HEAD
            end = start + _length(taken, at)[0]
            data = taken[start:end]
            if kept := shortcut(data, self.family):
                answer, deps, labels, cut, depth = kept
                own = cut_key(data, cut) if cut else b""
                slot = table.note(own or data[2:], Entry((), math.inf, deps, labels))
                head = _reply(at, len(answer), slot, len(own), depth)
                replies += (head, answer, own)
            elif isinstance(said := self.ask(data, taken[at + 4 : start]), bytes):
                replies += (_reply(at, len(said), NO_SLOT, 0, 0), said)
            at = end
        self._at = at
        if replies:
            packed = b"".join(replies)
            self._lib.kw_loop_answer(self._handle, table.handle, self._buffer, packed, len(packed))
        return at >= len(taken)

    def _go_on(self) -> None:
        if self.closed:
            return
        if self._work():
            asyncio.get_running_loop().add_reader(self._event, self._readable)
        else:
            asyncio.get_running_loop().call_soon(self._go_on)


__all__ = ["CompiledListener"]
