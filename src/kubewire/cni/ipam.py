"""Which address a pod gets: a pure allocator over ranges.

Each *range set* gives a pod one address (so two sets, IPv4 and IPv6, make a dual-stack pod), from
the first of its ranges that has a free one. Addresses are handed out in turn: the search starts
after the one reserved last, so a freed address rests as long as possible; a client that still
talks to the old owner must not reach a new pod.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
    summarize_address_range,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


_NOT_FOR_PODS = [
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4"),
        *("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
    )
]
"""What the kernel takes for itself, for one link or for groups."""


class IpamError(Exception):
    """An address cannot be given; the text names the field or the range."""


class ExhaustedError(IpamError):
    """No address of a range set is free."""


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses ``start`` to ``end`` of a subnet, without the gateway and the excluded ones."""

    subnet: Network
    start: Address
    end: Address
    gateway: Address
    exclude: tuple[Network, ...] = ()

    @classmethod
    def of(
        cls,
        subnet: str,
        *,
        start: str = "",
        end: str = "",
        gateway: str = "",
        exclude: Iterable[str] = (),
    ) -> "Range":
        """Read a range as it is configured; IpamError names the wrong field."""
        return _range(subnet, start, end, gateway, tuple(exclude))

    def __contains__(self, address: Address) -> bool:
        return (
            address.version == self.subnet.version
            and int(self.start) <= int(address) <= int(self.end)
            and address != self.gateway
            and not any(address in network for network in self.exclude)
        )

    def overlaps(self, other: "Range") -> bool:
        """Both could give the same address."""
        return self.subnet.version == other.subnet.version and (
            int(self.start) <= int(other.end) and int(other.start) <= int(self.end)
        )

    def without(self, networks: Iterable[Network]) -> "Range":
        """The same range without some more addresses."""
        own = [n for n in networks if n.version == self.subnet.version and n.overlaps(self.subnet)]
        return replace(self, exclude=_collapsed([*self.exclude, *own])) if own else self

    @property
    def networks(self) -> Iterator[Network]:
        """All addresses from start to end, as networks."""
        return summarize_address_range(self.start, self.end)

    def between(self, low: int, high: int) -> Iterator[Address]:
        """Every address that may be given, from ``low`` to ``high``; excluded nets are leapt over."""
        kind = type(self.start)
        number, high = max(low, int(self.start)), min(high, int(self.end))
        while number <= high:
            address = kind(number)
            skipped = self._skipped(address)
            if skipped is None:
                yield address
                number += 1
            else:
                number = skipped + 1

    def _skipped(self, address: Address) -> int | None:
        if address == self.gateway:
            return int(address)
        for network in self.exclude:
            if address in network:
                return int(network.broadcast_address)
        return None

    @property
    def size(self) -> int:
        """How many addresses it can give."""
        low, high = int(self.start), int(self.end)
        count = high - low + 1
        for network in self.exclude:
            first = max(low, int(network.network_address))
            count -= max(0, min(high, int(network.broadcast_address)) - first + 1)
        if low <= int(self.gateway) <= high and not any(self.gateway in n for n in self.exclude):
            count -= 1
        return count

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


def _network(name: str, text: str, *, strict: bool = True) -> Network:
    try:
        return ip_network(text, strict=strict)
    except ValueError as error:
        raise IpamError(f"{name} {text!r}: {error}") from None


def _inside(name: str, text: str, network: Network) -> Address:
    try:
        address = ip_address(text)
    except ValueError as error:
        raise IpamError(f"{name} {text!r}: {error}") from None
    if address not in network:
        raise IpamError(f"{name} {address}: is not in subnet {network}")
    return address


def _usable(network: Network) -> tuple[Address, Address]:
    last = network.broadcast_address - (1 if network.version == 4 else 0)
    return network.network_address + 1, last


def _collapsed(networks: Sequence[Network]) -> tuple[Network, ...]:
    v4 = [n for n in networks if isinstance(n, IPv4Network)]
    v6 = [n for n in networks if isinstance(n, IPv6Network)]
    return (*collapse_addresses(v4), *collapse_addresses(v6))


@lru_cache
def _range(subnet: str, start: str, end: str, gateway: str, exclude: tuple[str, ...]) -> Range:
    """Remembered: every call comes with its configuration, and it is the same one."""
    network = _network("subnet", subnet)
    for special in _NOT_FOR_PODS:
        if network.version == special.version and network.overlaps(special):
            raise IpamError(f"subnet {subnet}: overlaps {special}, which is not for pods")
    if network.num_addresses < 4:
        raise IpamError(f"subnet {subnet}: too small to allocate from")
    first, last = _usable(network)
    chosen = Range(
        subnet=network,
        start=_inside("rangeStart", start, network) if start else first,
        end=_inside("rangeEnd", end, network) if end else last,
        gateway=_inside("gateway", gateway, network) if gateway else first,
        exclude=_collapsed([_network("exclude", one, strict=False) for one in exclude]),
    )
    if int(chosen.start) > int(chosen.end):
        raise IpamError(f"rangeStart {chosen.start}: is after rangeEnd {chosen.end}")
    return chosen


RangeSet = tuple[Range, ...]


def within(part: Network, whole: Network) -> bool:
    """One network is another, or a part of it."""
    return part.version == whole.version and part.subnet_of(whole)  # type: ignore[arg-type]


