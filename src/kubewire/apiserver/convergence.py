"""Who has applied what: the answer to "is everything in force now?" without polling.

Agents report the resourceVersion that they have applied; a sync sends a bookmark down every watch,
so that even an agent without changes hears of the current version, and waits: for the controllers
first, then, at the version that their writes led to, for everyone else. Nothing of this is stored
and no resourceVersion is consumed.
"""

import asyncio
import time
from collections.abc import Callable

from kubewire.apiserver.watch import Watch

REMIND = 1.0
"""Seconds after which every watch is told again. One that was just being renewed has heard nothing,
and a report may be lost; the grace period, too, ends without any event."""

GRACE = 5.0
"""Seconds that an agent without an open watch still counts as live (it may be reconnecting)."""

FIRST = "controller-manager/"


class Convergence:
    """Live agents, what they have applied, and every open watch."""

    def __init__(self, current: Callable[[], int], *, remind: float = REMIND) -> None:
        self._current = current
        self._remind = remind
        self.applied: dict[str, int] = {}
        self.watches: set[Watch] = set()
        self._left: dict[str, float] = {}
        self._changed = asyncio.Event()

    def opened(self, watch: Watch) -> None:
        """A watch was opened."""
        self.watches.add(watch)

    def closed(self, watch: Watch) -> None:
        """A watch ended; its agent stays live for the grace period."""
        self.watches.discard(watch)
        if watch.agent:
            self._left[watch.agent] = time.monotonic()
            self._notify()

    def report(self, agent: str, rv: int) -> None:
        """An agent has applied everything up to ``rv``."""
        self.applied[agent] = rv
        self._notify()

    def live(self) -> set[str]:
        """Agents that a sync waits for."""
        horizon = time.monotonic() - GRACE
        self._left = {agent: left for agent, left in self._left.items() if left > horizon}
        return {w.agent for w in self.watches if w.agent} | set(self._left)

    def bookmark_all(self) -> None:
        """Tell every watch the current resourceVersion."""
        rv = self._current()
        for watch in tuple(self.watches):
            watch.bookmark(rv)

    async def sync(self, seconds: float) -> tuple[int, dict[str, int]]:
        """Wait for all agents; returns the version reached and who lags behind (empty: nobody)."""
        deadline = time.monotonic() + seconds
        reached = self._current()
        for controllers in (True, False):
            reached = self._current()
            self.bookmark_all()
            lagging = await self._wait(reached, controllers, deadline)
            if lagging:
                return reached, lagging
        return reached, {}

    async def _wait(self, rv: int, controllers: bool, deadline: float) -> dict[str, int]:
        while True:
            lagging = {
                agent: self.applied.get(agent, 0)
                for agent in self.live()
                if agent.startswith(FIRST) is controllers and self.applied.get(agent, 0) < rv
            }
            left = deadline - time.monotonic()
            if not lagging or left <= 0:
                return lagging
            changed = self._changed
            try:
                async with asyncio.timeout(min(left, self._remind)):
                    await changed.wait()
            except TimeoutError:
                self.bookmark_all()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
