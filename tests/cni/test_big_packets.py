"""IPv4 packets above 64 KiB pass nodes as they are, and whoever cannot take them gets smaller ones."""

import asyncio
import hashlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cni.lab import Lab, node
from kubewire.cni.bandwidth import EGRESS, INGRESS
from kubewire.cni.network import PodNetwork
from kubewire.kernel import netns
from kubewire.kernel.nfqueue import Queue

pytestmark = pytest.mark.kernel

PIECE = bytes(range(256)) * 4096
_ETH_P_ALL = 3


@dataclass
class Seen:
    """Lengths of the packets of a namespace, as a program sees them that captures."""

    lengths: list[int] = field(default_factory=list)
    big: threading.Event = field(default_factory=threading.Event)


@contextmanager
def captured(path: Path) -> Iterator[Seen]:
    seen = Seen()
    with netns.socket_in(path, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as taken:  # fmt: skip
        taken.settimeout(0.05)
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                try:
                    seen.lengths.append(taken.recv_into(bytearray(1), 1, socket.MSG_TRUNC))
                except TimeoutError:
                    continue
                if seen.lengths[-1] > 1 << 16:
                    seen.big.set()

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield seen
        finally:
            done.set()
            thread.join()


def _send(connection: socket.socket, most: int, enough: threading.Event) -> str:
    """Send until enough is seen, ``most`` pieces at most; what was sent, as a digest."""
    digest = hashlib.sha256()
    with connection:
        for _ in range(most):
            connection.sendall(PIECE)
            digest.update(PIECE)
            if enough.is_set():
                break
    return digest.hexdigest()


def _receive(connection: socket.socket) -> str:
    digest = hashlib.sha256()
    with connection:
        while data := connection.recv(1 << 20):
            digest.update(data)
    return digest.hexdigest()


async def streamed(
    lab: Lab, address: str, most: int = 256, enough: threading.Event | None = None
) -> bool:
    """Whether what pod a sends to an address of pod b arrives whole."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.socket_in(lab.pods["b"], family) as server:
        server.bind((address, 0))
        server.listen()
        client = netns.socket_in(lab.pods["a"], family)
        # Somebody in this event loop may have to let the packets pass.
        await asyncio.to_thread(client.connect, server.getsockname()[:2])
        accepted, _ = server.accept()
    sent, received = await asyncio.gather(
        asyncio.to_thread(_send, client, most, enough or threading.Event()),
        asyncio.to_thread(_receive, accepted),
    )
    return sent == received


async def two_pods(lab: Lab, **options: object) -> tuple[list[PodNetwork], tuple[str, ...]]:
    """Pod a on the first node and pod b on the second; b's addresses."""
    networks = [lab.network(0), lab.network(1)]
    await networks[0].add(lab.request("a"))
    there = await networks[1].add(lab.request("b", **options))
    return networks, there.ips


def direct(lab: Lab, mode: str = "host-gw") -> None:
    for number in (0, 1):
        lab.table(number, mode).apply([node(0), node(1)])


async def close(networks: list[PodNetwork]) -> None:
    for network in networks:
        await network.close()


async def test_nodes_route_packets_above_64_kib(lab: Lab) -> None:
    if not lab.netlink(0).link("eth0").gso:
        pytest.skip("this kernel (before 6.3) has no such packets")
    networks, (v4, v6) = await two_pods(lab)
    direct(lab)
    for address, is_big in ((v4, True), (v6, False)):
        for path in (lab.node_path(0), lab.node_path(1), lab.pods["b"]):
            with captured(path) as seen:
                assert await streamed(lab, address, 256 if is_big else 8, seen.big)
            assert seen.big.is_set() == is_big, (address, path, max(seen.lengths))
    await close(networks)


async def test_a_tunnel_gets_smaller_ones(lab: Lab) -> None:
    """Pods that were connected for plain routes, when the nodes' agents go another way."""
    networks, (v4, _) = await two_pods(lab)
    direct(lab, "vxlan")
    assert await streamed(lab, v4, 8)
    await close(networks)


@pytest.mark.tool("iptables-nft", "nsenter")
async def test_a_program_that_judges_packets_gets_smaller_ones(lab: Lab) -> None:
    networks, (v4, _) = await two_pods(lab)
    direct(lab)
    rule = ["-A", "FORWARD", "-p", "tcp", "-j", "NFQUEUE", "--queue-num", "9"]
    subprocess.run(["nsenter", f"--net={lab.node_path(1)}", "iptables-nft", *rule], check=True)
    lengths = []

    async def judge() -> None:
        async for held in queue.packets():
            lengths.append(len(held.payload))
            held.release()

    with Queue(9, lab.node_path(1)) as queue:
        task = asyncio.create_task(judge())
        assert await streamed(lab, v4, 4)
        task.cancel()
    assert 500 < max(lengths) <= 1500
    await close(networks)


@pytest.mark.parametrize("annotation", [INGRESS, EGRESS])
async def test_a_limit_of_bandwidth_cuts_them(lab: Lab, annotation: str) -> None:
    """The least burst of a limit is less than such a packet has."""
    network = lab.network(0)
    limit = {annotation: "80M"}
    await network.add(lab.request("a", annotations=limit if annotation == EGRESS else {}))
    there = await network.add(lab.request("b", annotations=limit if annotation == INGRESS else {}))
    assert await streamed(lab, there.ips[0], 4)
    await network.close()
