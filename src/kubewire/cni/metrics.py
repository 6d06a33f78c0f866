"""How full the networks of a node are, as Prometheus metrics; counted at every scrape."""

import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kubewire.cni.plugin import Plugin, Usage

PATIENCE = 5.0


class Addresses(Collector):
    """Addresses by range, and how often there was none left."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._loop = asyncio.get_running_loop()

    def describe(self) -> list[Metric]:
        """Nothing is known before a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Ask the plugin, in its own thread."""
        usage = asyncio.run_coroutine_threadsafe(self._usage(), self._loop).result(PATIENCE)
        labels = ("network", "pool", "ranges")
        size = GaugeMetricFamily("kubewire_cni_ipam_addresses", "Addresses that can be given.", labels=labels)  # fmt: skip
        used = GaugeMetricFamily("kubewire_cni_ipam_addresses_used", "Addresses that are given.", labels=labels)  # fmt: skip
        for one in usage:
            size.add_metric([one.network, one.pool, one.ranges], one.size)
            used.add_metric([one.network, one.pool, one.ranges], one.used)
        exhausted = CounterMetricFamily(
            "kubewire_cni_ipam_exhausted", "ADDs that found no free address.", labels=("network",)
        )
        for network, count in sorted(self._plugin.exhausted.items()):
            exhausted.add_metric([network], count)
        yield from (size, used, exhausted)

    async def _usage(self) -> list[Usage]:
        return list(self._plugin.usage())


async def serve(plugin: Plugin, port: int) -> None:
    """Serve ``/metrics`` until cancelled."""
    registry = CollectorRegistry()
    registry.register(Addresses(plugin))
    server, thread = start_http_server(port, registry=registry)
    try:
        await asyncio.Event().wait()
    finally:
        # The scrape that is under way may be waiting for this very thread.
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.to_thread(thread.join)
