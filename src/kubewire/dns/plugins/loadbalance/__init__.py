"""loadbalance: change the order of addresses from one answer to the next."""

from __future__ import annotations

import ipaddress
import random
from pathlib import Path

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup, Shortcut, duration
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import absolute, normalize
from kubewire.lang.dns.record import RR, address_text

MOVED = frozenset({codes.A, codes.AAAA, codes.MX})
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class LoadBalance(Plugin):
    """Round robin by default; by weights of a file, or preferred subnets first."""

    name = "loadbalance"

    def __init__(
        self, policy: str, weights: dict[str, dict[str, int]], preferred: list[Network]
    ) -> None:
        self.policy = policy
        self._weights = weights
        self._preferred = preferred

    @classmethod
    def setup(cls, setup: Setup) -> LoadBalance:
        """Read the directive."""
        policy, weights, preferred = "round_robin", {}, []
        args = setup.once()
        match args:
            case [] | ["round_robin"]:
                pass
            case ["round_robin", *_]:
                raise setup.err("unknown property for round_robin")
            case ["weighted", file]:
                policy, weights = "weighted", parse_weights(Path(setup.path(file)).read_text())
            case ["weighted", _, *_]:
                raise setup.err("unexpected argument(s)")
            case ["weighted"]:
                raise setup.err("missing weight file argument")
            case [other, *_]:
                raise CorefileError(f"unknown policy: {other}")
        for word, values in setup.properties():
            if word == "reload" and policy == "weighted" and len(values) == 1:
                duration(values[0])
            elif word == "prefer" and values:
                preferred += [ipaddress.ip_network(v, strict=False) for v in values]
            else:
                raise setup.err(f"unknown property '{word}'")
        setup.no_more()
        return cls(policy, weights, preferred)

    async def serve(self, request: Request) -> Response:
        """Reorder what comes back."""
        response = await self.next.serve(request)
        if len(response.answer) < 2 or request.qtype not in MOVED:
            return response
        fixed = [r for r in response.answer if r.type not in MOVED]
        moved = [r for r in response.answer if r.type in MOVED]
        if len(moved) > 1:
            fixed.sort(key=lambda r: r.type != codes.CNAME)
            if self.policy == "weighted":
                moved = self._by_weight(moved)
                response.replay = None
            else:
                start = random.randrange(len(moved))
                moved = moved[start:] + moved[:start]
                response.rotate = not self._preferred
                if self._preferred:
                    response.replay = None
            if self._preferred:
                moved.sort(key=self._rank)
            response.answer = fixed + moved
        return response

    def shortcut(self, behind: Shortcut | None, server: str, view: str) -> Shortcut | None:
        """One record has no order."""
        return behind

    def _by_weight(self, records: list[RR]) -> list[RR]:
        weights = self._weights.get(records[0].name.lower())
        if not weights:
            return records
        chosen = random.choices(range(len(records)), [weights.get(_text(r), 1) for r in records])[0]
        return [records[chosen], *records[:chosen], *records[chosen + 1 :]]

    def _rank(self, record: RR) -> int:
        if record.type == codes.MX:
            return len(self._preferred)
        ip = ipaddress.ip_address(address_text(record))
        ranks = (i for i, n in enumerate(self._preferred) if n.version == ip.version and ip in n)
        return next(ranks, len(self._preferred))


def _text(record: RR) -> str:
    return address_text(record) if record.type != codes.MX else ""


def parse_weights(text: str) -> dict[str, dict[str, int]]:
    """Read a weight file: a name alone on its line, then lines of address and weight."""
    found: dict[str, dict[str, int]] = {}
    current: dict[str, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        match line.split("#")[0].split():
            case []:
                continue
            case [name]:
                current = found.setdefault(normalize(absolute(name)), {})
            case [ip, weight] if current is not None:
                try:
                    value = int(weight)
                    key = str(ipaddress.ip_address(ip))
                except ValueError as error:
                    raise CorefileError(
                        f"wrong IP address or weight in line {number}: {line}"
                    ) from error
                if not 0 < value < 256:
                    raise CorefileError(f"wrong weight value in line {number}: {weight}")
                current[key] = value
            case _:
                raise CorefileError(f"missing domain name or wrong line {number}: {line}")
    return found


PLUGIN = LoadBalance
