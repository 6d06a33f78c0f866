"""Packets flow while the proxy starts again, also where it is killed in the middle: none is lost."""

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kernel.probe import PODS as FROM_PODS
from kubewire.kernel.probe import Probe, Shot
from kubewire.kubeproxy.backends.nftables.proxier import NAMES, NftablesProxier
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import plan
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.topology import NodeView
from tests.kubeproxy.rows import PODS, service, slice_

pytestmark = pytest.mark.kernel

NODE = "192.0.2.1"
CONFIG = Config(cluster_cidrs=PODS)
SHOT = Shot("10.244.200.9", "10.96.0.1", 80, way_in=FROM_PODS)


def changes(count: int) -> list[Change]:
    services = [service(f"s{i}", f"10.96.{i >> 8}.{i & 255}") for i in range(1, count + 1)]
    slices = [
        slice_(*(f"10.244.{i & 127}.{j}@node-a" for j in range(1, 6)), of=f"s{i}")
        for i in range(1, count + 1)
    ]
    found = plan(services, slices, NodeView("node-a", (NODE,)), CONFIG)
    return [Change(key, None, frontend) for key, frontend in found.frontends.items()]


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What many machines allow an ordinary user: a large table needs many batches."""
    original = socket.socket.setsockopt

    def setsockopt(self: socket.socket, level: int, option: int, value: int) -> None:
        if level == socket.SOL_SOCKET and option == 32:
            raise PermissionError
        limited = level == socket.SOL_SOCKET and option == socket.SO_SNDBUF
        original(self, level, option, min(value, 212992) if limited else value)

    monkeypatch.setattr(socket.socket, "setsockopt", setsockopt)


@pytest.fixture
def probe() -> Iterator[Probe]:
    made = Probe((NODE,))
    yield made
    made.close()


def served(probe: Probe) -> bool:
    (seen,) = probe.fire([SHOT])
    return seen.target.startswith("10.244.1.") and seen.source == SHOT.source


def restarting(many: list[Change], go: int) -> None:
    """Starts again and again, until it is killed."""
    while True:
        proxier = NftablesProxier(CONFIG)
        proxier.sync(many, {})
        os.write(go, b".")
        proxier.close()


@pytest.mark.usefixtures("small_buffers")
def test_killed_in_the_middle(probe: Probe) -> None:
    many = changes(800)
    first = NftablesProxier(CONFIG)
    first.sync(many, {})
    first.close()
    for kills in range(4):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
            restarting(many, writing)
        os.close(writing)
        # Each time at another point: after so many packets.
        os.read(reading, 1)
        assert all(served(probe) for _ in range(20 + 37 * kills))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        assert all(served(probe) for _ in range(20))
    last = NftablesProxier(CONFIG)
    last.sync(many, {})
    dump = last.dump()
    assert dump.actual == dump.desired
    with Nfnetlink() as netlink:
        assert len(netlink.tables() & set(NAMES)) == 1
    assert served(probe)
    last.close()


def test_restarting_with_rules_in_place_loses_no_packet(probe: Probe) -> None:
    some = changes(300)
    first = NftablesProxier(CONFIG)
    first.sync(some, {})
    first.close()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        restarting(some, writing)
    os.close(writing)
    restarts = lost = 0
    while restarts < 20:
        lost += not served(probe)
        os.set_blocking(reading, False)
        try:
            restarts += len(os.read(reading, 100))
        except BlockingIOError:
            continue
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    assert lost == 0
