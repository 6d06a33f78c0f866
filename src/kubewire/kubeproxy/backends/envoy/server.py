"""The xDS server of ``kubewire xds``: REST for Envoys that somebody else runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

from kubewire.api.resources import ENDPOINT_SLICES, SERVICES
from kubewire.api.service import EndpointSlice, Service
from kubewire.client.informer import Informer
from kubewire.client.loop import Changes, Loop, run_all
from kubewire.client.rest import Client
from kubewire.kubeproxy.backends.envoy.resources import resources
from kubewire.kubeproxy.topology import NodeView
from kubewire.lang.xds.discovery import Discovery, Request, RequestError, parse
from kubewire.lang.xds.snapshot import Snapshot, checked

log = logging.getLogger(__name__)

NODE = "kubewire.dev/node"
"""In node.metadata: the Kubernetes node that an Envoy runs on; hints are followed by it."""


class XdsServer:
    """Answers by the Services and slices that it is shown."""

    def __init__(self) -> None:
        self._services: tuple[Service, ...] = ()
        self._slices: tuple[EndpointSlice, ...] = ()
        self._views: dict[NodeView, Snapshot] = {}
        self._discovery = Discovery()
        self._news = asyncio.Event()
        self._faults: frozenset[str] = frozenset()

    def show(self, services: Iterable[Service], slices: Iterable[EndpointSlice]) -> None:
        """Tell this from now on; whoever waits for news gets it."""
        self._services, self._slices = tuple(services), tuple(slices)
        self._views.clear()
        faults = frozenset(self._snapshot(NodeView()).faults)
        for fault in sorted(faults - self._faults):
            log.warning("not told: %s", fault)
        self._faults = faults
        self._news.set()
        self._news = asyncio.Event()

    @asynccontextmanager
    async def serving(self, address: str, port: int) -> AsyncIterator[tuple[str, int]]:
        """Serve while the body runs; yields where."""
        app = web.Application()
        app.add_routes(
            [web.post("/v3/discovery:{kind}", self._discover), web.get("/healthz", _healthy)]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, address, port)
            await site.start()
            yield runner.addresses[0][:2]
        finally:
            await runner.cleanup()

    async def _discover(self, request: web.Request) -> web.Response:
        try:
            asked = parse(request.match_info["kind"], json.loads(await request.read()))
        except (RequestError, ValueError) as error:
            return web.Response(status=400, text=f"{error}\n")
        deadline = asyncio.get_running_loop().time() + asked.hold
        while True:
            news = self._news
            answer = self._discovery.answer(asked, self._snapshot(_view(asked)))
            if answer.remark:
                log.error("%s", answer.remark)
            if answer.response is not None:
                return web.json_response(answer.response)
            if not await _within(news, deadline):
                return web.Response(status=304)

    def _snapshot(self, view: NodeView) -> Snapshot:
        """What is told at a place; made once per change and place."""
        if view not in self._views:
            self._views[view] = checked(resources(self._services, self._slices, view))
        return self._views[view]


def _view(asked: Request) -> NodeView:
    return NodeView(str(asked.metadata.get(NODE) or ""), (), asked.zone)


async def _within(news: asyncio.Event, deadline: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            return await news.wait()
    return False


async def _healthy(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def follow(client: Client, server: XdsServer, agent: str) -> None:
    """Show an API server's Services and slices, for ever."""
    services = Informer(client, SERVICES, Service, agent=agent)
    slices = Informer(client, ENDPOINT_SLICES, EndpointSlice, agent=agent)

    async def show(_changes: Changes) -> None:
        server.show(services.store.values(), slices.store.values())

    await run_all([Loop(agent, [services, slices], show)])
