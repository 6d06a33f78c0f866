"""What the plugin counts: its requests to the API server, and how late changes became answers."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from urllib.parse import urlsplit

from kubewire.api.errors import StatusError
from kubewire.client.rest import Client
from kubewire.client.transport import Transport
from kubewire.dns.metrics import DEFAULT, PROGRAMMING, Book, Metric
from kubewire.dns.plugins.kubernetes.objects import EndpointSlice, Service

LATENCY = Metric(
    "coredns_kubernetes_rest_client_request_duration_seconds",
    "Request latency in seconds. Broken down by verb and host.", ("verb", "host"), "histogram",
    DEFAULT,
)  # fmt: skip
RESULTS = Metric(
    "coredns_kubernetes_rest_client_requests_total",
    "Number of HTTP requests, partitioned by status code, method, and host.",
    ("code", "method", "host"),
)  # fmt: skip
PROGRAMMED = Metric(
    "coredns_kubernetes_dns_programming_duration_seconds",
    "Histogram of the time (in seconds) it took to program a dns instance.", ("service_kind",),
    "histogram", PROGRAMMING,
)  # fmt: skip


def programmed(book: Book, slice_: EndpointSlice, service: Service | None) -> None:
    """Enter how long ago the change was made that answers now tell of."""
    annotations = slice_.metadata.annotations
    if service is None or annotations is None or not annotations.trigger:
        return
    try:
        since = datetime.fromisoformat(annotations.trigger)
    except ValueError:
        return
    kind = "headless_with_selector" if service.headless else "cluster_ip"
    book.observe(PROGRAMMED, time.time() - since.timestamp(), kind)


class CountedTransport:
    """The way to the API server, with each request counted."""

    def __init__(self, client: Client, book: Book) -> None:
        self._inner: Transport = client.transport
        self._host = urlsplit(client.server).netloc
        self._book = book

    async def send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> bytes:
        """Send, and count."""
        began = time.perf_counter()
        code = "200"
        try:
            return await self._inner.send(method, path, params, body, headers)
        except StatusError as error:
            code = str(error.code)
            raise
        finally:
            self._count(method, code, time.perf_counter() - began)

    async def stream(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str]
    ) -> AsyncGenerator[list[bytes], None]:
        """Follow; counted when the answer begins, or when none will."""
        began = time.perf_counter()
        counted = False
        try:
            async for lines in self._inner.stream(path, params, headers):
                if not counted:
                    counted = True
                    self._count("GET", "200", time.perf_counter() - began)
                yield lines
        except StatusError as error:
            if not counted:
                self._count("GET", str(error.code), time.perf_counter() - began)
            raise

    async def close(self) -> None:
        """Close every connection."""
        await self._inner.close()

    def _count(self, method: str, code: str, seconds: float) -> None:
        self._book.observe(LATENCY, seconds, method, self._host)
        self._book.add(RESULTS, code, method, self._host)
