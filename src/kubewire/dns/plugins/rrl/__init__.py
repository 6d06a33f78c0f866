"""rrl: limit the rate of answers, against amplification by forged addresses.

Behaves like CoreDNS' external plugin of that name: an account per client network, name, type and
kind of answer is credited by the second and charged by the answer. A forged address cannot speak
TCP, so only UDP is limited.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import longest_zone

KINDS = ("responses", "nodata", "nxdomains", "referrals", "errors")


@dataclass
class Limits:
    """Options of the plugin."""

    zones: list[str]
    window: float = 15.0
    prefix4: int = 24
    prefix6: int = 56
    per_second: dict[str, float] = field(default_factory=dict)
    """By kind; ``requests`` too. A missing one of KINDS is like ``responses``; 0 is no limit."""
    slip: int = 0
    table: int = 100_000
    report_only: bool = False

    def allowance(self, kind: str) -> float:
        """Answers (or requests) a second; 0: any number."""
        default = 0.0 if kind == "requests" else self.per_second.get("responses", 0.0)
        return self.per_second.get(kind, default)


class Accounts:
    """Balances in seconds' worth of answers; the account that rested longest makes room."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit, self._window = limit, window
        self._found: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def charge(self, key: Hashable, allowance: float, now: float) -> float:
        """Take one answer's price and give the balance; below zero is too much."""
        balance, since = self._found.pop(key, (1.0, now))
        balance = min(1.0, balance + now - since) - 1.0 / allowance
        self._found[key] = (max(balance, -self._window), now)
        if len(self._found) > self._limit:
            self._found.popitem(last=False)
        return balance


class Rrl(Plugin):
    """Drops or truncates what is too much."""

    name = "rrl"
    replayable = False

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.dropped = 0
        self._clock = clock
        self._answers = Accounts(limits.table, limits.window)
        self._requests = Accounts(limits.table, limits.window)
        self._over = 0

    @classmethod
    def setup(cls, setup: Setup) -> Rrl:
        """Read the directive."""
        limits = Limits(setup.zones(setup.once()))
        for word, args in setup.properties():
            _read(setup, limits, word, args)
        setup.no_more()
        return cls(limits)

    async def serve(self, request: Request) -> Response:
        """Limit what goes back to a client."""
        if request.network != "udp" or not longest_zone(request.name, self.limits.zones):
            return await self.next.serve(request)
        network = self._network(request.client[0])
        if self._too_much(self._requests, network, "requests"):
            return self._drop("too many requests")
        response = await self.next.serve(request)
        kind = _kind(response)
        key = (network, kind) if kind == "errors" else (network, kind, request.name, request.qtype)
        if not self._too_much(self._answers, key, kind):
            return response
        self._over += 1
        if self.limits.slip and self._over % self.limits.slip == 0:
            return self._slip(response)
        return self._drop(f"too many {kind} to {network}")

    def _too_much(self, accounts: Accounts, key: Hashable, kind: str) -> bool:
        allowance = self.limits.allowance(kind)
        if not allowance or accounts.charge(key, allowance, self._clock()) >= 0:
            return False
        self.dropped += 1
        return not self.limits.report_only

    def _network(self, client: str) -> str:
        address = client.partition("%")[0]
        length = self.limits.prefix6 if ":" in address else self.limits.prefix4
        return str(ipaddress.ip_network(f"{address}/{length}", strict=False))

    def _drop(self, why: str) -> Response:
        response = self.reply(reason=why)
        response.drop = True
        return response

    def _slip(self, response: Response) -> Response:
        """Empty and truncated: a real client comes back by TCP."""
        slipped = self.reply(response.rcode, aa=response.aa, reason="too many answers: use TCP")
        slipped.tc = True
        return slipped


def _kind(response: Response) -> str:
    if response.rcode == codes.NXDOMAIN:
        return "nxdomains"
    if response.rcode != codes.NOERROR:
        return "errors"
    if response.answer:
        return "responses"
    delegated = any(r.type == codes.NS for r in response.authority)
    has_soa = any(r.type == codes.SOA for r in response.authority)
    return "referrals" if delegated and not has_soa else "nodata"


def _read(setup: Setup, limits: Limits, word: str, args: list[str]) -> None:
    if word == "report-only":
        if args:
            raise setup.arg_err()
        limits.report_only = True
        return
    kind = word.removesuffix("-per-second")
    known = ("window", "ipv4-prefix-length", "ipv6-prefix-length", "slip-ratio", "max-table-size")
    if word not in known and (kind == word or kind not in (*KINDS, "requests")):
        raise setup.err(f"unknown property '{word}'")
    if len(args) != 1:
        raise setup.arg_err()
    try:
        value = float(args[0]) if kind != word else int(args[0])
    except ValueError as error:
        raise CorefileError(f"{word} invalid value. {args[0]!r} is no number") from error
    most = {"ipv4-prefix-length": 32, "ipv6-prefix-length": 128, "slip-ratio": 10}.get(word)
    if value < (1 if word in ("window", "max-table-size") else 0):
        raise CorefileError(f"{word} cannot be negative")
    if most is not None and value > most:
        raise CorefileError(f"{word} must be between 0 and {most}")
    match word:
        case "window":
            limits.window = value
        case "ipv4-prefix-length":
            limits.prefix4 = int(value)
        case "ipv6-prefix-length":
            limits.prefix6 = int(value)
        case "slip-ratio":
            limits.slip = int(value)
        case "max-table-size":
            limits.table = int(value)
        case _:
            limits.per_second[kind] = value


PLUGIN = Rrl
