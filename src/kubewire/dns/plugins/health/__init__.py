"""health: an HTTP page that says the process lives."""

from __future__ import annotations

import asyncio
import logging
import time

from kubewire.dns.corefile import CorefileError
from kubewire.dns.http import HttpServer, split_address
from kubewire.dns.metrics import FEW_SECONDS, Book, Metric
from kubewire.dns.plugin import Plugin, Setup, duration

DURATION = Metric(
    "coredns_health_request_duration_seconds",
    "Histogram of the time (in seconds) each request took.", (), "histogram", FEW_SECONDS,
)  # fmt: skip
FAILURES = Metric(
    "coredns_health_request_failures_total", "The number of times the health check failed."
)
INTERVAL = 1.0

log = logging.getLogger("kubewire.dns.plugin.health")


class Health(Plugin):
    """Serves /health; ``lameduck`` keeps everything up that long after SIGTERM."""

    name = "health"
    handles = False

    def __init__(self, host: str, port: int, lameduck: float, *, offline: bool) -> None:
        self.lameduck = lameduck
        self._http = None if offline else HttpServer(host, port, {"/health": _ok})
        self._address = (host or "localhost", port)
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def setup(cls, setup: Setup) -> Health:
        """Read the directive."""
        args = setup.once()
        if len(args) > 1:
            raise setup.arg_err()
        host, port = split_address(args[0]) if args else ("", 8080)
        lameduck = 0.0
        for word, values in setup.properties():
            if word != "lameduck":
                raise setup.unknown(word)
            if len(values) != 1:
                raise setup.arg_err()
            try:
                lameduck = duration(values[0])
            except ValueError as error:
                raise CorefileError(
                    f"unable to parse lameduck duration value: '{values[0]}' : {error}"
                ) from error
        return cls(host, port, lameduck, offline=setup.env.offline)

    async def start(self) -> None:
        """Listen."""
        if self._http:
            await self._http.open()
            self._task = asyncio.create_task(self._watch(), name="health")

    async def stop(self, *, final: bool) -> None:
        """Stay up for the lame duck period, then close."""
        if final and self.lameduck:
            log.info("plugin/health: Going into lameduck mode for %gs", self.lameduck)
            await asyncio.sleep(self.lameduck)
        if self._task:
            self._task.cancel()
        if self._http:
            await self._http.close()

    def measure(self, book: Book) -> None:
        """0 as long as nothing failed."""
        book.show(FAILURES)

    async def _watch(self) -> None:
        """Ask the own page each second: a process with too much to do answers late."""
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(3):
                    reader, writer = await asyncio.open_connection(*self._address)
                    writer.write(b"GET /health HTTP/1.0\r\n\r\n")
                    await reader.read()
                    writer.close()
            except (OSError, TimeoutError):
                self.metrics.add(FAILURES)
            self.metrics.observe(DURATION, time.monotonic() - began)
            await asyncio.sleep(INTERVAL)


def _ok() -> tuple[int, str, bytes]:
    return 200, "text/plain; charset=utf-8", b"OK"


PLUGIN = Health
