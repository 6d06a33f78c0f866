"""The running server: sockets, plugins' lives, reload without losing a query.

A reload starts the new plugins while the old ones answer, then swaps the dispatchers behind the
sockets. Sockets that both Corefiles want are never closed, so nothing in their queues is lost; a
new Corefile that cannot be read, started or bound leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kubewire.dns import native
from kubewire.dns.config import Configuration, Listener
from kubewire.dns.dispatch import Dispatcher
from kubewire.dns.plugin import Plugin
from kubewire.dns.transport.endpoint import Endpoint

log = logging.getLogger(__name__)


class Server:
    """Everything that one process serves."""

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self.configuration: Configuration | None = None
        self._endpoints: dict[Listener, Endpoint] = {}
        self._say = say
        self._changing = asyncio.Lock()

    @property
    def addresses(self) -> list[tuple[str, str, int]]:
        """(scheme, host, port) of every open listener; the port is the real one."""
        return [(at.scheme, at.host, e.port) for at, e in self._endpoints.items()]

    async def load(self, configuration: Configuration) -> None:
        """Start with a configuration, or change over to it. On an error nothing has changed."""
        async with self._changing:
            await self._load(configuration)

    async def _load(self, configuration: Configuration) -> None:
        started: list[Plugin] = []
        opened: list[Endpoint] = []
        dispatchers = {
            at: Dispatcher(at, blocks, native.new_table())
            for at, blocks in configuration.listeners().items()
        }
        try:
            async with asyncio.TaskGroup() as group:
                for plugin in configuration.plugins:
                    started.append(plugin)
                    group.create_task(plugin.start(), name=f"start {plugin.name}")
            for at, dispatcher in dispatchers.items():
                if at not in self._endpoints:
                    opened.append(await _open(at, dispatcher))
        except BaseException as error:
            for endpoint in opened:
                await endpoint.close()
            await _stop(started, final=False)
            if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                raise error.exceptions[0] from error
            raise
        before, self.configuration = self.configuration, configuration
        for at, dispatcher in dispatchers.items():
            if at in self._endpoints:
                await self._endpoints[at].swap(dispatcher)
        for at in [at for at in self._endpoints if at not in dispatchers]:
            await self._endpoints.pop(at).close()
        self._endpoints |= {e.listener: e for e in opened}
        if before is not None:
            await _stop(before.plugins, final=False)
        for plugin in configuration.plugins:
            await plugin.started()
        self._announce(configuration)

    def _announce(self, configuration: Configuration) -> None:
        for block in configuration.blocks:
            for address in block.addresses:
                prefix = "" if address.scheme == "dns" else f"{address.scheme}://"
                for host in block.hosts or [""]:
                    on = f" on {host}" if host else ""
                    self._say(f"{prefix}{address.zone}:{address.port}{on}")

    async def stop(self) -> None:
        """Let plugins say goodbye while still answering, then close."""
        async with self._changing:
            if self.configuration is not None:
                await _stop(self.configuration.plugins, final=True)
            for endpoint in self._endpoints.values():
                await endpoint.close()
            self._endpoints.clear()


async def _stop(plugins: list[Plugin], *, final: bool) -> None:
    results = await asyncio.gather(*(p.stop(final=final) for p in plugins), return_exceptions=True)
    for plugin, result in zip(plugins, results, strict=True):
        if isinstance(result, BaseException):
            log.error("plugin/%s: %s", plugin.name, result)


async def _open(at: Listener, dispatcher: Dispatcher) -> Endpoint:
    endpoint = Endpoint(at, dispatcher)
    await endpoint.open()
    return endpoint
