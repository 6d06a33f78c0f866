"""The ports on which the proxy answers questions about itself and about healthCheckNodePorts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

from kubewire.api.meta import Key
from kubewire.kubeproxy.health import Page, ProxyHealth, service_page
from kubewire.kubeproxy.metrics import Metrics
from kubewire.kubeproxy.plan import HealthCheck

log = logging.getLogger(__name__)

Pages = Mapping[str, Callable[[], Page]]
"""Path -> answer; "" answers every path."""
TEXT = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
PROMETHEUS = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
IDLE = 5.0
"""Seconds that a client has for its request."""
AGAIN = 5.0
"""Seconds until a port that somebody else holds is tried again."""


def host_port(text: str) -> tuple[str, int]:
    """Split ``[host]:port``."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class Listener:
    """GET of fixed paths, one request for each connection: all that probes and scrapers need."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._servers: list[asyncio.Server] = []

    async def open(self, hosts: Iterable[str], port: int) -> None:
        """Listen; OSError if a port is taken."""
        try:
            for host in hosts:
                self._servers.append(await asyncio.start_server(self._answer, host or None, port))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Stop to listen."""
        for server in self._servers:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(IDLE):
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, *_ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
                writer.write(self._response(method, path.partition("?")[0]))
                await writer.drain()
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):  # fmt: skip
            return
        finally:
            writer.close()

    def _response(self, method: str, path: str) -> bytes:
        answer = self._pages.get(path) or self._pages.get("")
        page = answer() if answer else Page(404, "404 page not found\n", TEXT)
        body = page.body.encode()
        headers = page.headers | {"Content-Length": str(len(body)), "Connection": "close"}
        lines = [f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)


async def serve(what: str, address: str, pages: Pages, *, hard_fail: bool) -> None:
    """Serve at one address for ever; a taken port is waited for, unless that is to be fatal."""
    host, port = host_port(address)
    while True:
        listener = Listener(pages)
        try:
            await listener.open([host], port)
        except OSError as error:
            if hard_fail:
                raise
            log.error("%s server: %s: %s", what, address, error)
            await asyncio.sleep(AGAIN)
            continue
        try:
            await asyncio.Event().wait()
        finally:
            listener.close()


def proxy_pages(health: ProxyHealth, metrics: Callable[[], Metrics]) -> Pages:
    """/healthz and /livez of the health server."""

    def counted(path: str) -> Page:
        page = health.healthz(time.time()) if path == "healthz" else health.livez(time.time())
        counters = metrics()
        (counters.healthz if path == "healthz" else counters.livez).labels(str(page.status)).inc()
        return page

    return {"/healthz": lambda: counted("healthz"), "/livez": lambda: counted("livez")}


def metrics_pages(metrics: Callable[[], Metrics], mode: Callable[[], str]) -> Pages:
    """What the metrics server has."""
    return {
        "/metrics": lambda: Page(200, metrics().render().decode(), PROMETHEUS),
        "/proxyMode": lambda: Page(200, mode(), TEXT),
        "/healthz": lambda: Page(200, "ok", TEXT),
    }


class HealthChecks:
    """A server for every healthCheckNodePort; they come and go with their Services."""

    def __init__(self, health: ProxyHealth) -> None:
        self._health = health
        self._checks: dict[Key, HealthCheck] = {}
        self._open: dict[tuple[Key, int], Listener] = {}
        self._hosts: tuple[str, ...] = ()

    async def update(
        self, checks: Mapping[Key, HealthCheck], hosts: Iterable[str]
    ) -> dict[Key, str]:
        """Open what is new, close what is gone; returns what could not be opened, and why."""
        self._checks = dict(checks)
        if (hosts := tuple(hosts)) != self._hosts:
            self.close()
            self._hosts = hosts
        wanted = {(key, check.port) for key, check in checks.items()}
        for place in self._open.keys() - wanted:
            self._open.pop(place).close()
        failed = {}
        for key, port in wanted - self._open.keys():
            listener = Listener({"": self._page(key)})
            try:
                await listener.open(hosts, port)
                self._open[key, port] = listener
            except OSError as error:
                failed[key] = f"port {port}: spec.healthCheckNodePort: {error.strerror}"
        return failed

    def _page(self, key: Key) -> Callable[[], Page]:
        return lambda: service_page(
            self._checks[key], proxy_healthy=self._health.healthy(time.time())
        )

    def close(self) -> None:
        """Close every one."""
        while self._open:
            self._open.popitem()[1].close()
