"""prometheus: counters of what was asked and answered, on an HTTP page."""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from kubewire import __version__
from kubewire.dns.config import Block, Configuration, Environment
from kubewire.dns.http import HttpServer, split_address
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.lang.dns import codes

SECONDS = tuple(0.00025 * 2**i for i in range(16))
SIZES = (0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16e3, 32e3, 48e3, 64e3)
NAMED = frozenset({
    "A", "AAAA", "CNAME", "DNSKEY", "DS", "HTTPS", "MX", "NS", "NSEC", "NSEC3", "PTR", "RRSIG",
    "SOA", "SRV", "SVCB", "TXT", "ANY", "IXFR", "AXFR",
})  # fmt: skip
"""Types with a label of their own."""

Labels = tuple[tuple[str, str], ...]
Kind = tuple[str, ...]
"""zone, view, proto, family, type, rcode, plugin of a question and its answer."""


class Histogram:
    """Counts per bucket, and the sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0


class Series:
    """Everything that is counted of one kind of questions."""

    __slots__ = ("asked", "count", "said", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = Histogram(SECONDS)
        self.asked = Histogram(SIZES)
        self.said = Histogram(SIZES)

    def add(self, asked: int, said: int, seconds: float, n: int = 1) -> None:
        """Count ``n`` questions alike."""
        self.count += n
        for histogram, value in (
            (self.seconds, seconds), (self.asked, asked), (self.said, said),
        ):  # fmt: skip
            # Once for each question that is not replayed, so the calls of a method are spared.
            histogram.counts[bisect_left(histogram.bounds, value)] += n
            histogram.sum += value * n


class Metrics:
    """All counters of one page, put together by labels when it is asked for."""

    def __init__(self) -> None:
        self.requests: Counter[Labels] = Counter()
        self.responses: Counter[Labels] = Counter()
        self.seconds: dict[Labels, Histogram] = {}
        self.request_size: dict[Labels, Histogram] = {}
        self.response_size: dict[Labels, Histogram] = {}

    def take(self, server: str, kind: Kind, series: Series) -> None:
        """Add what was counted of one kind."""
        zone, view, proto, family, qtype, rcode, plugin = kind
        where = (("server", server), ("zone", zone), ("view", view))
        named = qtype if qtype in NAMED else "other"
        self.requests[(*where, ("proto", proto), ("family", family), ("type", named))] += (
            series.count
        )
        self.responses[(*where, ("rcode", rcode), ("plugin", plugin))] += series.count
        sizes = (*where[:2], ("proto", proto), where[2])
        _add(self.seconds, where, series.seconds)
        _add(self.request_size, sizes, series.asked)
        _add(self.response_size, sizes, series.said)

    def include(self, other: Metrics) -> None:
        """Add another page's counters."""
        self.requests += other.requests
        self.responses += other.responses
        for name in ("seconds", "request_size", "response_size"):
            for labels, histogram in getattr(other, name).items():
                _add(getattr(self, name), labels, histogram)


def _add(found: dict[Labels, Histogram], labels: Labels, part: Histogram) -> None:
    into = found.setdefault(labels, Histogram(part.bounds))
    into.counts = [a + b for a, b in zip(into.counts, part.counts, strict=True)]
    into.sum += part.sum


