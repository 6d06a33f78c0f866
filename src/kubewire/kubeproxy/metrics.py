"""What Prometheus is told, by upstream's names: dashboards made for kube-proxy read it unchanged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from kubewire.kubeproxy.plan import Frontend

SYNC_BUCKETS = tuple(0.001 * 2**i for i in range(15))
PROGRAMMING_BUCKETS = (
    0.0, 0.25, 0.5, *map(float, range(1, 60)), *map(float, range(60, 120, 5)), *map(float, range(120, 301, 30)),
)  # fmt: skip
POLICIES = {"ClusterIP": "internal"}


class Metrics:
    """The registry of one proxy."""

    def __init__(self, mode: str, frontends: Callable[[], Iterable[Frontend]]) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(_NoLocalEndpoints(frontends))

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SYNC_BUCKETS) -> Histogram:
            return Histogram(f"kubeproxy_{name}", text, buckets=buckets, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"kubeproxy_{name}", text, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"kubeproxy_{name}", text, labels, registry=registry)

        self.sync = histogram(
            "sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds"
        )
        self.full = histogram(
            "sync_full_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for full resyncs",
        )
        self.partial = histogram(
            "sync_partial_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for partial resyncs",
        )
        self.programming = histogram(
            "network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            PROGRAMMING_BUCKETS,
        )
        self.last_sync = gauge(
            "sync_proxy_rules_last_timestamp_seconds",
            "The last time proxy rules were successfully synced",
        )
        self.last_queued = gauge(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "The last time a sync of proxy rules was queued",
        )
        self.endpoints_pending = gauge(
            "sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes"
        )
        self.endpoints_total = counter(
            "sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes"
        )
        self.services_pending = gauge(
            "sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes"
        )
        self.services_total = counter(
            "sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes"
        )
        self.healthz = counter(
            "proxy_healthz_total", "Cumulative proxy healthz HTTP status", "code"
        )
        self.livez = counter("proxy_livez_total", "Cumulative proxy livez HTTP status", "code")
        self.failures = counter(
            _FAILURES.get(mode, "sync_proxy_rules_sync_failures_total"),
            "Cumulative proxy rules sync failures",
        )
        for code in ("200", "503"):
            self.healthz.labels(code)
            self.livez.labels(code)

    def synced(self, seconds: float, *, full: bool) -> None:
        """A sync has succeeded."""
        self.sync.observe(seconds)
        (self.full if full else self.partial).observe(seconds)
        self.last_sync.set(time.time())
        self.endpoints_pending.set(0)
        self.services_pending.set(0)

    def queued(self, *, services: int = 0, endpoints: int = 0) -> None:
        """Changes have come in."""
        self.last_queued.set(time.time())
        for count, total, pending in (
            (services, self.services_total, self.services_pending),
            (endpoints, self.endpoints_total, self.endpoints_pending),
        ):
            if count:
                total.inc(count)
                pending.inc(count)

    def render(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)


_FAILURES = {
    "nftables": "sync_proxy_rules_nftables_sync_failures_total",
    "iptables": "sync_proxy_rules_iptables_restore_failures_total",
}  # fmt: skip


class _NoLocalEndpoints(Collector):
    """Counted when asked: ten thousand Services are walked by the scraper's clock, not by syncs."""

    def __init__(self, frontends: Callable[[], Iterable[Frontend]]) -> None:
        self._frontends = frontends

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Ports of Services whose Local policy finds nothing on this node, by policy."""
        ports: dict[str, set[tuple[object, str]]] = {"internal": set(), "external": set()}
        for frontend in self._frontends():
            if any(d.action == "drop" for d in frontend.decisions.values()):
                policy = POLICIES.get(frontend.kind, "external")
                ports[policy].add((frontend.service, frontend.port_name))
        name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
        text = "Number of services with a Local traffic policy and no endpoints"
        family = GaugeMetricFamily(name, text, labels=["traffic_policy"])
        for policy, found in ports.items():
            family.add_metric([policy], len(found))
        yield family
