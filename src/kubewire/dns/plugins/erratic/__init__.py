"""erratic: a server that misbehaves, for tests of clients."""

from __future__ import annotations

import asyncio

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup, duration
from kubewire.lang.dns import codes
from kubewire.lang.dns.record import RR, address, ns, soa


class Erratic(Plugin):
    """Drops, delays or truncates every n-th answer."""

    name = "erratic"
    replayable = False

    def __init__(self) -> None:
        self.drop = 2
        self.delay, self.seconds = 0, 0.1
        self.truncate = 0
        self.large = False
        self._count = 0

    @classmethod
    def setup(cls, setup: Setup) -> Erratic:
        """Read the directive."""
        plugin, dropped = cls(), False
        setup.once()
        for word, args in setup.properties():
            if word == "large":
                plugin.large = True
                continue
            if word not in ("drop", "delay", "truncate"):
                raise setup.err(f"unknown property '{word}'")
            if len(args) > (2 if word == "delay" else 1):
                raise setup.arg_err()
            try:
                amount = int(args[0]) if args else 2
            except ValueError as error:
                raise CorefileError(
                    f'strconv.ParseInt: parsing "{args[0]}": invalid syntax'
                ) from error
            if amount < 0:
                raise CorefileError(f'illegal amount value given "{args[0]}"')
            setattr(plugin, word, amount)
            dropped = dropped or word == "drop"
            if len(args) == 2:
                plugin.seconds = duration(args[1])
        if not dropped and (plugin.delay or plugin.truncate):
            plugin.drop = 0
        return plugin

    @property
    def ready(self) -> bool:
        """Only for a while."""
        return 3 <= self._count <= 4

    async def serve(self, request: Request) -> Response:
        """Misbehave by count."""
        n = self._count
        self._count += 1
        response = self.reply(reason="a server for tests")
        response.drop = bool(self.drop) and n % self.drop == 0
        response.tc = bool(self.truncate) and n % self.truncate == 0
        if self.delay and n % self.delay == 0:
            await asyncio.get_running_loop().create_task(asyncio.sleep(self.seconds))
        response.answer = self._answer(request, whole=not response.tc)
        if not response.answer and not response.drop:
            return self.fail(codes.SERVFAIL, "only A, AAAA and AXFR are known")
        return response

    def _answer(self, request: Request, *, whole: bool) -> list[RR]:
        if request.qtype == codes.A:
            return [address(request.qname, 0, "192.0.2.53")] * (30 if self.large else 1)
        if request.qtype == codes.AAAA:
            return [address(request.qname, 0, "2001:db8::53")]
        if request.qtype == codes.AXFR:
            zone = _zone(request.qname)
            return [*zone, zone[0]] if whole else zone
        return []


def _zone(name: str) -> list[RR]:
    """What a transfer gives; without the SOA at its end if it is to be incomplete."""
    first, second = f"a.{name}", f"b.{name}"
    return [
        soa(
            name, 0, "sns.dns.icann.org.", "noc.dns.icann.org.", 2018050825,
            refresh=7200, retry=3600, expire=1209600, minimum=3600,
        ),
        ns(name, 0, second),
        ns(name, 0, first),
        address(first, 0, "2001:bd8::53"),
        address(second, 0, "2001:500::54"),
    ]  # fmt: skip


PLUGIN = Erratic
