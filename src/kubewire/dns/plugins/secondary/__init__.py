"""secondary: keep copies of zones of other servers."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field

from kubewire.dns.config import Block, Environment
from kubewire.dns.plugin import Fallthrough, Request, Response, Setup
from kubewire.dns.plugins.file import Zones
from kubewire.dns.plugins.secondary import catalog
from kubewire.dns.plugins.secondary.inbound import axfr, serial
from kubewire.dns.plugins.transfer import target
from kubewire.dns.zone import from_records
from kubewire.lang.dns.message import WireError
from kubewire.lang.dns.record import RR, soa_numbers

log = logging.getLogger("kubewire.dns.plugin.secondary")

FIRST_RETRY = 0.25
LAST_RETRY = 10.0
TRANSFER = 60.0
_FAILURES = (OSError, WireError, TimeoutError, asyncio.IncompleteReadError, catalog.CatalogError)


@dataclass
class _Copy:
    origin: str
    primaries: list[tuple[str, int]] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    good: float = 0.0
    """When a primary last said what is current."""


class Secondary(Zones):
    """Zones by AXFR, in memory; SERVFAIL until the first transfer and once they have expired."""

    name = "secondary"
    replayable = False

    def __init__(self, env: Environment, block: Block) -> None:
        super().__init__()
        self._copies: dict[str, _Copy] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._limits: dict[str, list[str]] = {}
        """Catalogs, and below which names their members must be (empty: any)."""
        self._catalogs: dict[str, dict[str, catalog.Member]] = {}
        self._owned: dict[str, catalog.Owned] = {}
        self._env = env
        self._block = block

    @classmethod
    def setup(cls, setup: Setup) -> Secondary:
        """Read the directive."""
        plugin = cls(setup.env, setup.block)
        for args in setup.stanzas():
            primaries: list[tuple[str, int]] = []
            origins = setup.zones(args)
            for word, values in setup.properties():
                if word == "transfer" and values[:1] == ["from"] and len(values) > 1:
                    primaries += [target(v) for v in values[1:]]
                elif word == "catalog":
                    for origin in origins:
                        plugin._limit(origin, setup.zones(values) if values else [])
                elif word == "fallthrough":
                    plugin.fall = Fallthrough.from_args(values)
                else:
                    raise setup.err(f"unknown property '{word}'")
            if not primaries:
                raise setup.err("secondary zones require a transfer from property")
            for origin in origins:
                plugin.zones[origin] = None
                plugin._copies[origin] = _Copy(origin, primaries)
        return plugin

    def _limit(self, origin: str, zones: list[str]) -> None:
        """Without zones every member is let in, also if another line has some."""
        known = self._limits.get(origin)
        both = known is None or (known and zones)
        self._limits[origin] = [*(known or []), *zones] if both else []

    async def start(self) -> None:
        """Begin to transfer."""
        if not self._env.offline:
            for copy in self._copies.values():
                self._begin(copy)

    async def stop(self, *, final: bool) -> None:
        """Stop to transfer."""
        for task in self._tasks.values():
            task.cancel()

    async def notified(self, request: Request, origin: str) -> Response:
        """Look at once if a primary says that its zone changed."""
        copy = self._copies.get(origin)
        if copy is None or all(h != request.client[0] for h, _ in copy.primaries):
            return await super().notified(request, origin)
        copy.wake.set()
        return self.reply(reason="NOTIFY is taken note of")

    def _begin(self, copy: _Copy) -> None:
        self._copies[copy.origin] = copy
        self._tasks[copy.origin] = asyncio.create_task(
            self._follow(copy), name=f"secondary {copy.origin}"
        )

    def _end(self, origin: str) -> None:
        self._tasks.pop(origin).cancel()
        del self._copies[origin]

    async def _follow(self, copy: _Copy) -> None:
        """Transfer, wait as long as the SOA says, transfer again if the serial is another one."""
        loop = asyncio.get_running_loop()
        delay = FIRST_RETRY
        while True:
            try:
                await self._refresh(copy)
                copy.good, delay = loop.time(), FIRST_RETRY
                wait = self._times(copy.origin)[0] * random.uniform(0.9, 1.0)
            except _FAILURES as error:
                log.warning(
                    "plugin/secondary: All '%s' masters failed to transfer, retrying in %gs: %s",
                    copy.origin, delay, error,
                )  # fmt: skip
                wait, delay = delay, min(LAST_RETRY, delay * 2)
                if self.zones.get(copy.origin) is not None:
                    _, retry, expire = self._times(copy.origin)
                    wait = max(wait, min(retry, expire))
                    if loop.time() - copy.good > expire:
                        log.error("plugin/secondary: zone %s has expired", copy.origin)
                        self.zones[copy.origin] = None
            copy.wake.clear()
            try:
                async with asyncio.timeout(wait):
                    await copy.wake.wait()
            except TimeoutError:
                continue

    def _times(self, origin: str) -> tuple[float, float, float]:
        """Refresh, retry and expire of a copy."""
        zone = self.zones[origin]
        assert zone is not None
        assert zone.soa is not None
        _, refresh, retry, expire, _ = soa_numbers(zone.soa)
        return max(1, refresh), max(1, retry), max(1, expire)

    async def _refresh(self, copy: _Copy) -> None:
        """Take the zone over from the first primary that gives it."""
        error: Exception | None = None
        for host, port in copy.primaries:
            try:
                async with asyncio.timeout(TRANSFER):
                    zone = self.zones.get(copy.origin)
                    if zone is not None and await serial(copy.origin, host, port) == zone.serial:
                        return
                    records = await axfr(copy.origin, host, port)
                self._take(copy, records, host)
                return
            except _FAILURES as failed:
                error = failed
        assert error is not None
        raise error

    def _take(self, copy: _Copy, records: list[RR], host: str) -> None:
        fresh = from_records(copy.origin, records)
        if fresh.soa is None:
            raise WireError(f"no SOA of {copy.origin} in its transfer")
        if copy.origin in self._limits:
            self._catalogs[copy.origin] = catalog.parse(copy.origin, records)
        self.zones[copy.origin] = fresh
        log.info("plugin/secondary: Transferred: %s from %s", copy.origin, host)
        if copy.origin in self._limits:
            self._apply(copy)
        self.changed(self._block, copy.origin)

    def _apply(self, copy: _Copy) -> None:
        """Serve what a catalog lists, from the catalog's primaries; and nothing more."""
        origin = copy.origin
        configured = self._copies.keys() - self._owned.keys()
        come, gone, refused = catalog.changes(
            origin, self._catalogs, self._owned, configured, self._limits[origin]
        )
        for change in come:
            if change.zone in self._owned:
                self._end(change.zone)
            if not change.keep:
                self.zones[change.zone] = None
            self._owned[change.zone] = change.owned
            self._begin(_Copy(change.zone, copy.primaries))
            log.info(
                "plugin/secondary: Added catalog member zone %s from catalog %s",
                change.zone,
                origin,
            )
        for zone in gone:
            self._end(zone)
            del self._owned[zone], self.zones[zone]
            log.info(
                "plugin/secondary: Removed catalog member zone %s from catalog %s", zone, origin
            )
        for zone in refused:
            log.warning("plugin/secondary: Skipping catalog member zone %s from %s", zone, origin)


PLUGIN = Secondary
