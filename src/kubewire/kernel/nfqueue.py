"""Packets that the kernel's rules hand to a program, and that wait for its word (NFQUEUE).

The queue is fail-open: when it is full the kernel lets packets go on, and rules with ``bypass`` do so
when nobody listens.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import dataclass

from kubewire.kernel.netlink import Message, NetlinkSocket, attr, attributes
from kubewire.kernel.netns import Netns

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 3 << 8
_PACKET, _VERDICT, _CONFIG = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_COMMAND, _PARAMETERS, _MASK, _FLAGS = 1, 2, 4, 5
_BIND, _COPY_PACKET, _FAIL_OPEN = 1, 2, 1
_PACKET_HEADER, _VERDICT_HEADER, _PAYLOAD = 1, 2, 10
_ACCEPT = 1
_REQUEST = 1


@dataclass(slots=True)
class Held:
    """A packet (from its IP header on) that waits until it is released."""

    payload: bytes
    _queue: "Queue"
    _id: bytes

    def release(self) -> None:
        """Let it go on."""
        self._queue.accept(self._id)


class Queue(NetlinkSocket):
    """One queue of a network namespace."""

    def __init__(self, number: int, netns: Netns | None = None) -> None:
        super().__init__(_NETLINK_NETFILTER, netns)
        self._head = struct.pack(">BBH", socket.AF_UNSPEC, 0, number)
        bits = struct.pack(">I", _FAIL_OPEN)
        self.transact(
            [
                self._config(_COMMAND, struct.pack(">BxH", _BIND, 0)),
                self._config(_PARAMETERS, struct.pack(">IB", 0xFFFF, _COPY_PACKET)),
                Message(
                    _CONFIG, 0, self._head + attr(_FLAGS, bits) + attr(_MASK, bits), "fail open"
                ),
            ]
        )
        self.socket.setblocking(False)

    async def packets(self) -> AsyncGenerator[Held, None]:
        """Every packet from now on; each has to be released."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.fileno(), ready.set)
        try:
            while True:
                await ready.wait()
                ready.clear()
                for held in self._read():
                    yield held
        finally:
            loop.remove_reader(self.fileno())

    def accept(self, identity: bytes) -> None:
        """Let a packet go on."""
        body = self._head + attr(_VERDICT_HEADER, struct.pack(">I", _ACCEPT) + identity)
        with suppress(OSError):
            # A word that is lost is a packet that is lost: who sent it will send it again.
            self.socket.send(struct.pack("=IHHII", 16 + len(body), _VERDICT, _REQUEST, 0, 0) + body)

    def _config(self, kind: int, data: bytes) -> Message:
        return Message(_CONFIG, 0, self._head + attr(kind, data), "bind a queue")

    def _read(self) -> Iterator[Held]:
        while True:
            try:
                messages = self.receive()
            except BlockingIOError:
                return
            except OSError:
                # ENOBUFS: some were lost, the kernel let them pass.
                continue
            for kind, body in messages:
                if kind == _PACKET:
                    found = dict(attributes(body, 4))
                    yield Held(found.get(_PAYLOAD, b""), self, found[_PACKET_HEADER][:4])
