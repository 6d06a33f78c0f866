"""Who is waited for by a sync, and how those hear of it that were away when it began."""

import asyncio

from kubewire.apiserver.convergence import Convergence
from kubewire.apiserver.store import Collection
from kubewire.apiserver.watch import Watch


class Agent(Watch):
    """A watch whose agent applies at once whatever bookmark it gets, except the first ``deaf``."""

    def __init__(self, found: Convergence, name: str, deaf: int = 0) -> None:
        super().__init__(Collection(), lambda revision: b"")
        self.agent = name
        self.heard = 0
        self._found = found
        self._deaf = deaf

    def bookmark(self, rv: int, annotations: dict[str, object] | None = None) -> None:
        self.heard += 1
        if self.heard > self._deaf:
            asyncio.get_running_loop().call_soon(self._found.report, self.agent, rv)


def at(number: int, remind: float = 1000) -> Convergence:
    return Convergence(lambda: number, remind=remind)


async def test_all_have_applied() -> None:
    found = at(7)
    agents = [Agent(found, "controller-manager/x"), Agent(found, "kubelet/a")]
    for agent in agents:
        found.opened(agent)
    assert await found.sync(20) == (7, {})
    assert [agent.heard for agent in agents] == [2, 2]


async def test_who_lags_is_named() -> None:
    found = at(7)
    found.opened(Agent(found, "kubelet/a"))
    found.opened(Agent(found, "kubelet/b", deaf=9))
    found.report("kubelet/b", 3)
    assert await found.sync(0.05) == (7, {"kubelet/b": 3})


async def test_a_report_that_was_lost_is_asked_for_again() -> None:
    found = at(7, remind=0.01)
    agent = Agent(found, "kubelet/a", deaf=4)
    found.opened(agent)
    assert await found.sync(20) == (7, {})
    assert agent.heard >= 5


async def test_a_watch_that_was_being_renewed_hears_of_it() -> None:
    found = at(7, remind=0.01)
    before, after = Agent(found, "kubelet/a", deaf=99), Agent(found, "kubelet/a")
    found.opened(before)
    found.closed(before)
    asyncio.get_running_loop().call_later(0.02, found.opened, after)
    assert await found.sync(20) == (7, {})
    assert after.heard >= 1