def title(ranges: RangeSet) -> str:
    """How a set is written, and what its turn is remembered by."""
    return ", ".join(map(str, ranges))


def holds(ranges: RangeSet, address: Address) -> bool:
    """The set may give this address."""
    return any(address in one for one in ranges)


def range_sets(cidrs: Iterable[str]) -> tuple[RangeSet, ...]:
    """One set of one whole range for each podCIDR of a node."""
    return tuple((Range.of(cidr),) for cidr in cidrs)


def check(sets: Sequence[RangeSet], names: Sequence[str] = ()) -> None:
    """Refuse ranges that overlap, and sets that mix families or are empty.

    ``names`` are those of the fields that the sets come from.
    """
    if not sets:
        raise IpamError("ranges: at least one range is required")
    seen: list[Range] = []
    for number, ranges in enumerate(sets):
        name = names[number] if names else f"ranges[{number}]"
        if not ranges:
            raise IpamError(f"{name}: is empty")
        if len({r.subnet.version for r in ranges}) > 1:
            raise IpamError(f"{name}: mixes IPv4 and IPv6")
        for one in ranges:
            for other in seen:
                if one.overlaps(other):
                    raise IpamError(f"{name}: {one} overlaps {other}")
            seen.append(one)


@dataclass(slots=True)
class Leases:
    """Who holds which address; changed only by what `Store` has made durable."""

    owners: dict[Address, str] = field(default_factory=dict)
    addresses: dict[str, tuple[Address, ...]] = field(default_factory=dict)
    last: dict[str, Address] = field(default_factory=dict)
    """Range set, as `title` -> the address that it gave last in turn."""

    def take(self, owner: str, choice: "Choice") -> None:
        """Record a lease."""
        self.drop(owner)
        self.addresses[owner] = choice.addresses
        self.owners |= dict.fromkeys(choice.addresses, owner)
        self.last |= choice.last

    def drop(self, owner: str) -> tuple[Address, ...]:
        """Forget a lease; returns what it held."""
        addresses = self.addresses.pop(owner, ())
        for address in addresses:
            self.owners.pop(address, None)
        return addresses


@dataclass(frozen=True, slots=True)
class Choice:
    """Addresses for one owner, one per range set."""

    addresses: tuple[Address, ...]
    last: Mapping[str, Address]
    """Those that were given in turn, by the `title` of their set; requested ones do not count."""


def choose(sets: Sequence[RangeSet], leases: Leases, wanted: Iterable[Address] = ()) -> Choice:
    """Pick one free address from each set; a ``wanted`` one where the set holds it."""
    requests = dict.fromkeys(wanted)
    chosen: list[Address] = []
    last: dict[str, Address] = {}
    for ranges in sets:
        asked = next((a for a in requests if holds(ranges, a)), None)
        if asked is not None:
            del requests[asked]
            chosen.append(_static(asked, leases.owners))
        else:
            given = _next_free(ranges, leases.owners, leases.last.get(title(ranges)))
            last[title(ranges)] = given
            chosen.append(given)
    for one in requests:
        where = f"requested address {one}"
        for ranges, given in zip(sets, chosen, strict=True):
            if holds(ranges, one):
                raise IpamError(f"{where}: {given} is requested, too, and {title(ranges)} gives one address only")  # fmt: skip
        raise IpamError(f"{where}: {_why_not(sets, one)}")
    return Choice(tuple(chosen), last)


def _why_not(sets: Iterable[RangeSet], address: Address) -> str:
    """Why no range gives an address."""
    for one in (one for ranges in sets for one in ranges):
        if address == one.gateway:
            return f"is the gateway of {one.subnet}"
        if excluding := next((n for n in one.exclude if address in n), None):
            return f"is in {excluding}, which {one} leaves out"
    return f"is not in any range ({', '.join(map(title, sets))})"


def _static(address: Address, owners: Mapping[Address, str]) -> Address:
    if holder := owners.get(address):
        raise IpamError(f"requested address {address}: is held by {holder}")
    return address


def _next_free(ranges: RangeSet, owners: Mapping[Address, str], last: Address | None) -> Address:
    for address in _in_turn(ranges, last):
        if address not in owners:
            return address
    raise ExhaustedError(f"no address is free in {title(ranges)}")


def _in_turn(ranges: RangeSet, last: Address | None) -> Iterator[Address]:
    """All of a set's addresses once, beginning after ``last`` and going round."""
    top = 1 << 128
    for position, one in enumerate(ranges):
        if last is not None and last.version == one.start.version and one.start <= last <= one.end:  # type: ignore[operator]
            yield from one.between(int(last) + 1, top)
            for other in (*ranges[position + 1 :], *ranges[:position]):
                yield from other.between(0, top)
            yield from one.between(0, int(last))
            return
    for one in ranges:
        yield from one.between(0, top)


def free(sets: Sequence[RangeSet], owners: Mapping[Address, str]) -> int:
    """How many more pods fit: the number of free addresses of the fullest set."""
    return min((size(ranges) - used(ranges, owners) for ranges in sets), default=0)


def size(ranges: RangeSet) -> int:
    """How many addresses a set can give in all."""
    return sum(one.size for one in ranges)


def used(ranges: RangeSet, owners: Mapping[Address, str]) -> int:
    """How many addresses of a set are given."""
    return sum(1 for address in owners if holds(ranges, address))
