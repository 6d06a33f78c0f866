"""The sockets of one listen address, of whatever scheme, and the dispatcher behind them.

The dispatcher changes on a reload while sockets and connections stay, so everything that answers
looks it up at the moment of a question.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Protocol

from kubewire.dns import native
from kubewire.dns.config import Block, Listener
from kubewire.dns.dispatch import Dispatcher
from kubewire.dns.transport.compiled import CompiledListener
from kubewire.dns.transport.datagrams import Datagrams
from kubewire.dns.transport.tcp import FIRST, IDLE, WRITE, TcpConnection
from kubewire.dns.transport.udp import UdpListener

if TYPE_CHECKING:
    from kubewire.dns.transport.quic import QuicListener

ALPN = {"tls": ("dot",), "https": ("h2", "http/1.1"), "grpc": ("h2",)}
STREAMS = frozenset({"dns", "tls", "https", "grpc"})
DATAGRAMS = frozenset({"quic", "https3"})


class Connection(Protocol):
    """One client's connection."""

    def close(self) -> None:
        """Take no more questions, finish those that came."""


class Endpoint:
    """What listens at one address."""

    def __init__(self, listener: Listener, dispatcher: Dispatcher) -> None:
        self.listener = listener
        self.dispatcher = dispatcher
        self.connections: set[Connection] = set()
        self.udp: list[list[Datagrams]] = []
        """One item for each socket that the configuration asks for: every family has its own."""
        self._stream: asyncio.Server | None = None
        self._quic: QuicListener | None = None

    @property
    def block(self) -> Block:
        """The server block whose settings hold for the sockets: the first one."""
        return self.dispatcher.blocks[0]

    @property
    def port(self) -> int:
        """The real port."""
        udp = [one.sock for group in self.udp for one in group]
        for sock in udp or (self._stream.sockets if self._stream else ()):
            return int(sock.getsockname()[1])
        return self._quic.port if self._quic else self.listener.port

    async def open(self) -> None:
        """Bind and listen. Raises OSError; then nothing is left open."""
        at = self.listener
        if at.scheme in ("tls", *DATAGRAMS) and self.block.tls is None:
            raise OSError(f"{at}: the tls plugin is missing in the server block")
        try:
            if at.scheme in DATAGRAMS:
                await self._open_quic(bind(at, socket.SOCK_DGRAM))
                return
            stream = bind(at, socket.SOCK_STREAM)
            await self._listen(stream)
            if at.scheme == "dns":
                # Port 0 is used by tests: both transports must get the same one.
                self._open_udp(at._replace(port=stream.getsockname()[1]))
        except OSError:
            await self.close()
            raise

    async def swap(self, dispatcher: Dispatcher) -> None:
        """Answer from now on by another configuration."""
        self.dispatcher = dispatcher
        for group in self.udp:
            for udp in group:
                udp.swap(dispatcher)
        if self.udp:
            await self._resize()
        if self._stream is not None and self.listener.scheme != "dns":
            # The new certificate is for new connections; the socket and its queue stay.
            before = self._stream
            await self._listen(before.sockets[0].dup())
            before.close()
        if self._quic is not None:
            self._quic.reconfigure()

    async def close(self) -> None:
        """Take no more questions, finish those that came."""
        if self._stream is not None:
            self._stream.close()
        for connection in tuple(self.connections):
            connection.close()
        await self._keep_udp(0)
        if self._quic is not None:
            self._quic.close()

    async def _listen(self, sock: socket.socket) -> None:
        scheme, tls = self.listener.scheme, self.block.tls
        context = tls.context(ALPN[scheme]) if tls is not None and scheme in ALPN else None
        self._stream = await asyncio.get_running_loop().create_server(
            self._connection, sock=sock, ssl=context
        )

    def _connection(self) -> asyncio.Protocol:
        block = self.block
        idle = block.timeouts.get("idle", IDLE)
        if self.listener.scheme == "https":
            from kubewire.dns.transport.doh import DohConnection

            return DohConnection(self, idle=idle)
        if self.listener.scheme == "grpc":
            from kubewire.dns.transport.grpc import connection

            return connection(self, idle=idle)
        return TcpConnection(
            self, first=block.timeouts.get("read", FIRST), idle=idle,
            write=block.timeouts.get("write", WRITE), max_queries=block.max_tcp_queries,
        )  # fmt: skip

    def _open_udp(self, at: Listener) -> None:
        lib = native.library()
        for _ in range(max(1, self.block.sockets) - len(self.udp)):
            group: list[Datagrams] = []
            self.udp.append(group)
            for sock in bind_datagrams(at):
                udp = (
                    CompiledListener(sock, self.dispatcher, lib)
                    if lib
                    else UdpListener(sock, self.dispatcher)
                )
                group.append(udp)
                udp.open(asyncio.get_running_loop())

    async def _resize(self) -> None:
        """As many UDP sockets as the configuration wants now."""
        await self._keep_udp(max(1, self.block.sockets))
        with contextlib.suppress(OSError):
            self._open_udp(self.listener._replace(port=self.port))

    async def _keep_udp(self, count: int) -> None:
        for group in self.udp[count:]:
            for udp in group:
                await udp.drain()
                udp.close()
        del self.udp[count:]

    async def _open_quic(self, sock: socket.socket) -> None:
        from kubewire.dns.transport.quic import QuicListener

        listener = self._quic = QuicListener(self)
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: listener, sock=sock)


def bind(at: Listener, kind: socket.SocketKind) -> socket.socket:
    """A bound socket; every address means both families where the kernel has both."""
    families = [socket.AF_INET6, socket.AF_INET] if not at.host else [_family(at.host)]
    for family in families:
        try:
            return _bound(at, kind, family, alone=bool(at.host))
        except OSError:
            if family is families[-1]:
                raise
    raise OSError(f"{at}: no address family")


def bind_datagrams(at: Listener) -> list[socket.socket]:
    """Bound sockets, one for each family: an IPv4 client costs less on a socket of its own."""
    if at.host:
        return [bind(at, socket.SOCK_DGRAM)]
    found = [_bound(at, socket.SOCK_DGRAM, socket.AF_INET, alone=True)]
    try:
        found.append(_bound(at, socket.SOCK_DGRAM, socket.AF_INET6, alone=True))
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            found[0].close()
            raise
    return found


def _bound(
    at: Listener, kind: socket.SocketKind, family: socket.AddressFamily, *, alone: bool
) -> socket.socket:
    """A socket of one family, ``alone`` or (IPv6) for the other one, too."""
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(alone))
        if kind == socket.SOCK_DGRAM:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(_sockaddr(at))
    except OSError:
        sock.close()
        raise
    if kind == socket.SOCK_STREAM:
        sock.listen(1024)
    sock.setblocking(False)
    return sock


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _sockaddr(at: Listener) -> tuple[str, int] | tuple[str, int, int, int]:
    host, _, scope = at.host.partition("%")
    if scope:
        return host, at.port, 0, socket.if_nametoindex(scope)
    return host, at.port
