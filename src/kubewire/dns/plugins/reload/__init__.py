"""reload: notice that the Corefile changed and change over to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from kubewire.dns.config import Environment
from kubewire.dns.corefile import CorefileError
from kubewire.dns.metrics import Book, Metric
from kubewire.dns.plugin import Plugin, Setup, duration

log = logging.getLogger("kubewire.dns.plugin.reload")

FAILED = Metric("coredns_reload_failed_total", "Counter of the number of failed reload attempts.")
RUNNING = Metric(
    "coredns_reload_version_info",
    "A metric with a constant '1' value labeled by hash, and value which type of hash generated.",
    ("hash", "value"), "gauge",
)  # fmt: skip


class Reload(Plugin):
    """Reads the file every interval plus or minus some jitter."""

    name = "reload"
    handles = False

    def __init__(self, interval: float, jitter: float, env: Environment) -> None:
        self.interval, self.jitter = interval, jitter
        self._env = env
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def setup(cls, setup: Setup) -> Reload:
        """Read the directive."""
        args = setup.once()
        if len(args) > 2:
            raise setup.arg_err()
        interval = _seconds(args[0], 2.0, "interval") if args else 30.0
        jitter = _seconds(args[1], 1.0, "jitter") if len(args) > 1 else interval / 2
        jitter = min(jitter, interval / 2)
        setup.no_more()
        return cls(interval, jitter, setup.env)

    def measure(self, book: Book) -> None:
        """0 as long as no file was wrong."""
        book.show(FAILED)

    async def started(self) -> None:
        """Begin to look."""
        if self._env.reload is not None:
            self._task = asyncio.create_task(self._watch(), name="reload")

    async def stop(self, *, final: bool) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        assert self._env.reload is not None
        while True:
            await asyncio.sleep(self.interval + random.uniform(-self.jitter, self.jitter))
            await self._env.reload()


def _seconds(text: str, least: float, what: str) -> float:
    try:
        value = duration(text)
    except ValueError as error:
        raise CorefileError(str(error)) from error
    if value < least and (value or what == "interval"):
        zero = "0 or " if what == "jitter" else ""
        raise CorefileError(f"{what} value must be {zero}greater or equal to {least:g}s")
    return value


PLUGIN = Reload
