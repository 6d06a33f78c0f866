"""What DNS answers teach: which addresses a name has, and for how long.

An answer is read from the packet that carries it, on its way from the cluster's DNS to a pod. Every
name of a chain of CNAMEs has the addresses at its end, for the shortest TTL of the chain.
"""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from ipaddress import ip_address
from typing import NamedTuple

from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Message, parse
from kubewire.lang.dns.record import RR, address_text
from kubewire.networkpolicy.model import Address

LEAST = 5.0
"""Seconds for which an address is kept however short its TTL: a client needs a moment to connect."""
GRACE = 1.0
"""Seconds beyond the TTL, for those who use an answer in its last moment."""
MOST = 20_000
"""Addresses that are remembered."""
_RESPONSE = 0x8000
_UDP, _TCP = 17, 6


class Learned(NamedTuple):
    """A name has an address for some seconds."""

    name: str
    address: Address
    ttl: int


def read(packet: bytes) -> list[Learned]:
    """What an IP packet with a DNS answer says; nothing if it holds none."""
    data = _payload(packet)
    try:
        message = parse(data) if data else None
        if message is None or not message.flags & _RESPONSE or message.rcode:
            return []
        return list(_learned(message))
    except ValueError:
        # Not DNS, or records that are not what their type says.
        return []


def _payload(packet: bytes) -> bytes:
    """The DNS message of a UDP or TCP packet; of TCP only one that a segment holds whole."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        start, protocol = (packet[0] & 15) * 4, packet[9]
    elif len(packet) >= 40 and packet[0] >> 4 == 6:
        start, protocol = 40, packet[6]
    else:
        return b""
    if protocol == _UDP:
        return packet[start + 8 :]
    if protocol == _TCP and len(packet) > start + 12:
        data = packet[start + (packet[start + 12] >> 4) * 4 :]
        length = int.from_bytes(data[:2], "big")
        return data[2 : 2 + length] if len(data) >= 2 + length else b""
    return b""


def _learned(message: Message) -> Iterator[Learned]:
    if message.question is None:
        return
    by_owner: dict[str, list[RR]] = {}
    for record in message.answer:
        by_owner.setdefault(_plain(record.name), []).append(record)
    for owner in {_plain(message.question.name), *by_owner}:
        for address, ttl in _addresses(by_owner, owner):
            yield Learned(owner, address, ttl)


def _addresses(by_owner: dict[str, list[RR]], owner: str) -> Iterator[tuple[Address, int]]:
    """Addresses at the end of a chain."""
    ttl, seen = 1 << 31, {""}
    while owner not in seen:
        seen.add(owner)
        following = ""
        for record in by_owner.get(owner, ()):
            if record.type == codes.CNAME and record.rdata:
                following, ttl = _plain(str(record.target)), min(ttl, record.ttl)
            elif record.type in (codes.A, codes.AAAA) and record.rdata:
                yield ip_address(address_text(record)), min(ttl, record.ttl)
        owner = following


def _plain(name: str) -> str:
    return name.rstrip(".").lower()


class Names:
    """Addresses of names until they expire; what has expired is remembered for open connections."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, Address], float] = {}
        self._due: list[tuple[float, str, Address]] = []
        self._current: dict[str, set[Address]] = {}

    def learn(
        self, found: list[Learned], now: float, wanted: Callable[[str], bool]
    ) -> dict[str, frozenset[Address]]:
        """Note an answer; gives the names that have got addresses."""
        changed = set()
        for name, address, ttl in found:
            if not wanted(name) or len(self._until) >= MOST:
                continue
            until = now + max(ttl, LEAST) + GRACE
            if until > self._until.get((name, address), 0.0):
                self._until[name, address] = until
                heappush(self._due, (until, name, address))
            if address not in (known := self._current.setdefault(name, set())):
                known.add(address)
                changed.add(name)
        return {n: frozenset(self._current[n]) for n in changed}

    def expire(self, now: float) -> dict[str, frozenset[Address]]:
        """Forget what is too old; gives the names that have lost addresses."""
        changed = set()
        while self._due and self._due[0][0] <= now:
            until, name, address = heappop(self._due)
            if self._until.get((name, address)) == until:
                del self._until[name, address]
                self._current[name].discard(address)
                changed.add(name)
        lost = {n: frozenset(self._current[n]) for n in changed}
        for name in changed:
            if not self._current[name]:
                del self._current[name]
        return lost

    def next(self, now: float) -> float | None:
        """Seconds until something expires."""
        return max(0.0, self._due[0][0] - now) if self._due else None
