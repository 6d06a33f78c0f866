"""How each scheduler of IPVS shares connections out: the kernel's algorithms on plain numbers.

``share`` plays a number of connections that all stay open, from clients of distinct ports, and
counts. Every destination has a weight; the loads are what a scheduler may look at:

| Scheduler | Picks |
|---|---|
| rr, wrr | in turn; wrr as often as the weight says |
| lc, wlc | fewest connections; wlc per weight |
| sed, nq | least (connections + 1) / weight; nq an idle one first |
| lblc, lblcr | the one (or of the few) that the address had before, unless it is overloaded |
| dh, sh, mh | by a hash of the address asked for (dh) or of the client (sh, mh; with its port if flagged) |
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import cycle, islice
from math import gcd

from kubewire.lang.ipvs.model import PORT_IN_HASH, DestinationKey, VirtualServer

Loads = dict[DestinationKey, int]
"""Open connections."""

_GOLDEN = 0x61C88647
_BUCKETS = 256


def share(server: VirtualServer, clients: Sequence[tuple[str, int]]) -> Loads:
    """Connections per destination after these clients (address, port) have connected once each."""
    weights = {key: w for key, w in server.destinations.items() if w > 0}
    loads: Loads = dict.fromkeys(weights, 0)
    if not weights:
        return loads
    choose = _CHOOSERS[server.scheduler](server, weights, loads)
    for client in clients:
        loads[choose(client)] += 1
    return loads


Weights = dict[DestinationKey, int]
Choose = Callable[[tuple[str, int]], DestinationKey]


def _in_turn(server: VirtualServer, weights: Weights, loads: Loads) -> Choose:
    turns = cycle(weights)
    return lambda _: next(turns)


def _weighted_turn(server: VirtualServer, weights: Weights, loads: Loads) -> Choose:
    turns = _wrr(weights)
    return lambda _: next(turns)


def _wrr(weights: Weights) -> Iterator[DestinationKey]:
    """Rounds of falling thresholds: heavy ones take part in more of them."""
    step, top = gcd(*weights.values()), max(weights.values())
    while True:
        for threshold in range(top, 0, -step):
            yield from (key for key, weight in weights.items() if weight >= threshold)


def _least(cost: Callable[[int, int], Fraction | int]) -> Callable[..., Choose]:
    def made(server: VirtualServer, weights: Weights, loads: Loads) -> Choose:
        return lambda _: min(weights, key=lambda key: cost(loads[key], weights[key]))

    return made


def _never_queue(server: VirtualServer, weights: Weights, loads: Loads) -> Choose:
    shortest = _least(_expected)(server, weights, loads)
    return lambda client: next((k for k in weights if not loads[k]), None) or shortest(client)


def _expected(load: int, weight: int) -> Fraction:
    return Fraction(load + 1, weight)


def _locality(server: VirtualServer, weights: Weights, loads: Loads) -> Choose:
    """One address, one destination: until it has more connections than weight and another few."""
    return _by_memory(weights, loads, several=False)


def _replicated_locality(server: VirtualServer, weights: Weights, loads: Loads) -> Choose:
    """One address, the least loaded of its set: when that is overloaded, the set grows."""
    return _by_memory(weights, loads, several=True)


def _by_memory(weights: Weights, loads: Loads, *, several: bool) -> Choose:
    held: list[DestinationKey] = []

    def least(among: Iterable[DestinationKey]) -> DestinationKey:
        return min(among, key=lambda key: Fraction(loads[key], weights[key]))

    def choose(client: tuple[str, int]) -> DestinationKey:
        if held:
            best = least(held)
            idle = any(loads[key] * 2 < weights[key] for key in weights)
            if not (loads[best] > weights[best] and idle):
                return best
        if not several:
            held.clear()
        held.append(least(weights))
        return held[-1]

    return choose


def _by_address(server: VirtualServer, weights: Weights, loads: Loads) -> Choose:
    """All of one address go to one destination; which one follows from the order in the kernel."""
    buckets = list(islice(cycle(weights), _BUCKETS))
    picked = buckets[_hash(server.key.address or "0.0.0.0", 0)]
    return lambda _: picked


def _by_client(server: VirtualServer, weights: Weights, loads: Loads) -> Choose:
    turns = cycle(key for key, weight in weights.items() for _ in range(weight))
    buckets = list(islice(turns, _BUCKETS))
    with_port = bool(server.flags & PORT_IN_HASH)
    return lambda client: buckets[_hash(client[0], client[1] if with_port else 0)]


def _hash(address: str, port: int) -> int:
    packed = ipaddress.ip_address(address).packed
    folded = 0
    for start in range(0, len(packed), 4):
        folded ^= int.from_bytes(packed[start : start + 4], "big")
    return ((folded + port) * _GOLDEN & 0xFFFFFFFF) >> 24


_CHOOSERS: dict[str, Callable[[VirtualServer, Weights, Loads], Choose]] = {
    "rr": _in_turn,
    "wrr": _weighted_turn,
    "lc": _least(lambda load, _: load),
    "wlc": _least(Fraction),
    "sed": _least(_expected),
    "nq": _never_queue,
    "lblc": _locality,
    "lblcr": _replicated_locality,
    "dh": _by_address,
    "sh": _by_client,
    # Another hash and a finer table than sh, the same shares.
    "mh": _by_client,
}
SCHEDULERS = tuple(_CHOOSERS)
