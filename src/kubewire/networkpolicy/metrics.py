"""Per-rule counters as Prometheus metrics; read from the kernel at every scrape."""

import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from kubewire.networkpolicy.backends.kernel import KernelEnforcer

NAME = "kubewire_networkpolicy_rule_packets"


class RuleCounters(Collector):
    """First packets of connections that each rule decided."""

    def __init__(self, kernel: KernelEnforcer) -> None:
        self._kernel = kernel

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Read the counters."""
        family = CounterMetricFamily(
            NAME,
            "Packets that opened a connection, by the rule that decided. "
            "An empty rule is the isolation itself.",
            labels=("policy", "rule", "direction"),
        )
        for text, packets in sorted(self._kernel.counters().items()):
            policy, rule, direction = (*text.split("|"), "", "")[:3]
            family.add_metric([policy, rule, direction], packets)
        yield family


async def serve(kernel: KernelEnforcer, port: int) -> None:
    """Serve ``/metrics`` until cancelled."""
    registry = CollectorRegistry()
    registry.register(RuleCounters(kernel))
    server, thread = start_http_server(port, registry=registry)
    try:
        await asyncio.Event().wait()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
