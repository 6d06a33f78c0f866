"""Packets flow while the proxy starts again, also where it is killed in the middle: none is lost."""

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kernel.probe import Probe
from kubewire.kubeproxy.backends.nftables.proxier import NAMES, NftablesProxier
from kubewire.kubeproxy.table import Change
from tests.kubeproxy.killed import CONFIG, changes, kill_in_the_middle, served, working
from tests.kubeproxy.rows import NODE_IP

pytestmark = pytest.mark.kernel


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
    with Probe((NODE_IP,)) as made:
        yield made


def synced(state: list[Change]) -> NftablesProxier:
    made = NftablesProxier(CONFIG)
    made.sync(state, {})
    return made


def restarting(many: list[Change], done: Callable[[], None]) -> None:
    """Starts again and again, until it is killed."""
    while True:
        proxier = synced(many)
        done()
        proxier.close()


@pytest.mark.usefixtures("small_buffers")
def test_killed_in_the_middle(probe: Probe) -> None:
    many = changes(800)
    synced(many).close()
    kill_in_the_middle(probe, lambda done: restarting(many, done), 4)
    last = synced(many)
    dump = last.dump()
    assert dump.actual == dump.desired
    with Nfnetlink() as netlink:
        assert len(netlink.tables() & set(NAMES)) == 1
    assert served(probe)
    last.close()


def test_restarting_with_rules_in_place_loses_no_packet(probe: Probe) -> None:
    some = changes(300)
    synced(some).close()
    restarts = lost = 0
    with working(lambda done: restarting(some, done)) as steps:
        os.set_blocking(steps, False)
        while restarts < 20:
            lost += not served(probe)
            try:
                restarts += len(os.read(steps, 100))
            except BlockingIOError:
                continue
    assert lost == 0
