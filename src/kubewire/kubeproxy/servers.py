"""The ports on which the proxy answers questions about itself and about healthCheckNodePorts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from kubewire.api.meta import Key
from kubewire.kubeproxy.health import Page, ProxyHealth, service_page
from kubewire.kubeproxy.metrics import Metrics
from kubewire.kubeproxy.plan import HealthCheck

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)

Pages = Mapping[str, Callable[[], Page]]
"""Path -> answer; "" answers every path."""
TEXT = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
PROMETHEUS = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
AGAIN = 5.0
"""Seconds until a port that somebody else holds is tried again."""


def host_port(text: str) -> tuple[str, int]:
    """Split ``[host]:port``."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


async def listening(pages: Pages, hosts: Iterable[str], port: int) -> web.ServerRunner:
    """Serve until ``cleanup``; OSError if a port is taken."""
    from aiohttp import web

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        page = pages.get(request.path) or pages.get("")
        if page is None:
            return web.Response(status=404, text="404 page not found\n")
        status, body, headers = page()
        return web.Response(status=status, body=body.encode(), headers=headers)

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    try:
        for host in hosts:
            await web.TCPSite(runner, host or None, port, reuse_address=True).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


async def serve(what: str, address: str, pages: Pages, *, hard_fail: bool) -> None:
    """Serve at one address for ever; a taken port is waited for, unless that is to be fatal."""
    host, port = host_port(address)
    while True:
        try:
            runner = await listening(pages, [host], port)
        except OSError as error:
            if hard_fail:
                raise
            log.error("%s server: %s: %s", what, address, error)
            await asyncio.sleep(AGAIN)
            continue
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


def proxy_pages(health: ProxyHealth, metrics: Metrics) -> Pages:
    """/healthz and /livez of the health server."""

    def counted(path: str) -> Page:
        page = health.healthz(time.time()) if path == "healthz" else health.livez(time.time())
        (metrics.healthz if path == "healthz" else metrics.livez).labels(str(page.status)).inc()
        return page

    return {"/healthz": lambda: counted("healthz"), "/livez": lambda: counted("livez")}


def metrics_pages(metrics: Metrics, mode: str) -> Pages:
    """What the metrics server has."""
    return {
        "/metrics": lambda: Page(200, metrics.render().decode(), PROMETHEUS),
        "/proxyMode": lambda: Page(200, mode, TEXT),
        "/healthz": lambda: Page(200, "ok", TEXT),
    }


class HealthChecks:
    """A server for every healthCheckNodePort; they come and go with their Services."""

    def __init__(self, health: ProxyHealth) -> None:
        self._health = health
        self._checks: dict[Key, HealthCheck] = {}
        self._open: dict[tuple[Key, int], web.ServerRunner] = {}
        self._hosts: tuple[str, ...] = ()

    async def update(self, checks: Mapping[Key, HealthCheck], hosts: Iterable[str]) -> list[str]:
        """Open what is new, close what is gone; returns what could not be opened, and why."""
        self._checks = dict(checks)
        if (hosts := tuple(hosts)) != self._hosts:
            await self.close()
            self._hosts = hosts
        wanted = {(key, check.port) for key, check in checks.items()}
        for place in self._open.keys() - wanted:
            await self._open.pop(place).cleanup()
        failed = []
        for key, port in wanted - self._open.keys():
            try:
                pages = {"": self._page(key)}
                self._open[key, port] = await listening(pages, hosts, port)
            except OSError as error:
                failed.append(f"Service {key}: healthCheckNodePort {port}: {error.strerror}")
        return failed

    def _page(self, key: Key) -> Callable[[], Page]:
        return lambda: service_page(
            self._checks[key], proxy_healthy=self._health.healthy(time.time())
        )

    async def close(self) -> None:
        """Close every one."""
        while self._open:
            _, runner = self._open.popitem()
            await runner.cleanup()
