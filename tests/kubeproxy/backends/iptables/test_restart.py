"""Packets flow while a proxy that rewrites the rules is killed in the middle, and another follows."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from kubewire.kernel.probe import Probe
from kubewire.kubeproxy.backends.iptables.proxier import IptablesProxier
from kubewire.kubeproxy.table import Change
from tests.kubeproxy.backends.nftables.test_restart import CONFIG, NODE, SHOT, changes, served

pytestmark = [pytest.mark.kernel, pytest.mark.tool("iptables-nft", "iptables-legacy")]

CONF = replace(CONFIG, mode="iptables")


@pytest.fixture
def probe() -> Iterator[Probe]:
    made = Probe((NODE,))
    yield made
    made.close()


def synced(variant: str, state: list[Change]) -> IptablesProxier:
    made = IptablesProxier(CONF, variant=variant)
    made.sync(state, {})
    return made


def rewriting(variant: str, states: list[list[Change]], go: int) -> None:
    """Makes many Services and takes most of them away, until it is killed."""
    while True:
        for state in states:
            synced(variant, state).close()
            os.write(go, b".")


def changing(variant: str, states: list[list[Change]], go: int) -> None:
    """The same, by changes."""
    few, many = states
    made = synced(variant, many)
    more = [c for c in many if c not in few]
    less = [Change(c.key, c.new, None) for c in more]
    while True:
        for step in (less, more):
            made.apply(step, {})
            os.write(go, b".")


@pytest.mark.parametrize(
    ("variant", "work"), [("nft", rewriting), ("legacy", rewriting), ("legacy", changing)]
)
def test_killed_in_the_middle(
    probe: Probe, variant: str, work: Callable[[str, list[list[Change]], int], None]
) -> None:
    many = changes(200)
    few = [c for c in many if c.key.address == SHOT.target or c.key.address.endswith("7")]
    synced(variant, many).close()
    for kills in range(3):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
            work(variant, [few, many], writing)
        os.close(writing)
        # Each time at another point: after so many packets.
        os.read(reading, 1)
        assert all(served(probe) for _ in range(20 + 37 * kills))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        assert all(served(probe) for _ in range(20))
    last = synced(variant, few)
    dump = last.dump()
    assert dump.actual == dump.desired, "nothing of the others is left"
    assert served(probe)
    last.close()
