"""Packets above 64 KiB pass nodes as they are, and whoever cannot take them gets smaller ones."""

import asyncio
import hashlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest

from cni.lab import Lab, node
from kubewire.cni import masquerade, wiring
from kubewire.cni.bandwidth import EGRESS, INGRESS
from kubewire.cni.network import PodNetwork
from kubewire.cni.wiring import Cable
from kubewire.kernel import netns
from kubewire.kernel.links import Gso
from kubewire.kernel.nfqueue import Queue
from kubewire.kernel.routes import Route

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
    source: Path,
    target: Path,
    address: str,
    most: int = 256,
    enough: threading.Event | None = None,
) -> bool:
    """Whether what is sent from one namespace to an address of another arrives whole."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.socket_in(target, family) as server:
        server.bind((address, 0))
        server.listen()
        client = netns.socket_in(source, family)
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


def refused(lab: Lab, *numbers: int) -> int:
    """IPv6 packets that nodes could not pass on, for they were too big for the next device."""
    total = 0
    for number in numbers:
        with netns.entered(lab.node_path(number)):
            counters = Path("/proc/thread-self/net/snmp6").read_text().split()
        total += int(counters[counters.index("Icmp6OutPktTooBigs") + 1])
    return total


@pytest.mark.parametrize("version", [4, 6])
async def test_nodes_route_packets_above_64_kib(lab: Lab, version: int) -> None:
    gso = lab.netlink(0).link("eth0").gso
    if (gso.v4 if version == 4 else gso.v6) <= 1 << 16:
        pytest.skip(f"this kernel has no such packets of IPv{version}")
    networks, ips = await two_pods(lab)
    direct(lab)
    address, pods = ips[0 if version == 4 else 1], (lab.pods["a"], lab.pods["b"])
    # Between pods, and from what runs on another node.
    for source in (pods[0], lab.node_path(0)):
        for path in (lab.node_path(0), lab.node_path(1), pods[1]):
            with captured(path) as seen:
                assert await streamed(source, pods[1], address, enough=seen.big)
            assert seen.big.is_set(), (source, path, max(seen.lengths))
    assert refused(lab, 0, 1) == 0
    await close(networks)


async def test_who_is_outside_gets_them_in_pieces(lab: Lab) -> None:
    """By a router and a link that have no large packets, to one end that is not ours."""
    lab.add_far_node()
    network = lab.network(0)
    await network.add(lab.request("a"))
    with netns.entered(lab.node_path(0)):
        masquerade.cover([ip_network("10.244.0.0/16"), ip_network("fd00::/16")], [])
    for address in ("172.31.0.12", "fd31::12"):
        assert await streamed(lab.pods["a"], lab.node_path(2), address, 32)
    assert refused(lab, 0, 1, 2) == 0
    await network.close()


def test_pods_leave_room_for_the_header_of_a_long_packet() -> None:
    """In their IPv6 routes only, and only where it can be that there is one."""
    default, other = ip_network("::/0"), ip_network("2001:db8::/32")

    def ways(mtu: int, gso: Gso, *own: Route, version: int = 6) -> list[Route]:
        return wiring.ways(Cable("kc0", "eth0", "", (), mtu, gso, routes=own), version)

    big = Gso(196_608, 196_608)
    assert ways(1500, big) == [Route(default, mtu=1492)]
    assert ways(1500, big, version=4) == [Route(ip_network("0.0.0.0/0"))]
    assert ways(1500, Gso(196_608, 65_536)) == ways(1280, big) == ways(0, big) == [Route(default)]
    own = (Route(default, mtu=1400), Route(other, mtu=9000))
    assert ways(1500, big, *own) == [Route(default, mtu=1400), Route(other, mtu=1492)]


async def test_a_tunnel_gets_smaller_ones(lab: Lab) -> None:
    """Pods that were connected for plain routes, when the nodes' agents go another way."""
    networks, ips = await two_pods(lab)
    direct(lab, "vxlan")
    for address, pieces in zip(ips, (8, 1), strict=True):
        # That of IPv6 is slow: TCP learns the MTU of the tunnel, and not to leave room for a header.
        assert await streamed(lab.pods["a"], lab.pods["b"], address, pieces)
    await close(networks)


@pytest.mark.tool("iptables-nft", "nsenter")
@pytest.mark.parametrize("version", [4, 6])
async def test_a_program_that_judges_packets_gets_smaller_ones(lab: Lab, version: int) -> None:
    networks, ips = await two_pods(lab)
    direct(lab)
    program, address = (("iptables-nft", ips[0]), ("ip6tables-nft", ips[1]))[version == 6]
    rule = ["-A", "FORWARD", "-p", "tcp", "-j", "NFQUEUE", "--queue-num", "9"]
    subprocess.run(["nsenter", f"--net={lab.node_path(1)}", program, *rule], check=True)
    lengths = []

    async def judge() -> None:
        async for held in queue.packets():
            lengths.append(len(held.payload))
            held.release()

    with Queue(9, lab.node_path(1)) as queue:
        task = asyncio.create_task(judge())
        assert await streamed(lab.pods["a"], lab.pods["b"], address, 4)
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
    for address in there.ips:
        assert await streamed(lab.pods["a"], lab.pods["b"], address, 4)
    await network.close()
