"""A node (the test's own namespace) with pods that serve and dial, and an Envoy back end."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from kubewire.api.service import EndpointSlice, Service
from kubewire.cni.wiring import Cable, entering, host_interface, pod_mac, wire
from kubewire.kernel import links, netns, routes, sysctl
from kubewire.kernel.routes import Route
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubeproxy.backends.envoy.compile import METRICS
from kubewire.kubeproxy.backends.envoy.proxier import EnvoyProxier
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import Frontend, plan
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.topology import NodeView
from tests.kubeproxy.rows import NODE_IP, PODS

VIEW = NodeView("node-a", (NODE_IP,), "z1")
OUTSIDE = "203.0.113.9"


class World:
    """Pods by address; Services by ``show``."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.config = Config(mode="envoy", cluster_cidrs=PODS, run_dir=str(folder), **config)
        self.proxier = EnvoyProxier(self.config, ["10.96.0.0/16"])
        self.frontends: dict[Any, Frontend] = {}
        self.servers: list[asyncio.Server] = []
        self.broken: set[str] = set()
        """Pods that answer HTTP with 503."""
        self.streams: list[asyncio.StreamWriter] = []
        self.answering: set[asyncio.Task[None]] = set()

    def pod(self, address: str) -> Path:
        """Wire a pod."""
        path = Path("/run/netns") / address.replace(":", "-")
        if path.exists():
            return path
        netns.create(path)
        ip = ip_address(address)
        with RtNetlink() as node, entering(path) as room:
            wire(node, room, Cable(host_interface(address), "eth0", pod_mac([ip]), (ip,)))
        return path

    async def serve(self, address: str, port: int = 8080) -> None:
        """Answer HTTP requests, and other lines with who is there; "" is the node itself."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = netns.socket_in(self.pod(address), family) if address else socket.socket(family)
        made.bind((address, port))
        made.listen(64)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.streams.append(writer)
            task = asyncio.current_task()
            assert task is not None
            self.answering.add(task)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(address or "node", reader, writer)
            writer.close()
            self.answering.remove(task)

        self.servers.append(await asyncio.start_server(answer, sock=made))

    async def _answer(
        self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = writer.get_extra_info("peername")[0]
        while line := await reader.readline():
            if not line.startswith(b"GET "):
                writer.write(f"{address} {peer} ".encode() + line)
                await writer.drain()
                continue
            await reader.readuntil(b"\r\n\r\n")
            status = "503 Broken" if address in self.broken else "200 OK"
            body = f"{address} {peer} {line.split()[1].decode()}".encode()
            writer.write(
                b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status.encode(), len(body))
            )
            if b"slow" in line:
                await writer.drain()
                await reader.read(1)
            writer.write(body)
            await writer.drain()

    def show(self, services: Iterable[Service], slices: Iterable[EndpointSlice]) -> None:
        """Tell the back end: whole at first, then what changed."""
        found = plan(services, slices, VIEW, self.config)
        addresses: dict[Any, tuple[str, ...]] = {s: (ip,) for ip, s in found.cluster_ips.items()}
        if not self.frontends:
            changes = [Change(k, None, f) for k, f in found.frontends.items()]
            self.proxier.sync(changes, addresses)
        else:
            keys = {**self.frontends, **found.frontends}
            changes = [Change(k, self.frontends.get(k), found.frontends.get(k)) for k in keys]
            changes = [c for c in changes if c.old != c.new]
            gone = {c.old.service: () for c in changes if c.old and not c.new}
            self.proxier.apply(changes, {**gone, **addresses})
        self.frontends = dict(found.frontends)

    async def dial(self, source: str, target: str, port: int = 80) -> "Connection":
        """Connect from a pod, from outside, or ("") from a process of the node."""
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        made = netns.socket_in(self.pod(source), family) if source else socket.socket(family)
        made.setblocking(False)
        try:
            await asyncio.wait_for(
                asyncio.get_running_loop().sock_connect(made, (target, port)), 10
            )
        except BaseException:
            made.close()
            raise
        reader, writer = await asyncio.open_connection(sock=made)
        self.streams.append(writer)
        return Connection(reader, writer)

    async def metrics(self) -> str:
        """Envoy's text for Prometheus, as a process of the node sees it."""
        reader, writer = await asyncio.open_connection(*METRICS)
        writer.write(b"GET /stats/prometheus HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        self.streams.append(writer)
        found = (await reader.read()).decode()
        writer.close()
        return found

    async def line(self, source: str, target: str, port: int = 80) -> list[str]:
        """[pod, peer] that a new connection meets."""
        connection = await self.dial(source, target, port)
        found = await connection.line()
        connection.close()
        return found[:2]

    async def get(
        self, source: str, target: str, port: int = 80, path: str = "/"
    ) -> tuple[int, list[str]]:
        """Status and [pod, peer, path] of one request on a new connection."""
        connection = await self.dial(source, target, port)
        found = await connection.get(path)
        connection.close()
        return found


class Connection:
    """A client's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def line(self) -> list[str]:
        self.writer.write(b"hello\n")
        return (await asyncio.wait_for(self.reader.readline(), 10)).decode().split()

    async def get(self, path: str = "/") -> tuple[int, list[str]]:
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return await self.answer()

    async def answer(self) -> tuple[int, list[str]]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        fields = dict(x.lower().split(b": ", 1) for x in head.split(b"\r\n")[1:] if b": " in x)
        body = await asyncio.wait_for(self.reader.readexactly(int(fields[b"content-length"])), 10)
        return int(head.split()[1]), body.decode().split()

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def world(folder: Path, **config: Any) -> AsyncIterator[World]:
    """A node with an underlay, and an outside world that is behind it."""
    sysctl.write("net.ipv4.ip_forward", 1)
    sysctl.write("net.ipv6.conf.all.forwarding", 1)
    with RtNetlink() as node:
        node.transact([links.add_veth("eth0", "eth0peer")])
        index = node.index("eth0")
        up = [links.set_link("eth0", up=True), links.set_link("eth0peer", up=True)]
        address = routes.put_address(index, ip_interface(f"{NODE_IP}/24"))
        # Where Services are does not matter, but a socket of the node needs some route.
        way = Route(ip_network("0.0.0.0/0"), index, ip_address("192.0.2.254"), onlink=True)
        node.transact([*up, address, routes.put_route(way)])
    made = World(folder / "envoy", **{"node_port_addresses": ("primary", "localhost")} | config)
    try:
        yield made
    finally:
        for server in made.servers:
            server.close()
        for stream in made.streams:
            stream.transport.abort()
        await asyncio.gather(*made.answering)
        for stream in made.streams:
            with contextlib.suppress(OSError):
                await stream.wait_closed()
        made.proxier.clear()
        made.proxier.close()
