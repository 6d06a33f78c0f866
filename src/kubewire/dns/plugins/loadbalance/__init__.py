"""loadbalance: change the order of addresses from one answer to the next."""

from __future__ import annotations

import ipaddress
import random

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup, Shortcut, duration
from kubewire.dns.plugins.loadbalance.weights import Weights
from kubewire.lang.dns import codes
from kubewire.lang.dns.record import RR, address_text

MOVED = frozenset({codes.A, codes.AAAA, codes.MX})
WEIGHED = frozenset({codes.A, codes.AAAA, codes.SRV})
RELOAD = 30.0
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class LoadBalance(Plugin):
    """Round robin by default; by weights of a file, or preferred subnets first."""

    name = "loadbalance"

    def __init__(self, weights: Weights | None, preferred: list[Network], *, live: bool) -> None:
        self._weights = weights
        self._preferred = preferred
        self._live = live

    @classmethod
    def setup(cls, setup: Setup) -> LoadBalance:
        """Read the directive."""
        weights: Weights | None = None
        match setup.once():
            case [] | ["round_robin"]:
                pass
            case ["round_robin", *_]:
                raise setup.err("unknown property for round_robin")
            case ["weighted", file]:
                weights = Weights(setup.path(file), RELOAD)
            case ["weighted", _, *_]:
                raise setup.err("unexpected argument(s)")
            case ["weighted"]:
                raise setup.err("missing weight file argument")
            case [other, *_]:
                raise CorefileError(f"unknown policy: {other}")
        preferred: list[Network] = []
        for word, values in setup.properties():
            if word == "reload" and weights is not None:
                weights.interval = _interval(setup, values)
            elif word == "prefer" and weights is None:
                preferred += [_network(setup, value) for value in values]
            else:
                raise setup.err(f"unknown property '{word}'")
        setup.no_more()
        if weights is not None:
            weights.first()
        return cls(weights, preferred, live=not setup.env.offline)

    async def start(self) -> None:
        """Look at the weights from time to time."""
        if self._weights is not None and self._live:
            self._weights.start()

    async def stop(self, *, final: bool) -> None:
        """Look no more."""
        if self._weights is not None:
            self._weights.stop()

    async def serve(self, request: Request) -> Response:
        """Reorder what comes back."""
        response = await self.next.serve(request)
        if response.rcode == codes.NOERROR and self._weights is not None:
            if request.qtype in WEIGHED and len(response.answer) + len(response.additional) > 1:
                response.answer = self._weights.order(response.answer)
                response.additional = self._weights.order(response.additional)
                response.replay = None
        elif len(response.answer) > 1 and request.qtype in MOVED:
            self._turn(response)
        return response

    def shortcut(self, behind: Shortcut | None, server: str, view: str) -> Shortcut | None:
        """One record has no order."""
        return behind

    def _turn(self, response: Response) -> None:
        fixed = [r for r in response.answer if r.type not in MOVED]
        moved = [r for r in response.answer if r.type in MOVED]
        if len(moved) < 2:
            return
        fixed.sort(key=lambda r: r.type != codes.CNAME)
        start = random.randrange(len(moved))
        moved = moved[start:] + moved[:start]
        response.rotate = not self._preferred
        if self._preferred:
            response.replay = None
            moved.sort(key=self._rank)
        response.answer = fixed + moved

    def _rank(self, record: RR) -> int:
        if record.type == codes.MX:
            return len(self._preferred)
        ip = ipaddress.ip_address(address_text(record))
        ranks = (i for i, n in enumerate(self._preferred) if n.version == ip.version and ip in n)
        return next(ranks, len(self._preferred))


def _interval(setup: Setup, values: list[str]) -> float:
    if not values:
        raise setup.err("reload duration value is missing")
    if len(values) > 1:
        raise setup.err("unexpected argument")
    try:
        return duration(values[0])
    except ValueError as error:
        raise setup.err(f"invalid reload duration '{values[0]}'") from error


def _network(setup: Setup, text: str) -> Network:
    try:
        if "/" not in text:
            raise ValueError(text)
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise setup.err(f'invalid CIDR "{text}": invalid CIDR address: {text}') from error


PLUGIN = LoadBalance
