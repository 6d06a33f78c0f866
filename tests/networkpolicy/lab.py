"""The fixture of the table as real namespaces: two nodes, nine pods, servers on every port.

One thread drives servers and clients. Flows are tried all at once; a denied one is known as soon
as everything that was expected has arrived and nothing more comes.
"""

import contextlib
import select
import socket
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_interface, ip_network
from itertools import count
from pathlib import Path

from kubewire.cni.wiring import Cable, entering, host_interface, pod_mac, wire
from kubewire.kernel import links, netns, routes, sysctl
from kubewire.kernel.routes import Route
from kubewire.kernel.rtnetlink import RtNetlink
from networkpolicy.fixture import ALL, PORTS, F, P

NODES = ("node-0", "node-1")
UNDERLAY = {
    "node-0": ("172.30.0.10/16", "fd00:172:30::10/64"),
    "node-1": ("172.30.0.11/16", "fd00:172:30::11/64"),
}
PATIENCE = 5.0
"""Seconds for what must arrive; it takes milliseconds."""
SILENCE = 0.004
"""Seconds without any event after which nothing more comes: every hop is a function call."""


class Lab:
    """Two nodes and nine pods below a folder; needs to be root of its network namespaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node_paths = {n: folder / n for n in NODES}
        self.pod_paths = {p: folder / f"{p.ns}-{p.name}" for p in ALL}
        for path in (*self.node_paths.values(), *self.pod_paths.values()):
            netns.create(path)
        for path in (*self.node_paths.values(), *self.pod_paths.values()):
            with netns.entered(path):
                for scope in ("all", "default"):
                    sysctl.write(f"net.ipv6.conf.{scope}.accept_dad", 0)
        self._connect_nodes()
        for pod in ALL:
            addresses = (ip_address(pod.ip), ip_address(pod.ip6))
            name = host_interface(str(pod))
            cable = Cable(name, "eth0", pod_mac(addresses), addresses)
            path = self.node_paths[pod.node]
            with RtNetlink(path) as node, entering(self.pod_paths[pod]) as room:
                wire(node, room, cable)
        self.poll = select.epoll()
        self.source_ports = count(10000)
        self._pods: dict[int, P] = {}
        self.servers = [s for p in ALL for port in PORTS for s in self._serve(p, port)]
        self._udp = {s.fileno(): s for s in self.servers if s.type == socket.SOCK_DGRAM}
        self._tcp = {s.fileno(): s for s in self.servers if s.type == socket.SOCK_STREAM}

    def close(self) -> None:
        """Close every server; the namespaces end with the test's sandbox."""
        for server in self.servers:
            server.close()
        self.poll.close()

    def _connect_nodes(self) -> None:
        with (
            netns.opened(self.node_paths["node-1"]) as other,
            RtNetlink(self.node_paths["node-0"]) as node,
        ):
            node.transact([links.add_veth("under", "under", peer_netns=other)])
        for number, name in enumerate(NODES):
            with netns.entered(self.node_paths[name]), RtNetlink() as node:
                index = node.index("under")
                node.transact([links.set_link(index, up=True)])
                node.transact([routes.add_address(index, ip_interface(a)) for a in UNDERLAY[name]])
                for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
                    sysctl.write(key, 1)
                peer = UNDERLAY[NODES[1 - number]]
                blocks = (f"10.244.{1 - number}.0/24", f"fd00:10:244:{1 - number}::/64")
                node.transact(
                    [
                        routes.add_route(Route(ip_network(b), index, ip_interface(via).ip))
                        for b, via in zip(blocks, peer, strict=True)
                    ]
                )

    def _serve(self, pod: P, port: int) -> Iterator[socket.socket]:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            server = self.socket(pod, kind)
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind(("::", port))
            if kind == socket.SOCK_STREAM:
                server.listen(1024)
            self.poll.register(server, select.EPOLLIN)
            self._pods[server.fileno()] = pod
            yield server

    def pod_of(self, server: socket.socket) -> P:
        """Whose server it is."""
        return self._pods[server.fileno()]

    def socket(self, pod: P, kind: int) -> socket.socket:
        """A non-blocking IPv6 socket in a pod."""
        made = netns.socket_in(self.pod_paths[pod], socket.AF_INET6, kind)
        made.setblocking(False)
        return made

    def reach(self, flows: Iterable[F], expected: set[F], version: int = 4) -> set[F]:
        """Try flows, all at once; gives those that got an answer."""
        return _Attempt(self, list(flows), expected, version).run()


class _Attempt:
    """One round of flows."""

    def __init__(self, lab: Lab, flows: list[F], expected: set[F], version: int) -> None:
        self.lab = lab
        self.flows = flows
        self.missing = set(expected)
        self.version = version
        self.answered: set[F] = set()
        self.connecting: dict[int, tuple[socket.socket, F]] = {}
        self.clients: dict[int, socket.socket] = {}
        self.by_pod: dict[P, socket.socket] = {}

    def run(self) -> set[F]:
        """Send, listen, clean up."""
        try:
            for number, flow in enumerate(self.flows):
                self._send(number, flow)
                if number % 64 == 63:
                    self._events(0)
            deadline = time.monotonic() + PATIENCE
            while self.missing and time.monotonic() < deadline:
                self._events(0.05)
            while self._events(SILENCE):
                pass
            return self.answered
        finally:
            for client in (*self.clients.values(), *(c for c, _ in self.connecting.values())):
                client.close()

    def _send(self, number: int, flow: F) -> None:
        address = flow.dst.ip6 if self.version == 6 else f"::ffff:{flow.dst.ip}"
        if flow.protocol == "UDP":
            self._client(flow.src).sendto(number.to_bytes(4, "big"), (address, flow.port))
            return
        client = self.lab.socket(flow.src, socket.SOCK_STREAM)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connecting[client.fileno()] = client, flow
        with contextlib.suppress(BlockingIOError):
            client.connect((address, flow.port))
        self.lab.poll.register(client, select.EPOLLOUT)

    def _client(self, pod: P) -> socket.socket:
        if pod not in self.by_pod:
            client = self.by_pod[pod] = self.lab.socket(pod, socket.SOCK_DGRAM)
            # A port used again would belong to a connection that is still established.
            client.bind(("::", next(self.lab.source_ports)))
            self.clients[client.fileno()] = client
            self.lab.poll.register(client, select.EPOLLIN)
        return self.by_pod[pod]

    def _events(self, timeout: float) -> bool:
        found = self.lab.poll.poll(timeout)
        for number, _ in found:
            if number in self.connecting:
                self._connected(number)
            elif number in self.lab._tcp:
                self._accept(self.lab._tcp[number])
            elif number in self.lab._udp:
                self._echo(self.lab._udp[number])
            elif number in self.clients:
                self._replies(self.clients[number])
        return bool(found)

    def _connected(self, number: int) -> None:
        client, flow = self.connecting.pop(number)
        if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            self._answer(flow)
        self.lab.poll.unregister(client)
        client.close()

    def _answer(self, flow: F) -> None:
        self.answered.add(flow)
        self.missing.discard(flow)

    @staticmethod
    def _accept(server: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                server.accept()[0].close()

    @staticmethod
    def _echo(server: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, peer = server.recvfrom(16)
                server.sendto(data, peer)

    def _replies(self, client: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._answer(self.flows[int.from_bytes(client.recv(16), "big")])
