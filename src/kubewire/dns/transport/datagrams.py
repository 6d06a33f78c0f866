"""What every way of serving UDP shares: addresses from raw octets, answers that come later.

The control data that came with a message (the local address) goes back with its answer, so a server
on every address answers from the one that was asked.
"""

from __future__ import annotations

import abc
import asyncio
import functools
import logging
import socket
from collections.abc import Awaitable

from kubewire.dns.dispatch import Answer, Dispatcher, Peer

NAME = 28
"""Octets kept for a sockaddr."""
CONTROL = 40
"""Octets kept for control data: cmsghdr (16) and in6_pktinfo (20) or in_pktinfo (12)."""
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO = 49
_IPV6_PKTINFO = 50

log = logging.getLogger(__name__)


class Datagrams(abc.ABC):
    """One UDP socket; subclasses receive."""

    def __init__(self, sock: socket.socket, dispatcher: Dispatcher) -> None:
        self.sock = sock
        self.dispatcher = dispatcher
        self.v6 = sock.family == socket.AF_INET6
        self.family = 2 if self.v6 else 1
        """As metrics count it: no socket takes messages of both."""
        self.name_size = 28 if self.v6 else 16
        self.control_size = 0
        """Octets of control data that an answer needs; none on a socket that has one address."""
        self.closed = False
        self._bound = dispatcher.listener.host
        if self._bound:
            pass
        elif self.v6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
            self._pktinfo = (socket.IPPROTO_IPV6, _IPV6_PKTINFO)
            self.control_size = 36
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            self._pktinfo = (socket.IPPROTO_IP, _IP_PKTINFO)
            self.control_size = 28
        self._tasks: set[asyncio.Task[None]] = set()

    @abc.abstractmethod
    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start to answer."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop to answer and close the socket."""

    def swap(self, dispatcher: Dispatcher) -> None:
        """Answer from now on by another configuration."""
        self.dispatcher = dispatcher

    async def drain(self) -> None:
        """Let the answers that are being waited for go out."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)

    def ask(self, data: bytes, back: bytes) -> Answer:
        """Answer a message at once, or arrange for it and give None.

        ``back`` is where it came from: NAME octets of sockaddr, CONTROL octets of control data.
        """
        client, local = self.peers(back)
        found = self.dispatcher.receive(data, client, local, "udp")
        if found is None or isinstance(found, bytes | list):
            return found
        task = asyncio.get_running_loop().create_task(self._later(found, back), name="dns answer")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    def reply(self, answer: bytes, back: bytes) -> None:
        """Send one answer back the way its question came."""
        size = self.control_size
        extra = ((*self._pktinfo, back[NAME + 16 : NAME + size]),) if size else ()
        try:
            self.sock.sendmsg((answer,), extra, socket.MSG_DONTWAIT, self._to(back))
        except OSError as error:
            log.debug("answer to %s: %s", self._to(back), error)

    async def _later(self, waited: Awaitable[Answer], back: bytes) -> None:
        answer = await waited
        if isinstance(answer, bytes) and not self.closed:
            self.reply(answer, back)

    def _to(self, name: bytes) -> tuple[str, int] | tuple[str, int, int, int]:
        port = name[2] << 8 | name[3]
        if self.v6:
            scope = int.from_bytes(name[24:28], "little")
            return socket.inet_ntop(socket.AF_INET6, name[8:24]), port, 0, scope
        return socket.inet_ntop(socket.AF_INET, name[4:8]), port

    def peers(self, back: bytes) -> tuple[Peer, Peer]:
        """Client and local address as text, IPv4 ones without their mapping."""
        port = back[2] << 8 | back[3]
        raw = back[8:24] if self.v6 else back[4:8]
        if self._bound:
            local = self._bound
        else:
            local = _text(back[NAME + 16 : NAME + 32] if self.v6 else back[NAME + 24 : NAME + 28])
        return (_text(raw), port), (local, self.dispatcher.listener.port)


@functools.lru_cache(1024)
def _text(raw: bytes) -> str:
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    if raw.startswith(b"\0" * 10 + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)
