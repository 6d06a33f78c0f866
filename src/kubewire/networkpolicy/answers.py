"""What DNS answers teach: which addresses a name has, and for how long.

An answer is read from the packet that carries it, on its way from the cluster's DNS to a pod. Every
name of a chain of CNAMEs has the addresses at its end, for the shortest TTL of the chain.
"""

from collections.abc import Callable, Iterable, Iterator
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
_FIN, _SYN, _RST = 1, 2, 4
_WRAP = 0xFFFFFFFF
STREAMS = 1024
"""TCP connections whose answers are put together at once."""
LONGEST = 1 << 18
"""Bytes that are kept of one of them."""


class Learned(NamedTuple):
    """A name has an address for some seconds."""

    name: str
    address: Address
    ttl: int


class Reader:
    """Reads answers from packets; puts those together that come in several TCP segments."""

    def __init__(self) -> None:
        self._streams: dict[bytes, Stream] = {}

    def read(self, packet: bytes) -> list[Learned]:
        """What is known with an IP packet; nothing if no answer ends in it."""
        return [found for data in self._messages(packet) for found in _answer(data)]

    def _messages(self, packet: bytes) -> Iterable[bytes]:
        """The DNS messages that end in a packet."""
        if len(packet) >= 20 and packet[0] >> 4 == 4:
            start, protocol, ends = (packet[0] & 15) * 4, packet[9], packet[12:20]
        elif len(packet) >= 40 and packet[0] >> 4 == 6:
            start, protocol, ends = 40, packet[6], packet[8:40]
        else:
            return ()
        if protocol == _UDP:
            return (packet[start + 8 :],)
        if protocol == _TCP and len(packet) >= start + 20:
            return self._segment(ends + packet[start : start + 4], packet[start:])
        return ()

    def _segment(self, key: bytes, segment: bytes) -> Iterable[bytes]:
        number, flags = int.from_bytes(segment[4:8], "big"), segment[13]
        data = segment[(segment[12] >> 4) * 4 :]
        stream = self._streams.pop(key, None)
        if flags & _SYN:
            stream = Stream(number + 1)
        elif stream is None:
            # A stream that began before this agent: the segment is taken for the start of an answer.
            stream = Stream(number)
        found = stream.take(number, data)
        if not flags & (_FIN | _RST) and stream.size <= LONGEST:
            self._streams[key] = stream
            if len(self._streams) > STREAMS:
                del self._streams[next(iter(self._streams))]
        return found


class Stream:
    """One direction of a TCP connection, as far as it has not been read yet."""

    def __init__(self, number: int) -> None:
        self._next = number
        self._data = b""
        self._ahead: dict[int, bytes] = {}
        """Segments that came before their turn."""

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return len(self._data) + sum(map(len, self._ahead.values()))

    def take(self, number: int, data: bytes) -> list[bytes]:
        """Add a segment; gives the messages that are whole now."""
        if data:
            self._ahead[number & _WRAP] = data
        while (at := self._fitting()) is not None:
            data = self._ahead.pop(at)[(self._next - at) & _WRAP :]
            self._data += data
            self._next += len(data)
        return list(self._whole())

    def _fitting(self) -> int | None:
        """A segment that holds the next byte, or nothing but bytes that were there before."""
        past = (at for at in self._ahead if (self._next - at) & _WRAP <= LONGEST)
        return next(past, None)

    def _whole(self) -> Iterator[bytes]:
        while len(self._data) >= 2:
            end = 2 + int.from_bytes(self._data[:2], "big")
            if len(self._data) < end:
                return
            yield self._data[2:end]
            self._data = self._data[end:]


def _answer(data: bytes) -> list[Learned]:
    try:
        message = parse(data) if data else None
        if message is None or not message.flags & _RESPONSE or message.rcode:
            return []
        return list(_learned(message))
    except ValueError:
        # Not DNS, or records that are not what their type says.
        return []


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
