"""A controller that looks at one object at a time, on the one control loop.

Changes of its informers are mapped to keys of its own objects; every pass of the loop syncs the
keys that are due, concurrently. A key that fails comes back with a back-off of its own, so one bad
object never holds up the others.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON, Key
from kubewire.api.resources import Resource
from kubewire.client.informer import Change, Informer
from kubewire.client.loop import Changes, Loop
from kubewire.client.workqueue import WorkQueue
from kubewire.controllermanager.actions import Plan
from kubewire.controllermanager.context import Context, controller_of, own

ATTEMPTS = 5
"""Convergence waits for a failing key so often; then its failure is the converged state."""

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)


class Keyed(Generic[K]):
    """Maps changes to keys and syncs each key."""

    def __init__(
        self,
        context: Context,
        name: str,
        sync: Callable[[K], Awaitable[float | None]],
        sources: Sequence[tuple[Informer[JSON], Callable[[Change[JSON]], Iterable[K]]]],
        *,
        waits_for: Iterable[Informer[Any]] = (),
        min_interval: float = 0.0,
    ) -> None:
        self.name = name
        self.queue: WorkQueue[K] = WorkQueue()
        self._sync = sync
        informers = list(dict.fromkeys(informer for informer, _ in sources))
        self.loop = Loop(
            f"controller-manager/{name}",
            [*informers, *(i for i in waits_for if i not in informers)],
            self._reconcile,
            reporter=context.reporter,
            pending=self._pending,
            min_interval=min_interval,
        )
        for informer, mapper in sources:
            informer.listen(self._listener(mapper))

    def _listener(
        self, mapper: Callable[[Change[JSON]], Iterable[K]]
    ) -> Callable[[Sequence[Change[JSON]]], None]:
        def note(changes: Sequence[Change[JSON]]) -> None:
            for change in changes:
                for key in mapper(change):
                    self.queue.add(key)

        return note

    def _pending(self) -> bool:
        due = self.queue.next_due()
        now = asyncio.get_running_loop().time()
        return (due is not None and due <= now) or self.queue.retrying(ATTEMPTS)

    async def _reconcile(self, changes: Changes) -> float | None:
        clock = asyncio.get_running_loop().time
        keys = self.queue.take(clock())
        if len(keys) == 1:
            await self._one(keys[0], clock)
        elif keys:
            await asyncio.gather(*(self._one(key, clock) for key in keys))
        due = self.queue.next_due()
        return None if due is None else max(0.0, due - clock())

    async def _one(self, key: K, clock: Callable[[], float]) -> None:
        try:
            again = await self._sync(key)
        except StatusError as error:
            delay = self.queue.fail(key, clock())
            early = self.queue.failures(key) < ATTEMPTS
            # That the server is away is said once, by the informers.
            quiet = error.code >= 503 or (early and error.reason in ("Conflict", "NotFound"))
            level = logging.DEBUG if quiet else logging.WARNING
            log.log(level, "%s %s: %s (again in %.2fs)", self.name, key, error.message, delay)
        except Exception:
            self.queue.fail(key, clock())
            log.exception("%s %s", self.name, key)
        else:
            self.queue.forget(key)
            if again is not None:
                self.queue.add(key, clock() + again)


def of_owner(
    context: Context,
    owners: Resource,
    owned: Resource,
    plan: Callable[[JSON, Iterable[JSON], float], Plan],
) -> Keyed[Key]:
    """The controller of objects that need only what they own, and the time, to be planned."""
    informer, children = context.informer(owners), context.by_controller(owned)

    async def sync(key: Key) -> float | None:
        owner = informer.store.get(key)
        if owner is None:
            return None
        made = plan(owner, children.get(owner["metadata"]["uid"]).values(), time.time())
        await context.apply(made)
        return made.again

    sources = [(informer, own), (context.informer(owned), controller_of(owners.kind))]
    return Keyed(context, owners.singular, sync, sources)
