"""UDP in Python: batches by recvmmsg and sendmmsg, answers looked up by the octets of the question.

One pair of system calls moves up to BATCH messages; Python touches each message with one slice,
one dict look-up and one copy.

While questions come fast the loop naps between two batches, as the compiled one does: a nap is
cheaper than to be woken for a few messages each time.

The headers are laid out by hand in one buffer each because ctypes' field access would cost more
than the look-up. The layout is that of 64-bit Linux.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
import time

from kubewire.dns.dispatch import Dispatcher, monotonic
from kubewire.dns.transport.datagrams import CONTROL, NAME, Datagrams

BATCH = 64
ROUNDS = 8
"""Batches before other work of the event loop gets its turn."""
SIZE = 4096
BUSY, BUSY_WITHIN = 64, 1.3e-3
"""So many messages within so many seconds make a busy time."""
NAP = 80e-6
"""Seconds between two batches in a busy time; the kernel adds some 50 microseconds."""
_HEADER = struct.Struct("@PI4xPnPni4xI4x")

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]


def _address_of(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class Pace:
    """Whether messages come so fast that waiting for more of them pays."""

    def __init__(self) -> None:
        self.busy = False
        self._since = self._last = 0.0
        self._count = 0

    def keep(self, count: int, now: float) -> bool:
        """So many messages came; gives ``busy``."""
        if now - self._last > BUSY_WITHIN:
            self.busy, self._since, self._count = False, now, 0
        self._last = now
        self._count += count
        if self._count >= BUSY:
            self.busy = now - self._since < BUSY_WITHIN * self._count / BUSY
            self._since, self._count = now, 0
        return self.busy


class UdpListener(Datagrams):
    """One UDP socket and its buffers."""

    def __init__(self, sock: socket.socket, dispatcher: Dispatcher) -> None:
        super().__init__(sock, dispatcher)
        self._in = bytearray(BATCH * SIZE)
        self._out = bytearray(BATCH * SIZE)
        self._names = bytearray(BATCH * NAME)
        self._controls = bytearray(BATCH * CONTROL)
        self._in_iov, self._out_iov = self._iovec(self._in), self._iovec(self._out)
        self._recv, self._send = self._headers(self._in_iov), self._headers(self._out_iov)
        self._recv_at, self._send_at = _address_of(self._recv), _address_of(self._send)
        self._pace = Pace()
        self._lengths = memoryview(self._recv).cast("I")
        self._sizes = memoryview(self._out_iov).cast("Q")

    def _iovec(self, buffer: bytearray) -> bytearray:
        start = _address_of(buffer)
        return bytearray(b"".join(struct.pack("@Pn", start + i * SIZE, SIZE) for i in range(BATCH)))

    def _headers(self, iov: bytearray) -> bytearray:
        names, controls, vectors = map(_address_of, (self._names, self._controls, iov))
        return bytearray(
            b"".join(
                _HEADER.pack(
                    names + i * NAME, self.name_size, vectors + i * 16, 1,
                    controls + i * CONTROL, self.control_size, 0, 0,
                )
                for i in range(BATCH)
            )
        )  # fmt: skip

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start to answer."""
        loop.add_reader(self.sock.fileno(), self._readable)

    def close(self) -> None:
        """Stop to answer and close the socket."""
        self.closed = True
        asyncio.get_running_loop().remove_reader(self.sock.fileno())
        self.sock.close()

    def _readable(self) -> None:
        descriptor = self.sock.fileno()
        for left in reversed(range(ROUNDS)):
            count = _recvmmsg(descriptor, self._recv_at, BATCH, socket.MSG_DONTWAIT, None)
            if count <= 0:
                return
            now = monotonic()
            self._answer(count, now)
            if self.closed:
                return
            if self._pace.keep(count, now):
                if left and count < BATCH // 2:
                    time.sleep(NAP)
            elif count < BATCH:
                return

    def _answer(self, count: int, now: float) -> None:
        """Answer a batch; answers lie at the index of their question, so gaps part the sends."""
        entries = self.dispatcher.tables["udp"].entries
        lengths, sizes, source, target = self._lengths, self._sizes, self._in, self._out
        first = 0
        for i in range(count):
            start = i * SIZE
            entry = entries.get(bytes(source[start + 2 : start + lengths[i * 16 + 14]]))
            if entry is not None and entry.until > now:
                entry.hits += 1
                answers = entry.answers
                answer = answers[entry.hits % len(answers)]
            else:
                found = self._slow(i)
                if found is None:
                    self._flush(first, i)
                    first = i + 1
                    continue
                answer = found
            size = len(answer)
            target[start : start + size] = answer
            target[start : start + 2] = source[start : start + 2]
            sizes[2 * i + 1] = size
        self._flush(first, count)

    def _slow(self, i: int) -> bytes | None:
        start = i * SIZE
        data = bytes(self._in[start : start + self._lengths[i * 16 + 14]])
        if len(data) < 12:
            return None
        if kept := self.dispatcher.shortcuts.answer(data, self.family):
            return self.dispatcher.keep(data[2:], kept)
        name = self._names[i * NAME : (i + 1) * NAME]
        back = bytes(name + self._controls[i * CONTROL : (i + 1) * CONTROL])
        found = self.dispatcher.replay(data, self.peers(back)[0]) or self.ask(data, back)
        if not isinstance(found, bytes):
            return None
        if len(found) <= SIZE:
            return found
        self.reply(found, back)
        return None

    def _flush(self, first: int, end: int) -> None:
        descriptor = self.sock.fileno()
        while first < end:
            sent = _sendmmsg(
                descriptor, self._send_at + first * 64, end - first, socket.MSG_DONTWAIT
            )
            if sent < 0:
                if ctypes.get_errno() == errno.EINTR:
                    continue
                # One client that cannot be reached must not hold up the rest of the batch.
                sent = 1
            first += sent
