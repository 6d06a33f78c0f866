"""Packets flow while a proxy that rewrites the rules is killed in the middle, and another follows."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from kubewire.kernel.probe import Probe
from kubewire.kubeproxy.backends.iptables.proxier import IptablesProxier
from kubewire.kubeproxy.table import Change
from tests.kubeproxy.killed import CONFIG, SHOT, changes, kill_in_the_middle, served
from tests.kubeproxy.rows import NODE_IP

pytestmark = [pytest.mark.kernel, pytest.mark.tool("iptables-nft", "iptables-legacy")]

CONF = replace(CONFIG, mode="iptables")


def synced(variant: str, state: list[Change]) -> IptablesProxier:
    made = IptablesProxier(CONF, variant=variant)
    made.sync(state, {})
    return made


def rewriting(variant: str, states: list[list[Change]], done: Callable[[], None]) -> None:
    """Makes many Services and takes most of them away, until it is killed."""
    while True:
        for state in states:
            synced(variant, state).close()
            done()


def changing(variant: str, states: list[list[Change]], done: Callable[[], None]) -> None:
    """The same, by changes."""
    few, many = states
    made = synced(variant, many)
    more = [c for c in many if c not in few]
    less = [Change(c.key, c.new, None) for c in more]
    while True:
        for step in (less, more):
            made.apply(step, {})
            done()


@pytest.mark.parametrize(
    ("variant", "work"), [("nft", rewriting), ("legacy", rewriting), ("legacy", changing)]
)
def test_killed_in_the_middle(
    variant: str, work: Callable[[str, list[list[Change]], Callable[[], None]], None]
) -> None:
    many = changes(200)
    few = [c for c in many if c.key.address == SHOT.target or c.key.address.endswith("7")]
    synced(variant, many).close()
    with Probe((NODE_IP,)) as probe:
        kill_in_the_middle(probe, lambda done: work(variant, [few, many], done), 3)
        last = synced(variant, few)
        dump = last.dump()
        assert dump.actual == dump.desired, "nothing of the others is left"
        assert served(probe)
        last.close()
