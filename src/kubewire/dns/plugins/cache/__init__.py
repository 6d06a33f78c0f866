"""cache: keep what others answered for a while."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from kubewire.dns.metrics import Book, Metric
from kubewire.dns.plugin import Plugin, Replay, Request, Response, Setup, Shortcut
from kubewire.dns.plugins.cache.policy import Policy, read
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import AD
from kubewire.lang.dns.name import longest_zone
from kubewire.lang.dns.record import RR, soa_numbers

log = logging.getLogger("kubewire.dns.plugin.cache")

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
    retry_at: float = -math.inf
    """When to ask again after that failed."""

    def left(self, now: float) -> float:
        """Seconds until it is too old; negative after that."""
        return self.ttl - (now - self.stored)


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
        return cls(read(setup))

    async def serve(self, request: Request) -> Response:
        """Answer from memory, else keep what the next plugin says."""
        policy, name = self.policy, request.name
        if policy.zones != ["."] and not longest_zone(name, policy.zones):
            return await self.next.serve(request)
        labels = self._of(request.server, request.view)
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

    def shortcut(self, behind: Shortcut | None, server: str, view: str) -> Shortcut | None:
        """Names that are never kept are counted and pass."""
        if behind is None or not all(
            longest_zone(zone, self._never) and longest_zone(zone, self.policy.zones)
            for zone in behind.zones
        ):
            return None
        counted = (*behind.counted, (REQUESTS, self._of(server, view)))
        return behind._replace(counted=counted)

    def _of(self, server: str, view: str) -> tuple[str, str, str]:
        found = self._labels.get(server)
        if found is None:
            found = self._labels[server] = (server, self._zones, view)
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
            self._refresh(request, key, item)
        return self._reply(request, item, left, now)

    async def _miss(self, request: Request, key: Key) -> Response:
        response = await self.next.serve(request)
        # Options are about one question, and stay out of answers to others.
        response.options = ()
        if response.written and not response.drop and response.raw is None:
            self._keep(request, key, response, self.clock())
        if not request.do and not request.message.flags & AD:
            response.ad = False
        return response

    def _find(self, key: Key, now: float) -> Item | None:
        """What is fresh, or stale and served nevertheless; a failure never hides an answer."""
        success, denial = (self._usable(kind, key, now) for kind in (True, False))
        if denial is None or success is None:
            return denial or success
        positive = self.policy.stale and self.policy.prefer_positive
        if positive or denial.response.rcode == codes.SERVFAIL:
            return success
        return denial

    def _usable(self, kind: bool, key: Key, now: float) -> Item | None:
        item = self._kept[kind].get(key)
        if item is None or item.left(now) > -self.policy.stale:
            return item
        del self._kept[kind][key]
        return None

    async def _stale(self, request: Request, key: Key, item: Item) -> Response:
        refreshing = self._refresh(request, key, item)
        if self.policy.verify and refreshing is not None:
            # None: as long as it takes. What comes too late is for the next one who asks.
            await asyncio.wait([refreshing], timeout=self.policy.verify_for or None)
            fresh = refreshing.result() if refreshing.done() else None
            if fresh is not None:
                return fresh
        self.metrics.add(STALE, *self._of(request.server, request.view))
        return self._reply(request, item, self.policy.stale_ttl, self.clock(), stale=True)

    def _refresh(
        self, request: Request, key: Key, item: Item
    ) -> asyncio.Task[Response | None] | None:
        """Begin to ask again, unless that goes on already or failed just now."""
        if key in self._refreshing or self.clock() < item.retry_at:
            return None
        self._refreshing.add(key)
        self.metrics.add(PREFETCHES, *self._of(request.server, request.view))

        async def ask() -> Response | None:
            try:
                fresh = await self._miss(request, key)
            except Exception:
                log.exception("plugin/cache: refresh of %s", request.name)
                fresh = Response.failure(codes.SERVFAIL)
            finally:
                self._refreshing.discard(key)
            if fresh.rcode in (codes.SERVFAIL, codes.REFUSED) or not fresh.written:
                item.retry_at = self.clock() + self.policy.recheck
                return None
            return fresh

        return asyncio.get_running_loop().create_task(ask(), name="cache refresh")

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

    def _reply(
        self, request: Request, item: Item, left: float, now: float, *, stale: bool = False
    ) -> Response:
        response = item.response.copy()
        whole = math.ceil(left)
        if not self.policy.keep_ttl or stale:
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
        end = now + (left - (whole - 1))
        response.replay = None if stale or prefetching else Replay(deps, min(end, now + left))
        return response

    def _keep(self, request: Request, key: Key, response: Response, now: float) -> None:
        kind = self._kind(key, response)
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
            self.metrics.add(EVICTIONS, *self._of(request.server, request.view), KINDS[success])
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

    def _kind(self, key: Key, response: Response) -> str | None:
        if response.tc or key[1] in (codes.AXFR, codes.IXFR, codes.TSIG):
            return None
        has_soa = any(r.type == codes.SOA for r in response.authority)
        match response.rcode:
            case codes.NOERROR if response.answer:
                found = has_soa or _is_answered(key, response.answer)
                return "success" if found else None
            case codes.NOERROR if has_soa:
                return "denial"
            case codes.NOERROR if any(r.type == codes.NS for r in response.authority):
                return "success"
            case codes.NXDOMAIN if has_soa:
                return "denial"
            case codes.SERVFAIL | codes.NOTIMP:
                return "servfail"
        return None


def _is_answered(key: Key, answer: list[RR]) -> bool:
    """Tell whether records are about the question, over any CNAMEs: others are nobody's answer."""
    name, qtype, qclass, *_ = key
    if qtype == codes.ANY:
        return True
    links = {r.name.lower(): r.target.lower() for r in answer if r.type == codes.CNAME}
    held = {r.name.lower() for r in answer if r.type == qtype and r.rclass == qclass}
    for _ in range(len(links) + 1):
        if name in held:
            return True
        name = links.get(name, "")
    return False


def _aged(record: RR, ttl: int) -> RR:
    return record if record.type == codes.OPT else record.aged(ttl)


def _lowest(response: Response, default: float) -> float:
    found = [r.ttl for s in (response.answer, response.authority, response.additional) for r in s]
    if response.rcode == codes.NXDOMAIN or not response.answer:
        found += [soa_numbers(r)[4] for r in response.authority if r.type == codes.SOA]
    return min(found, default=default)


PLUGIN = Cache