class Prometheus(Plugin):
    """Counts on the way back; replayed answers are counted from the table when asked for."""

    name = "prometheus"

    def __init__(self, host: str, port: int, block: Block, env: Environment) -> None:
        self.address = (host, port)
        self.series: dict[tuple[str, str, int, int, int, str], Series] = {}
        """By server, protocol, family, type, rcode and plugin."""
        self._block = block
        self._env = env
        self._http: HttpServer | None = None
        self._began = time.time()
        self._before: Metrics | None = None
        """Of the configurations before this one."""

    @classmethod
    def setup(cls, setup: Setup) -> Prometheus:
        """Read the directive."""
        args = setup.once()
        if len(args) > 1:
            raise setup.arg_err()
        host, port = split_address(args[0], "") if args else ("localhost", 9153)
        for word, values in setup.properties():
            if word != "runtime_metrics":
                raise setup.unknown(word)
            if values:
                raise setup.arg_err()
        setup.no_more()
        return cls(host, port, setup.block, setup.env)

    async def start(self) -> None:
        """Listen, unless another block of this Corefile does so already."""
        first = next(p for p in self._peers() if p.address == self.address)
        if first is self and not self._env.offline:
            self._http = HttpServer(*self.address, {"/metrics": self._page})
            await self._http.open()

    async def started(self) -> None:
        """The configuration before this one has stopped: go on with its counters."""
        self._before = self._env.kept.pop(self._key, None)

    async def stop(self, *, final: bool) -> None:
        """Stop to listen; what was counted goes to the next configuration's page."""
        if self._http is not None:
            self._env.kept[self._key] = self._total()
            await self._http.close()

    async def serve(self, request: Request) -> Response:
        """Count."""
        began = time.perf_counter()
        response = await self.next.serve(request)
        key = (
            request.server, request.network, request.family, request.qtype, response.rcode, response.plugin,
        )  # fmt: skip
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = Series()
        records = len(response.answer) + len(response.authority) + len(response.additional)
        said = request.size + 28 * records
        series.add(request.size, said, time.perf_counter() - began)
        return response

    def count(self, total: Metrics) -> None:
        """Put what went through this plugin to a page."""
        block = self._block
        for (server, proto, family, qtype, rcode, plugin), series in self.series.items():
            kind = (
                block.zones[0], block.view_name, proto, str(family), codes.type_name(qtype),
                codes.rcode_name(rcode), plugin,
            )  # fmt: skip
            total.take(server, kind, series)

    @property
    def _server(self) -> str:
        dispatcher = self._block.dispatcher
        return str(dispatcher.listener) if dispatcher else ""

    def _peers(self) -> list[Prometheus]:
        configuration = self._block.configuration
        found = configuration.plugins if configuration else [self]
        return [p for p in found if isinstance(p, Prometheus)]

    @property
    def _key(self) -> tuple[str, str, int]:
        return ("prometheus", *self.address)

    def _total(self) -> Metrics:
        total = Metrics()
        if self._before is not None:
            total.include(self._before)
        for peer in self._peers():
            if peer.address == self.address:
                peer.count(total)
        if self._block.configuration is not None:
            _replayed(total, self._block.configuration)
        return total

    def _page(self) -> tuple[int, str, bytes]:
        lines = [*_render(self._total()), *self._facts()]
        body = "\n".join(lines) + "\n"
        return 200, "text/plain; version=0.0.4; charset=utf-8", body.encode()

    def _facts(self) -> Iterator[str]:
        yield "# TYPE coredns_build_info gauge"
        yield f'coredns_build_info{{goversion="python{platform.python_version()}",revision="",version="kubewire-{__version__}"}} 1'
        yield "# TYPE coredns_panics_total counter"
        yield "coredns_panics_total 0"
        yield "# TYPE coredns_plugin_enabled gauge"
        configuration = self._block.configuration
        for block in configuration.blocks if configuration else ():
            for name in block.plugins:
                labels = f'name="{name}",server="{self._server}",view="{block.view_name}",zone="{block.zones[0]}"'
                yield f"coredns_plugin_enabled{{{labels}}} 1"
        yield "# TYPE process_start_time_seconds gauge"
        yield f"process_start_time_seconds {self._began:.2f}"


def _replayed(total: Metrics, configuration: Configuration) -> None:
    for dispatcher in configuration.dispatchers:
        for table in dispatcher.tables.values():
            for (*labels, asked, said), hits in table.hits().items():
                if hits:
                    series = Series()
                    series.add(int(asked), int(said), 1e-5, hits)
                    total.take(dispatcher.label, tuple(map(str, labels)), series)


def _render(metrics: Metrics) -> Iterator[str]:
    for name, counter in (
        ("coredns_dns_requests_total", metrics.requests),
        ("coredns_dns_responses_total", metrics.responses),
    ):
        yield f"# TYPE {name} counter"
        for labels, count in sorted(counter.items()):
            yield f"{name}{{{_text(labels)}}} {count}"
    for name, histograms in (
        ("coredns_dns_request_duration_seconds", metrics.seconds),
        ("coredns_dns_request_size_bytes", metrics.request_size),
        ("coredns_dns_response_size_bytes", metrics.response_size),
    ):
        yield f"# TYPE {name} histogram"
        for labels, histogram in sorted(histograms.items()):
            text, total = _text(labels), 0
            for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
                total += count
                edge = bound if isinstance(bound, str) else f"{bound:g}"
                yield f'{name}_bucket{{{text},le="{edge}"}} {total}'
            yield f"{name}_sum{{{text}}} {histogram.sum:g}"
            yield f"{name}_count{{{text}}} {total}"


def _text(labels: Labels) -> str:
    return ",".join(f'{key}="{value}"' for key, value in labels)


PLUGIN = Prometheus
