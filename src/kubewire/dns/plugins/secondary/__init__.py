"""secondary: keep copies of zones of other servers."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import struct
from dataclasses import dataclass, field

from kubewire.dns.config import Environment
from kubewire.dns.plugin import Fallthrough, Request, Response, Setup
from kubewire.dns.plugins.file import Zones
from kubewire.dns.plugins.transfer import _target
from kubewire.dns.zone import from_records
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Message, Question, WireError, encode, parse
from kubewire.lang.dns.record import RR, soa_numbers

log = logging.getLogger("kubewire.dns.plugin.secondary")

FIRST_RETRY = 2.0
LAST_RETRY = 60.0


@dataclass
class _Copy:
    origin: str
    primaries: list[tuple[str, int]] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Secondary(Zones):
    """Zones by AXFR, in memory; SERVFAIL until the first transfer."""

    name = "secondary"
    replayable = False

    def __init__(self, env: Environment) -> None:
        super().__init__()
        self._copies: list[_Copy] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._env = env

    @classmethod
    def setup(cls, setup: Setup) -> Secondary:
        """Read the directive."""
        plugin = cls(setup.env)
        for args in setup.stanzas():
            primaries: list[tuple[str, int]] = []
            origins = setup.zones(args)
            for word, values in setup.properties():
                if word == "transfer" and values[:1] == ["from"] and len(values) > 1:
                    primaries += [_target(v) for v in values[1:]]
                elif word == "fallthrough":
                    plugin.fall = Fallthrough.from_args(values)
                else:
                    raise setup.err(f"unknown property '{word}'")
            if not primaries:
                raise setup.err("secondary zones require a transfer from property")
            for origin in origins:
                plugin.zones[origin] = None
                plugin._copies.append(_Copy(origin, primaries))
        return plugin

    async def start(self) -> None:
        """Begin to transfer."""
        if not self._env.offline:
            self._tasks = [
                asyncio.create_task(self._follow(c), name=f"secondary {c.origin}")
                for c in self._copies
                if c.primaries
            ]

    async def stop(self, *, final: bool) -> None:
        """Stop to transfer."""
        for task in self._tasks:
            task.cancel()

    async def notified(self, request: Request, origin: str) -> Response:
        """Look at once if a primary says that its zone changed."""
        for copy in self._copies:
            if copy.origin == origin and any(h == request.client[0] for h, _ in copy.primaries):
                copy.wake.set()
        return self.reply(reason="NOTIFY is taken note of")

    async def _follow(self, copy: _Copy) -> None:
        delay = FIRST_RETRY
        while True:
            try:
                await self._refresh(copy)
                delay = FIRST_RETRY
                wait = self._times(copy.origin)
            except (OSError, WireError, TimeoutError, asyncio.IncompleteReadError) as error:
                log.warning("plugin/secondary: transfer of %s: %s", copy.origin, error)
                wait, delay = delay, min(LAST_RETRY, delay * 2)
            copy.wake.clear()
            try:
                async with asyncio.timeout(wait * random.uniform(0.9, 1.0)):
                    await copy.wake.wait()
            except TimeoutError:
                continue

    def _times(self, origin: str) -> float:
        zone = self.zones[origin]
        assert zone is not None
        assert zone.soa is not None
        return float(max(1, soa_numbers(zone.soa)[1]))

    async def _refresh(self, copy: _Copy) -> None:
        error: Exception | None = None
        for host, port in copy.primaries:
            try:
                async with asyncio.timeout(60):
                    records = await axfr(copy.origin, host, port)
                self.zones[copy.origin] = from_records(copy.origin, records)
                log.info("plugin/secondary: Transferred: %s from %s", copy.origin, host)
                return
            except (OSError, WireError, TimeoutError, asyncio.IncompleteReadError) as failed:
                error = failed
        assert error is not None
        raise error


async def axfr(origin: str, host: str, port: int = 53) -> list[RR]:
    """Transfer a zone. Raises OSError or WireError."""
    reader, writer = await asyncio.open_connection(host, port)
    records: list[RR] = []
    try:
        data = encode(Message(secrets.randbits(16), 0, Question(origin, codes.AXFR)))
        writer.write(struct.pack("!H", len(data)) + data)
        while sum(r.type == codes.SOA for r in records) < 2:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = parse(await reader.readexactly(length))
            if answer.rcode or not answer.answer:
                raise WireError(f"refused with {codes.rcode_name(answer.rcode)}")
            records += answer.answer
    finally:
        writer.close()
    return records


PLUGIN = Secondary
