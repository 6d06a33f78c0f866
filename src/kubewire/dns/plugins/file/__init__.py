"""file: answer from zone files."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from kubewire.dns.config import Block
from kubewire.dns.plugin import Fallthrough, Plugin, Replay, Request, Response, Setup, duration
from kubewire.dns.zone import Result, Zone
from kubewire.dns.zonefile import load
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import longest_zone
from kubewire.lang.dns.record import RR

log = logging.getLogger("kubewire.dns.plugin.file")

RETRY = 60.0


@runtime_checkable
class Teller(Protocol):
    """The transfer plugin."""

    def tell(self, zone: str) -> None:
        """A zone changed."""


class Zones(Plugin):
    """Answers from zones, whoever brings them."""

    end_rcode = codes.REFUSED

    def __init__(self) -> None:
        self.zones: dict[str, Zone | None] = {}
        """None: known, but there is nothing to answer from (yet)."""
        self.fall = Fallthrough()

    async def serve(self, request: Request) -> Response:
        """Answer names below one of the zones."""
        origin = longest_zone(request.name, tuple(self.zones))
        if not origin:
            return await self.next.serve(request)
        if request.message.opcode == codes.NOTIFY:
            return await self.notified(request, origin)
        zone = self.zones[origin]
        if zone is None or zone.soa is None:
            return self.fail(codes.SERVFAIL, f"zone {origin} is not loaded")
        if request.qtype in (codes.AXFR, codes.IXFR):
            return self.fail(codes.REFUSED, "zone transfers are the transfer plugin's")
        result = zone.lookup(request.name, request.qname, request.qtype, do=request.do)
        if result.rcode == codes.NXDOMAIN and not result.answer and self.fall.through(request.name):
            return await self.next.serve(request)
        replay: Replay | None = Replay((("zone", id(self), origin),))
        if result.outside:
            replay = None
            await self._resolve(request, result, zone)
        return self.reply(
            result.rcode, answer=result.answer, authority=result.authority,
            additional=result.additional, aa=result.aa, reason=f"zone {origin}", replay=replay,
        )  # fmt: skip

    async def _resolve(self, request: Request, result: Result, zone: Zone) -> None:
        """The whole server answers for what lies outside; its rcode is the answer's (RFC 6604)."""
        if request.block is None:
            return
        found = await request.block.lookup(request, result.outside, request.qtype)
        result.answer += found.answer
        if found.rcode in (codes.SERVFAIL, codes.NXDOMAIN):
            result.rcode = found.rcode
        if found.rcode == codes.NXDOMAIN or not (found.rcode or found.answer):
            result.authority = zone.denied(do=request.do)

    async def notified(self, request: Request, origin: str) -> Response:
        """Somebody says that a zone changed: a secondary's matter, others say nothing."""
        log.info("plugin/%s: Dropping notify from %s for %s", self.name, request.client[0], origin)
        response = self.reply(reason="NOTIFY from somebody who is no primary")
        response.drop = True
        return response

    def changed(self, block: Block, origin: str) -> None:
        """Have the transfer plugin tell secondaries."""
        plugin: object = block.plugin("transfer")
        if isinstance(plugin, Teller):
            plugin.tell(origin)

    def transfer(self, zone: str, serial: int) -> list[RR] | None:
        """Every record of a zone, or its SOA if the client is up to date; None: not ours."""
        found = self.zones.get(zone)
        if found is None or found.soa is None:
            return None
        return [found.soa] if serial and serial == found.serial else list(found.records())


@dataclass
class _Source:
    path: str
    interval: float = 60.0
    stamp: tuple[float, int] | None = None


class File(Zones):
    """Zone files; read again when they change."""

    name = "file"

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[str, _Source] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._setup: Setup | None = None

    @classmethod
    def setup(cls, setup: Setup) -> File:
        """Read the directive."""
        plugin = cls()
        plugin._setup = setup
        for args in setup.stanzas():
            if not args:
                raise setup.arg_err()
            source = _Source(setup.path(args[0]))
            origins = setup.zones(args[1:])
            for word, values in setup.properties():
                if word == "fallthrough":
                    plugin.fall = Fallthrough.from_args(values)
                elif word == "reload" and len(values) == 1:
                    source.interval = duration(values[0])
                elif word == "upstream":
                    continue
                else:
                    raise setup.err(f"unknown property '{word}'")
            for origin in origins:
                plugin._sources[origin] = source
                plugin._load(origin, source)
        return plugin

    def _load(self, origin: str, source: _Source) -> None:
        try:
            state = Path(source.path).stat()
            # A file that is wrong is not read again until it changes.
            source.stamp = (state.st_mtime, state.st_size)
            zone = load(source.path, origin)
        except OSError as error:
            source.stamp = None
            log.warning("plugin/file: Failed to open %s: trying again in 1m0s", error)
            self.zones.setdefault(origin, None)
            return
        old = self.zones.get(origin)
        if old is not None and old.serial == zone.serial:
            return
        self.zones[origin] = zone
        self._forget(origin)
        if self._tasks and self._setup is not None:
            self.changed(self._setup.block, origin)

    def _forget(self, origin: str) -> None:
        if self._setup and self._setup.block.configuration:
            self._setup.block.configuration.drop([("zone", id(self), origin)])

    async def start(self) -> None:
        """Look at the files from time to time."""
        if self._setup is None or self._setup.env.offline:
            return
        for origin, source in self._sources.items():
            if source.interval:
                self._tasks.append(
                    asyncio.create_task(self._watch(origin, source), name=f"zone {origin}")
                )

    async def stop(self, *, final: bool) -> None:
        """Look no more."""
        for task in self._tasks:
            task.cancel()

    async def _watch(self, origin: str, source: _Source) -> None:
        while True:
            await asyncio.sleep(source.interval if self.zones.get(origin) else RETRY)
            self._refresh(origin, source)

    def _refresh(self, origin: str, source: _Source) -> None:
        try:
            state = Path(source.path).stat()
            if source.stamp != (state.st_mtime, state.st_size):
                self._load(origin, source)
        except (OSError, ValueError) as error:
            log.warning("plugin/file: %s", error)


PLUGIN = File
