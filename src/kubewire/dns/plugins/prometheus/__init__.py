"""prometheus: counters of what was asked and answered, on an HTTP page."""

from __future__ import annotations

import platform
import time
from bisect import bisect_left

from kubewire import __version__
from kubewire.dns.config import Block, Configuration, Environment
from kubewire.dns.http import HttpServer, split_address
from kubewire.dns.metrics import SECONDS, SIZES, Book, Histogram, Metric
from kubewire.dns.plugin import Plugin, Request, Response, Setup, Shortcut
from kubewire.lang.dns import codes

_WHERE = ("server", "zone", "view")
REQUESTS = Metric(
    "coredns_dns_requests_total", "Counter of DNS requests made per zone, protocol and family.",
    (*_WHERE, "proto", "family", "type"),
)  # fmt: skip
DO = Metric(
    "coredns_dns_do_requests_total", "Counter of DNS requests with DO bit set per zone.", _WHERE
)
RESPONSES = Metric(
    "coredns_dns_responses_total", "Counter of response status codes.", (*_WHERE, "rcode", "plugin")
)
DURATION = Metric(
    "coredns_dns_request_duration_seconds",
    "Histogram of the time (in seconds) each request took per zone.", _WHERE, "histogram", SECONDS,
)  # fmt: skip
ASKED = Metric(
    "coredns_dns_request_size_bytes",
    "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.",
    (*_WHERE, "proto"), "histogram", SIZES,
)  # fmt: skip
SAID = Metric(
    "coredns_dns_response_size_bytes", "Size of the returned response in bytes.",
    (*_WHERE, "proto"), "histogram", SIZES,
)  # fmt: skip
BUILD = Metric(
    "coredns_build_info",
    "A metric with a constant '1' value labeled by version, revision, and goversion from which the server was built.",
    ("goversion", "revision", "version"), "gauge",
)  # fmt: skip
PANICS = Metric("coredns_panics_total", "A metrics that counts the number of panics.")
ENABLED = Metric(
    "coredns_plugin_enabled",
    "A metric that indicates whether a plugin is enabled on per server and zone basis.",
    (*_WHERE, "name"), "gauge",
)  # fmt: skip
BEGAN = Metric(
    "process_start_time_seconds", "Start time of the process since unix epoch in seconds.",
    kind="gauge",
)  # fmt: skip
NAMED = frozenset({
    "A", "AAAA", "CNAME", "DNSKEY", "DS", "HTTPS", "MX", "NS", "NSEC", "NSEC3", "PTR", "RRSIG",
    "SOA", "SRV", "SVCB", "TXT", "ANY", "IXFR", "AXFR",
})  # fmt: skip
"""Types with a label of their own."""

Kind = tuple[str, ...]
"""zone, view, proto, family, type, rcode, plugin of a question and its answer."""


class Series:
    """Everything that is counted of one kind of questions."""

    __slots__ = ("asked", "count", "dnssec", "said", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.dnssec = 0
        self.seconds = Histogram(SECONDS)
        self.asked = Histogram(SIZES)
        self.said = Histogram(SIZES)

    def add(self, asked: int, said: int, seconds: float, n: int = 1, *, do: bool) -> None:
        """Count ``n`` questions alike."""
        self.count += n
        self.dnssec += n * do
        for histogram, value in (
            (self.seconds, seconds), (self.asked, asked), (self.said, said),
        ):  # fmt: skip
            # Once for each question that is not replayed, so the calls of a method are spared.
            histogram.counts[bisect_left(histogram.bounds, value)] += n
            histogram.sum += value * n

    def enter(self, book: Book, server: str, kind: Kind) -> None:
        """Add what was counted to a page."""
        zone, view, proto, family, qtype, rcode, plugin = kind
        where = (server, zone, view)
        named = qtype if qtype in NAMED else "other"
        book.add(REQUESTS, *where, proto, family, named, n=self.count)
        book.add(RESPONSES, *where, rcode, plugin, n=self.count)
        if self.dnssec:
            book.add(DO, *where, n=self.dnssec)
        book.histogram(DURATION, *where).include(self.seconds)
        book.histogram(ASKED, *where, proto).include(self.asked)
        book.histogram(SAID, *where, proto).include(self.said)


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
        self._before: Book | None = None
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
        series.add(request.size, said, time.perf_counter() - began, do=request.do)
        return response

    def shortcut(self, behind: Shortcut | None, server: str, view: str) -> Shortcut | None:
        """The table counts these from the first question on."""
        return behind

    def count(self, total: Book) -> None:
        """Add what went through this plugin to a page."""
        block = self._block
        for (server, proto, family, qtype, rcode, plugin), series in self.series.items():
            kind = (
                block.zones[0], block.view_name, proto, str(family), codes.type_name(qtype),
                codes.rcode_name(rcode), plugin,
            )  # fmt: skip
            series.enter(total, server, kind)

    def _peers(self) -> list[Prometheus]:
        configuration = self._block.configuration
        found = configuration.plugins if configuration else [self]
        return [p for p in found if isinstance(p, Prometheus)]

    @property
    def _key(self) -> tuple[str, str, int]:
        return ("prometheus", *self.address)

    def _total(self) -> Book:
        total = Book()
        if self._before is not None:
            total.include(self._before)
        for peer in self._peers():
            if peer.address == self.address:
                peer.count(total)
        if self._block.configuration is not None:
            _replayed(total, self._block.configuration)
        return total

    def _page(self) -> tuple[int, str, bytes]:
        total = self._total()
        total.include(self.metrics)
        self._facts(total)
        for plugin in self._block.configuration.plugins if self._block.configuration else ():
            plugin.measure(total)
        body = "\n".join(total.lines()) + "\n"
        return 200, "text/plain; version=0.0.4; charset=utf-8", body.encode()

    def _facts(self, book: Book) -> None:
        book.set(BUILD, 1, f"python{platform.python_version()}", "", f"kubewire-{__version__}")
        book.show(PANICS)
        book.set(BEGAN, self._began)
        configuration = self._block.configuration
        for block in configuration.blocks if configuration else ():
            server = str(block.dispatcher.listener) if block.dispatcher else ""
            for name in (name for name, p in block.plugins.items() if p.handles):
                book.set(ENABLED, 1, server, block.zones[0], block.view_name, name)


def _replayed(total: Book, configuration: Configuration) -> None:
    for dispatcher in configuration.dispatchers:
        for table in dispatcher.tables.values():
            for (kind, asked, said, do, counted), hits in table.hits().items():
                if not hits:
                    continue
                series = Series()
                series.add(asked, said, 1e-5, hits, do=do)
                series.enter(total, dispatcher.label, kind)
                for metric, values in counted:
                    total.add(metric, *values, n=hits)


PLUGIN = Prometheus
