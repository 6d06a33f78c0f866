"""What a ClusterIP costs a packet: pod -> ClusterIP beside pod -> pod, through the same node.

10,000 other Services are in the table. Both ways are measured in turns, round by round, who is first
changes, so that the machine's other work falls on both alike; the ratio is the rounds' median.
"""

import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.kubeproxy.network import Network
from tests.kubeproxy.rows import service, slice_

from kubewire.kernel.netns import socket_in
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import plan
from kubewire.kubeproxy.proxier import Proxier
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.topology import NodeView

CLIENT, SERVER, VIP = "10.244.0.9", "10.244.0.1", "10.96.200.1"
ROUNDS, CONNECTIONS, BYTES = 31, 30, 16 << 20
"""Connections that nobody accepts wait in the listener's queue: those of all rounds have to fit."""
DIRECT, BY_SERVICE = (SERVER, 8080), (VIP, 80)


def traffic() -> list[dict[str, Any]]:
    network = prepared()
    load(Config(cluster_cidrs=("10.244.0.0/16",)))
    return [
        _compared("first packet there and back, UDP", lambda to: _first(network, to), "us", 1.15),
        _compared("connect, one after another", lambda to: _connect(network, to), "us", 1 / 0.9),
        _compared("16 MiB through one connection", lambda to: _bulk(network, to), "us", 1 / 0.97),
    ]


def through_a_proxy(network: Network) -> list[dict[str, Any]]:
    """Where something accepts before the endpoint does, only an answer counts; there is no limit."""
    return [
        _compared("connect and be answered", lambda to: _exchange(network, to), "us", None),
        _compared("16 MiB through one connection", lambda to: _bulk(network, to), "us", None),
    ]


def prepared() -> Network:
    """A client's pod, and one that serves."""
    network = Network()
    for ip in (CLIENT, SERVER):
        network.pod(ip)
    listener = network.listener(SERVER, 8080)
    network.listener(SERVER, 8082)
    echo = network.datagrams(SERVER, 8081)
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    threading.Thread(target=_echo, args=(echo,), daemon=True).start()
    return network


def load(config: Config) -> Proxier:
    """The Service that is measured among 10,000 others."""
    others = [service(f"o{i}", f"10.97.{i >> 8}.{i & 255}") for i in range(10_000)]
    slices = [slice_(f"10.244.{i & 127}.{i >> 7 & 127}@node-b", of=f"o{i}") for i in range(10_000)]
    ports = [
        {"name": "p", "port": 80},
        {"name": "c", "port": 81},
        {"name": "u", "port": 80, "protocol": "UDP"},
    ]
    idle = [{"name": "c", "port": 8082}]
    udp = [{"name": "u", "port": 8081, "protocol": "UDP"}]
    own = service("s", VIP, ports=ports)
    ends = [
        slice_(f"{SERVER}@node-a"),
        slice_(f"{SERVER}@node-a", ports=udp, name="u"),
        slice_(f"{SERVER}@node-a", ports=idle, name="c"),
    ]
    node = NodeView("node-a", ("192.0.2.1",))
    found = plan([*others, own], [*slices, *ends], node, config)
    changes = [Change(key, None, frontend) for key, frontend in found.frontends.items()]
    proxier = backends.proxier(config)
    proxier.sync(changes, found.addresses)
    return proxier


def _compared(
    name: str, measure: Callable[[tuple[str, int]], float], unit: str, limit: float | None
) -> dict[str, Any]:
    seen: dict[tuple[str, int], list[float]] = {DIRECT: [], BY_SERVICE: []}
    for number in range(ROUNDS):
        for to in (DIRECT, BY_SERVICE) if number % 2 else (BY_SERVICE, DIRECT):
            seen[to].append(measure(to))
    direct, by_service = (statistics.median(seen[to]) * 1e6 for to in (DIRECT, BY_SERVICE))
    ratios = [b / a for a, b in zip(seen[DIRECT], seen[BY_SERVICE], strict=True)]
    least, ratio, most = statistics.quantiles(ratios, n=4)
    return {
        "figure": name,
        f"pod to pod {unit}": round(direct, 1),
        f"by ClusterIP {unit}": round(by_service, 1),
        "ratio": round(ratio, 3),
        "quartiles": [round(least, 3), round(most, 3)],
    } | ({"limit": round(limit, 3)} if limit else {})


def _first(network: Network, to: tuple[str, int]) -> float:
    """From a new port each time: the packet that finds no tracked connection."""
    port = 8081 if to == DIRECT else 80
    spent = []
    for _ in range(CONNECTIONS):
        with network.datagrams(CLIENT) as client:
            before = time.perf_counter()
            client.sendto(b"x", (to[0], port))
            client.recv(1)
            spent.append(time.perf_counter() - before)
    return statistics.median(spent)


def _connect(network: Network, to: tuple[str, int]) -> float:
    """What connections cost the kernel: sockets are made before and aborted after, nobody accepts.

    A thread that accepts would share the cores with the client, and orderly ends would fill the
    connection tracker with TIME_WAIT of both ways: neither is the ClusterIP's.
    """
    kind = (socket.AF_INET, socket.SOCK_STREAM)
    clients = [socket_in(network.pods[CLIENT], *kind) for _ in range(CONNECTIONS)]
    port = 8082 if to == DIRECT else 81
    before = time.perf_counter()
    for client in clients:
        client.connect((to[0], port))
    spent = time.perf_counter() - before
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    return spent / CONNECTIONS


def _exchange(network: Network, to: tuple[str, int]) -> float:
    before = time.perf_counter()
    for _ in range(CONNECTIONS):
        with network.connection(CLIENT, to) as client:
            client.shutdown(socket.SHUT_WR)
            client.recv(1)
    return (time.perf_counter() - before) / CONNECTIONS


def _bulk(network: Network, to: tuple[str, int]) -> float:
    data = bytes(1 << 20)
    with network.connection(CLIENT, to) as client:
        before = time.perf_counter()
        for _ in range(BYTES >> 20):
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        client.recv(1)
        return time.perf_counter() - before


def _serve(listener: socket.socket) -> None:
    listener.settimeout(None)
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=_drain, args=(accepted,), daemon=True).start()


def _drain(accepted: socket.socket) -> None:
    with accepted:
        while accepted.recv(1 << 20):
            pass
        accepted.send(b"x")


def _echo(echo: socket.socket) -> None:
    echo.settimeout(None)
    while True:
        data, peer = echo.recvfrom(9)
        echo.sendto(data, peer)
