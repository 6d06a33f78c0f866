"""cache: keep what others answered for a while."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from kubewire.dns.corefile import CorefileError
from kubewire.dns.metrics import Book, Metric
from kubewire.dns.plugin import Plugin, Replay, Request, Response, Setup, duration
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import AD
from kubewire.lang.dns.name import longest_zone, normalize
from kubewire.lang.dns.record import RR, soa_numbers

log = logging.getLogger("kubewire.dns.plugin.cache")

CAPACITY = 9984
_OF = ("server", "zones", "view")
REQUESTS = Metric("coredns_cache_requests_total", "The count of cache requests.", _OF)
HITS = Metric("coredns_cache_hits_total", "The count of cache hits.", (*_OF, "type"))
MISSES = Metric(
    "coredns_cache_misses_total",
    "The count of cache misses. Deprecated, derive misses from cache hits/requests counters.", _OF,
)  # fmt: skip
ENTRIES = Metric(
    "coredns_cache_entries", "The number of elements in the cache.", (*_OF, "type"), "gauge"
)
PREFETCHES = Metric(
    "coredns_cache_prefetch_total",
    "The number of times the cache has prefetched a cached item.", _OF,
)  # fmt: skip
STALE = Metric(
    "coredns_cache_served_stale_total",
    "The number of requests served from stale cache entries.", _OF,
)  # fmt: skip
EVICTIONS = Metric("coredns_cache_evictions_total", "The count of cache evictions.", (*_OF, "type"))
KINDS = {True: "success", False: "denial"}
Key = tuple[str, int, int, bool, bool]


@dataclass(slots=True)
class Item:
    """A kept answer."""

    response: Response
    ttl: float
    stored: float
    hits: int = 0
    since: float = 0.0

    def left(self, now: float) -> float:
        """Seconds until it is too old; negative after that."""
        return self.ttl - (now - self.stored)


@dataclass
class Policy:
    """Options of the plugin."""

    zones: list[str]
    success: tuple[int, float, float] = (CAPACITY, 3600, 5)
    """Capacity, longest and shortest life."""
    denial: tuple[int, float, float] = (CAPACITY, 1800, 5)
    servfail: float = 5
    prefetch: int = 0
    prefetch_for: float = 60
    prefetch_percent: int = 10
    stale: float = 0
    verify: bool = False
    prefer_positive: bool = False
    keep_ttl: bool = False
    no_success: list[str] = field(default_factory=list)
    no_denial: list[str] = field(default_factory=list)


class Cache(Plugin):
    """Positive and negative answers by name, type, class, DO and CD."""

    name = "cache"

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.clock = time.monotonic
        self._kept: dict[bool, dict[Key, Item]] = {True: {}, False: {}}
        """Success, denial."""
        self._refreshing: set[Key] = set()
        self._users: dict[Hashable, set[Key]] = {}
        self._zones = ",".join(policy.zones)
        self._labels: dict[str, tuple[str, str, str]] = {}
        """Of the servers that asked: server, zones, view."""
        success, denial = policy.no_success, policy.no_denial
        self._never = [z for z in success if longest_zone(z, denial)]
        self._never += [z for z in denial if longest_zone(z, success)]
        """Zones of which nothing is kept."""

    def forget(self, deps: Iterable[Hashable]) -> None:
        """Drop answers that were made of these: they must not outlive a change."""
        for dep in deps:
            for key in self._users.pop(dep, ()):
                for kept in self._kept.values():
                    kept.pop(key, None)

    @classmethod
    def setup(cls, setup: Setup) -> Cache:
        """Read the directive."""
        return cls(_read(setup))

    async def serve(self, request: Request) -> Response:
        """Answer from memory, else keep what the next plugin says."""
        policy, name = self.policy, request.name
        if policy.zones != ["."] and not longest_zone(name, policy.zones):
            return await self.next.serve(request)
        labels = self._of(request)
        self.metrics.add(REQUESTS, *labels)
        if self._never and longest_zone(name, self._never):
            response = await self.next.serve(request)
            response.counted += ((REQUESTS, labels),)
            return response
        key = (
            request.name, request.qtype, request.qclass, request.do,
            bool(request.message.flags & 0x0010),
        )  # fmt: skip
        now = self.clock()
        item = self._find(key, now)
        if item is not None:
            kind = KINDS[item is self._kept[True].get(key)]
            self.metrics.add(HITS, *labels, kind)
            response = await self._hit(request, key, item, now)
            response.counted = ((REQUESTS, labels), (HITS, (*labels, kind)))
            return response
        return await self._miss(request, key)

    def _of(self, request: Request) -> tuple[str, str, str]:
        found = self._labels.get(request.server)
        if found is None:
            found = self._labels[request.server] = (request.server, self._zones, request.view)
        return found

    def measure(self, book: Book) -> None:
        """Entries, and the misses: what was asked and not hit."""
        for labels in self._labels.values():
            for success, kind in KINDS.items():
                book.set(ENTRIES, len(self._kept[success]), *labels, kind)
            hits = sum(book.get(HITS, *labels, kind) for kind in KINDS.values())
            book.set(MISSES, book.get(REQUESTS, *labels) - hits, *labels)

    async def _hit(self, request: Request, key: Key, item: Item, now: float) -> Response:
        left = item.left(now)
        if left <= 0:
            return await self._stale(request, key, item)
        self._count(item, now)
        if self._wants_prefetch(item, left):
            self._refresh(request, key)
        return self._reply(request, item, 0 if left <= 0 else left, now)

    async def _miss(self, request: Request, key: Key) -> Response:
        response = await self.next.serve(request)
        if response.written and not response.drop and response.raw is None:
            self._keep(request, key, response, self.clock())
        if not request.do and not request.message.flags & AD:
            response.ad = False
        return response

    def _find(self, key: Key, now: float) -> Item | None:
        for kind in (False, True):
            item = self._kept[kind].get(key)
            if item is None:
                continue
            left = item.left(now)
            if left > 0 or (kind and left > -self.policy.stale):
                return item
            if kind or not self.policy.stale:
                del self._kept[kind][key]
        return None

    async def _stale(self, request: Request, key: Key, item: Item) -> Response:
        if self.policy.verify:
            fresh = await self.next.serve(request)
            if fresh.rcode not in (codes.SERVFAIL, codes.REFUSED) and fresh.written:
                self._keep(request, key, fresh, self.clock())
                return fresh
        else:
            self._refresh(request, key)
        self.metrics.add(STALE, *self._of(request))
        return self._reply(request, item, 0, self.clock())

    def _refresh(self, request: Request, key: Key) -> None:
        import asyncio

        if key in self._refreshing:
            return
        self._refreshing.add(key)
        self.metrics.add(PREFETCHES, *self._of(request))

        async def ask() -> None:
            try:
                await self._miss(request, key)
            finally:
                self._refreshing.discard(key)

        task = asyncio.get_running_loop().create_task(ask(), name="cache prefetch")
        task.add_done_callback(_observe)

    def _count(self, item: Item, now: float) -> None:
        if now - item.since > self.policy.prefetch_for:
            item.hits = 0
        item.hits += 1
        item.since = now

    def _wants_prefetch(self, item: Item, left: float) -> bool:
        policy = self.policy
        return bool(
            policy.prefetch
            and item.hits >= policy.prefetch
            and left <= item.ttl * policy.prefetch_percent / 100
        )

    def _reply(self, request: Request, item: Item, left: float, now: float) -> Response:
        response = item.response.copy()
        whole = math.ceil(left)
        if not self.policy.keep_ttl or left <= 0:
            response.answer = [_aged(r, whole) for r in response.answer]
            response.authority = [_aged(r, whole) for r in response.authority]
            response.additional = [_aged(r, whole) for r in response.additional]
        response.aa = True
        response.rd = None
        response.cd = None
        if not request.do and not request.message.flags & AD:
            response.ad = False
        response.reason = (
            f"kept by cache: {response.reason}" if response.reason else "kept by cache"
        )
        deps = response.replay.deps if response.replay else ()
        prefetching = self.policy.prefetch and not self.policy.keep_ttl
        end = now + (left - (whole - 1)) if left > 0 else now
        response.replay = None if left <= 0 or prefetching else Replay(deps, min(end, now + left))
        return response

    def _keep(self, request: Request, key: Key, response: Response, now: float) -> None:
        kind = self._kind(key[1], response)
        if kind is None:
            return
        off = self.policy.no_success if kind == "success" else self.policy.no_denial
        if longest_zone(key[0], off):
            return
        capacity, longest, shortest = (
            self.policy.success if kind == "success" else self.policy.denial
        )
        ttl = max(min(_lowest(response, longest), longest), shortest)
        if kind == "servfail":
            ttl = self.policy.servfail
            if ttl <= 0:
                return
        success = kind == "success"
        if not success and self.policy.stale and self.policy.prefer_positive:
            old = self._kept[True].get(key)
            if old is not None and old.left(now) > -self.policy.stale:
                return
        kept = self._kept[success]
        if key not in kept and len(kept) >= capacity:
            self._evict(kept)
            self.metrics.add(EVICTIONS, *self._of(request), KINDS[success])
        whole = math.ceil(ttl)
        response.answer = [_aged(r, whole) for r in response.answer]
        response.authority = [_aged(r, whole) for r in response.authority]
        response.additional = [_aged(r, whole) for r in response.additional]
        kept[key] = Item(response.copy(), ttl, now, since=now)
        if success:
            self._kept[False].pop(key, None)
        if response.replay is not None:
            for dep in response.replay.deps:
                self._users.setdefault(dep, set()).add(key)
        if response.replay is not None:
            response.replay = Replay(response.replay.deps, now)

    def _evict(self, kept: dict[Key, Item]) -> None:
        """One at random, of a few: looking at all of them would be slow."""
        place = random.randrange(min(len(kept), 32))
        for index, key in enumerate(kept):
            if index == place:
                del kept[key]
                return

    def _kind(self, qtype: int, response: Response) -> str | None:
        if response.tc or qtype in (codes.AXFR, codes.IXFR, codes.TSIG):
            return None
        has_soa = any(r.type == codes.SOA for r in response.authority)
        match response.rcode:
            case codes.NOERROR if response.answer:
                ends = response.answer[-1].type
                chain = ends == codes.CNAME and qtype not in (codes.CNAME, codes.ANY)
                return None if chain and not has_soa else "success"
            case codes.NOERROR if has_soa:
                return "denial"
            case codes.NOERROR if any(r.type == codes.NS for r in response.authority):
                return "success"
            case codes.NXDOMAIN if has_soa:
                return "denial"
            case codes.SERVFAIL | codes.NOTIMP:
                return "servfail"
        return None


def _observe(task: object) -> None:
    import asyncio

    assert isinstance(task, asyncio.Task)
    if not task.cancelled() and (error := task.exception()):
        log.error("plugin/cache: prefetch: %s", error)


def _aged(record: RR, ttl: int) -> RR:
    return record if record.type == codes.OPT else record.aged(ttl)


def _lowest(response: Response, default: float) -> float:
    found = [r.ttl for s in (response.answer, response.authority, response.additional) for r in s]
    if response.rcode == codes.NXDOMAIN or not response.answer:
        found += [soa_numbers(r)[4] for r in response.authority if r.type == codes.SOA]
    return min(found, default=default)


def _read(setup: Setup) -> Policy:
    args = setup.once()
    policy = Policy([])
    if args and args[0].isdecimal():
        ttl = int(args.pop(0))
        policy.success = (CAPACITY, ttl, 5)
        policy.denial = (CAPACITY, ttl, 5)
        if ttl == 0:
            raise CorefileError("cache TTL can not be zero or negative: 0")
    elif args and args[0].lstrip("-").isdecimal():
        raise CorefileError(f"cache TTL can not be zero or negative: {args[0]}")
    policy.zones = setup.zones(args)
    for word, values in setup.properties():
        match word:
            case "success":
                policy.success = _life(setup, values, 3600)
            case "denial":
                policy.denial = _life(setup, values, 1800)
            case "prefetch":
                _prefetch(setup, policy, values)
            case "serve_stale":
                _serve_stale(setup, policy, values)
            case "serve_stale_policy":
                if values != ["prefer_positive"]:
                    raise setup.err(f"invalid value for serve_stale_policy: {' '.join(values)}")
                policy.prefer_positive = True
            case "servfail":
                if len(values) != 1:
                    raise setup.arg_err()
                policy.servfail = duration(values[0])
                if policy.servfail < 0:
                    raise CorefileError(f"invalid negative ttl for servfail: {values[0]}")
                if policy.servfail > 300:
                    raise CorefileError(
                        "caching SERVFAIL responses over 5 minutes is not permitted"
                    )
            case "disable":
                _disable(setup, policy, values)
            case "keepttl":
                if values:
                    raise setup.arg_err()
                policy.keep_ttl = True
            case _:
                raise setup.err(f"Wrong argument count or unexpected line ending after '{word}'")
    setup.no_more()
    return policy


def _life(setup: Setup, args: list[str], longest: int) -> tuple[int, float, float]:
    if not args:
        raise setup.arg_err()
    try:
        numbers = [int(a) for a in args[:3]]
    except ValueError as error:
        raise CorefileError(f'strconv.Atoi: parsing "{args[0]}": invalid syntax') from error
    if len(numbers) > 1 and numbers[1] <= 0:
        raise CorefileError(f"cache TTL can not be zero or negative: {numbers[1]}")
    if len(numbers) > 2 and numbers[2] < 0:
        raise CorefileError(f"cache min TTL can not be negative: {numbers[2]}")
    return (
        numbers[0],
        numbers[1] if len(numbers) > 1 else longest,
        numbers[2] if len(numbers) > 2 else 5,
    )


def _prefetch(setup: Setup, policy: Policy, args: list[str]) -> None:
    if not 1 <= len(args) <= 3:
        raise setup.arg_err()
    policy.prefetch = int(args[0])
    if policy.prefetch < 0:
        raise CorefileError(f"prefetch amount should be positive: {args[0]}")
    if len(args) > 1:
        policy.prefetch_for = duration(args[1])
    if len(args) > 2:
        if not args[2].endswith("%"):
            raise CorefileError(
                f"last character of percentage should be `%`, but is: {args[2][-1]}"
            )
        policy.prefetch_percent = int(args[2][:-1])
        if not 10 <= policy.prefetch_percent <= 90:
            raise CorefileError(f"percentage should fall in range [10, 90]: {args[2]}")


def _serve_stale(setup: Setup, policy: Policy, args: list[str]) -> None:
    if len(args) > 2:
        raise setup.arg_err()
    policy.stale = 3600.0
    if args:
        policy.stale = duration(args[0])
        if policy.stale < 0:
            raise CorefileError("invalid negative duration for serve_stale")
    if len(args) > 1:
        if args[1].lower() not in ("verify", "immediate"):
            raise CorefileError("invalid value for serve_stale refresh mode: " + args[1])
        policy.verify = args[1].lower() == "verify"


def _disable(setup: Setup, policy: Policy, args: list[str]) -> None:
    if not args:
        raise setup.arg_err()
    zones = [normalize(z) for z in args[1:]] or ["."]
    if args[0] == "success":
        policy.no_success = zones
    elif args[0] == "denial":
        policy.no_denial = zones
    else:
        raise CorefileError(
            f'cache type for disable must be "success" or "denial", but got \'{args[0]}\''
        )


PLUGIN = Cache
