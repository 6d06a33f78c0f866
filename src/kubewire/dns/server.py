"""The running server: sockets, plugins' lives, reload without losing a query.

A reload starts the new plugins while the old ones answer, then swaps the dispatchers behind the
sockets. Sockets that both Corefiles want are never closed, so nothing in their queues is lost; a
new Corefile that cannot be read, started or bound leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from kubewire.dns import native
from kubewire.dns.config import Block, Configuration, Listener
from kubewire.dns.dispatch import Dispatcher
from kubewire.dns.plugin import Plugin
from kubewire.dns.transport.compiled import CompiledListener
from kubewire.dns.transport.datagrams import Datagrams
from kubewire.dns.transport.tcp import FIRST, IDLE, TcpConnection
from kubewire.dns.transport.udp import UdpListener

log = logging.getLogger(__name__)


@dataclass
class Endpoint:
    """The sockets of one listen address; the dispatcher behind them may be replaced."""

    listener: Listener
    dispatcher: Dispatcher
    udp: list[Datagrams] = field(default_factory=list)
    tcp: asyncio.Server | None = None
    connections: set[TcpConnection] = field(default_factory=set)

    def swap(self, dispatcher: Dispatcher) -> None:
        """Answer from now on by another configuration."""
        self.dispatcher = dispatcher
        for udp in self.udp:
            udp.swap(dispatcher)
        for connection in self.connections:
            connection.dispatcher = dispatcher

    async def close(self) -> None:
        """Take no more questions, finish those that came."""
        if self.tcp is not None:
            self.tcp.close()
        for connection in tuple(self.connections):
            connection.close()
        for udp in self.udp:
            await udp.drain()
            udp.close()


class Server:
    """Everything that one process serves."""

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self.configuration: Configuration | None = None
        self._endpoints: dict[Listener, Endpoint] = {}
        self._say = say
        self._changing = asyncio.Lock()

    @property
    def addresses(self) -> list[tuple[str, str, int]]:
        """(scheme, host, port) of every open listener; the port is the real one."""
        found = []
        for listener, endpoint in self._endpoints.items():
            sock = endpoint.udp[0].sock if endpoint.udp else None
            if sock is None and endpoint.tcp is not None:
                sock = endpoint.tcp.sockets[0]
            port = sock.getsockname()[1] if sock is not None else listener.port
            found.append((listener.scheme, listener.host, port))
        return found

    async def load(self, configuration: Configuration) -> None:
        """Start with a configuration, or change over to it. On an error nothing has changed."""
        async with self._changing:
            await self._load(configuration)

    async def _load(self, configuration: Configuration) -> None:
        started: list[Plugin] = []
        opened: list[Endpoint] = []
        dispatchers = {
            at: Dispatcher(at, blocks, native.new_table())
            for at, blocks in configuration.listeners().items()
        }
        try:
            async with asyncio.TaskGroup() as group:
                for plugin in configuration.plugins:
                    started.append(plugin)
                    group.create_task(plugin.start(), name=f"start {plugin.name}")
            for at, dispatcher in dispatchers.items():
                if at not in self._endpoints:
                    opened.append(await _open(at, dispatcher))
        except BaseException as error:
            for endpoint in opened:
                await endpoint.close()
            await _stop(started, final=False)
            if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                raise error.exceptions[0] from error
            raise
        before, self.configuration = self.configuration, configuration
        for at, dispatcher in dispatchers.items():
            if at in self._endpoints:
                self._endpoints[at].swap(dispatcher)
        for at in [at for at in self._endpoints if at not in dispatchers]:
            await self._endpoints.pop(at).close()
        self._endpoints |= {e.listener: e for e in opened}
        if before is not None:
            await _stop(before.plugins, final=False)
        for plugin in configuration.plugins:
            await plugin.started()
        self._announce(configuration)

    def _announce(self, configuration: Configuration) -> None:
        for block in configuration.blocks:
            for address in block.addresses:
                prefix = "" if address.scheme == "dns" else f"{address.scheme}://"
                for host in block.hosts or [""]:
                    on = f" on {host}" if host else ""
                    self._say(f"{prefix}{address.zone}:{address.port}{on}")

    async def stop(self) -> None:
        """Let plugins say goodbye while still answering, then close."""
        async with self._changing:
            if self.configuration is not None:
                await _stop(self.configuration.plugins, final=True)
            for endpoint in self._endpoints.values():
                await endpoint.close()
            self._endpoints.clear()


async def _stop(plugins: list[Plugin], *, final: bool) -> None:
    results = await asyncio.gather(*(p.stop(final=final) for p in plugins), return_exceptions=True)
    for plugin, result in zip(plugins, results, strict=True):
        if isinstance(result, BaseException):
            log.error("plugin/%s: %s", plugin.name, result)


async def _open(at: Listener, dispatcher: Dispatcher) -> Endpoint:
    endpoint = Endpoint(at, dispatcher)
    block = dispatcher.blocks[0]
    if at.scheme not in ("dns", "tls"):
        raise OSError(f"{at}: this kind of listener is not offered")
    loop = asyncio.get_running_loop()
    try:
        stream = _bind(at, socket.SOCK_STREAM)
        secure = block.tls if at.scheme == "tls" else None
        if at.scheme == "tls" and secure is None:
            raise OSError(f"{at}: the tls plugin is missing in the server block")
        endpoint.tcp = await loop.create_server(
            lambda: _connection(endpoint, block), sock=stream, ssl=secure
        )
        if at.scheme == "dns":
            # Port 0 is used by tests: both transports must get the same one.
            free = at._replace(port=stream.getsockname()[1])
            for _ in range(max(1, block.sockets)):
                udp = _datagrams(_bind(free, socket.SOCK_DGRAM), dispatcher)
                udp.open(loop)
                endpoint.udp.append(udp)
    except OSError:
        await endpoint.close()
        raise
    return endpoint


def _datagrams(sock: socket.socket, dispatcher: Dispatcher) -> Datagrams:
    lib = native.library()
    return CompiledListener(sock, dispatcher, lib) if lib else UdpListener(sock, dispatcher)


def _connection(endpoint: Endpoint, block: Block) -> TcpConnection:
    return TcpConnection(
        endpoint.dispatcher,
        endpoint.connections,
        proto="tls" if endpoint.listener.scheme == "tls" else "tcp",
        first=block.timeouts.get("read", FIRST),
        idle=block.timeouts.get("idle", IDLE),
        max_queries=block.max_tcp_queries,
    )


def _bind(at: Listener, kind: socket.SocketKind) -> socket.socket:
    """A bound socket; every address means both families where the kernel has both."""
    families = [socket.AF_INET6, socket.AF_INET] if not at.host else [_family(at.host)]
    for family in families:
        try:
            sock = socket.socket(family, kind)
        except OSError:
            if family is families[-1]:
                raise
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if at.host else 0)
            if kind == socket.SOCK_DGRAM:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind(_sockaddr(at))
        except OSError:
            sock.close()
            if family is families[-1]:
                raise
            continue
        if kind == socket.SOCK_STREAM:
            sock.listen(1024)
        sock.setblocking(False)
        return sock
    raise OSError(f"{at}: no address family")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _sockaddr(at: Listener) -> tuple[str, int] | tuple[str, int, int, int]:
    host, _, scope = at.host.partition("%")
    if scope:
        return host, at.port, 0, socket.if_nametoindex(scope)
    return host, at.port
