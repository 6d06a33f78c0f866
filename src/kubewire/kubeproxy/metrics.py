"""What Prometheus is told, by upstream's names: dashboards made for kube-proxy read it unchanged.

Names, labels and buckets are those of kube-proxy 1.36, and so is which of them a mode has. Upstream
runs a proxier for each IP family; here one sync covers both, so it is counted for both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from kubewire.kubeproxy.plan import Frontend
from kubewire.kubeproxy.proxier import RuleCount

FAMILIES = ("IPv4", "IPv6")
SYNC_BUCKETS = tuple(0.001 * 2**i for i in range(15))
PROGRAMMING_BUCKETS = (
    0.25, 0.5, *map(float, range(1, 60)), *map(float, range(60, 120, 5)), *map(float, range(120, 301, 30)),
)  # fmt: skip
POLICIES = {"ClusterIP": "internal"}
_FAMILY = ("ip_family",)
_NFTABLES = (
    "sync_proxy_rules_nftables_sync_failures_total",
    "Cumulative proxy nftables sync failures",
)
_RESTORE = (
    "sync_proxy_rules_iptables_restore_failures_total",
    "Cumulative proxy iptables restore failures",
)
_FAILURES = {"nftables": _NFTABLES, "envoy": _NFTABLES, "iptables": _RESTORE, "ipvs": _RESTORE}  # fmt: skip
_PARTIAL_FAILURES = (
    "sync_proxy_rules_iptables_partial_restore_failures_total",
    "Cumulative proxy iptables partial restore failures",
)
_CLEANUP_FAILURES = (
    "sync_proxy_rules_nftables_cleanup_failures_total",
    "Cumulative proxy nftables cleanup failures",
)
PARTIAL = ("nftables", "envoy", "iptables")
"""Modes whose full and partial syncs are told apart."""


class Metrics:
    """The registry of one proxy in one mode: as upstream's, it starts anew with a new mode."""

    def __init__(
        self,
        mode: str,
        frontends: Callable[[], Iterable[Frontend]],
        rules: Callable[[], Iterable[RuleCount]] | None = None,
    ) -> None:
        """``rules``: of a back end that counts them as iptables."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_NoLocalEndpoints(frontends))
        if rules:
            registry.register(_Rules(rules))

        def histogram(
            name: str, text: str, buckets: tuple[float, ...] = SYNC_BUCKETS
        ) -> dict[str, Histogram]:
            made = Histogram(f"kubeproxy_{name}", text, _FAMILY, buckets=buckets, registry=registry)
            return {family: made.labels(family) for family in FAMILIES}

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"kubeproxy_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"kubeproxy_{name}", text, labels, registry=registry)

        self.sync = histogram(
            "sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds"
        )
        self.full: dict[str, Histogram] = {}
        self.partial: dict[str, Histogram] = {}
        if mode in PARTIAL:
            text = "SyncProxyRules latency in seconds for {} resyncs"
            self.full = histogram("sync_full_proxy_rules_duration_seconds", text.format("full"))
            self.partial = histogram(
                "sync_partial_proxy_rules_duration_seconds", text.format("partial")
            )
        self.programming = histogram(
            "network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            PROGRAMMING_BUCKETS,
        )
        self.forgetting = histogram(
            "conntrack_reconciler_sync_duration_seconds",
            "ReconcileConntrackFlowsLatency latency in seconds",
        )
        self.forgotten = counter(
            "conntrack_reconciler_deleted_entries_total",
            "Cumulative conntrack flows deleted by conntrack reconciler",
            *_FAMILY,
        )
        self.last_sync = gauge(
            "sync_proxy_rules_last_timestamp_seconds",
            "The last time proxy rules were successfully synced",
            *_FAMILY,
        )
        self.last_queued = gauge(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "The last time a sync of proxy rules was queued",
            *_FAMILY,
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
        self._failures = counter(*_FAILURES[mode], *_FAMILY)
        self._partial_failures = (
            counter(*_PARTIAL_FAILURES, *_FAMILY) if mode == "iptables" else None
        )
        # Stale chains go in the transaction that makes them stale: it never fails by itself.
        cleanup = counter(*_CLEANUP_FAILURES, *_FAMILY) if mode == "nftables" else None
        counted = (self.forgotten, self.last_sync, self.last_queued, self._failures, self._partial_failures, cleanup)  # fmt: skip
        for family in FAMILIES:
            for one in filter(None, counted):
                one.labels(family)
        for code in ("200", "503"):
            self.healthz.labels(code)
            self.livez.labels(code)

    def synced(self, seconds: float, *, full: bool) -> None:
        """A sync has succeeded."""
        kinds = (self.sync, self.full if full else self.partial)
        for family in FAMILIES:
            for kind in kinds:
                if kind:
                    kind[family].observe(seconds)
            self.last_sync.labels(family).set(time.time())
        self.endpoints_pending.set(0)
        self.services_pending.set(0)

    def reconciled(self, deleted: Mapping[str, int], seconds: float) -> None:
        """Flows of each family have been deleted from connection tracking."""
        for family in FAMILIES:
            self.forgetting[family].observe(seconds)
            self.forgotten.labels(family).inc(deleted.get(family, 0))

    def failed(self, *, full: bool) -> None:
        """A sync has failed."""
        for family in FAMILIES:
            self._failures.labels(family).inc()
            if self._partial_failures and not full:
                self._partial_failures.labels(family).inc()

    def queued(self, *, services: int = 0, endpoints: int = 0) -> None:
        """Changes have come in."""
        for family in FAMILIES:
            self.last_queued.labels(family).set(time.time())
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


class _NoLocalEndpoints(Collector):
    """Counted when asked: ten thousand Services are walked by the scraper's clock, not by syncs."""

    def __init__(self, frontends: Callable[[], Iterable[Frontend]]) -> None:
        self._frontends = frontends

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Ports of Services whose Local policy finds nothing on this node, by policy and family."""
        ports: dict[tuple[str, str], set[tuple[object, str]]] = {
            (family, policy): set() for policy in ("internal", "external") for family in FAMILIES
        }
        for frontend in self._frontends():
            if any(d.action == "drop" for d in frontend.decisions.values()):
                policy = POLICIES.get(frontend.kind, "external")
                family = FAMILIES[":" in frontend.key.address]
                ports[family, policy].add((frontend.service, frontend.port_name))
        name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
        text = "Number of services with a Local traffic policy and no endpoints"
        found = GaugeMetricFamily(name, text, labels=["ip_family", "traffic_policy"])
        for labels, services in ports.items():
            found.add_metric(labels, len(services))
        yield found


class _Rules(Collector):
    """How many iptables rules there are, and how many the last sync wrote."""

    def __init__(self, rules: Callable[[], Iterable[RuleCount]]) -> None:
        self._rules = rules

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """By table and family."""
        name, labels = "kubeproxy_sync_proxy_rules_iptables", ["ip_family", "table"]
        total = GaugeMetricFamily(f"{name}_total", "Total number of iptables rules owned by kube-proxy", labels=labels)  # fmt: skip
        last = GaugeMetricFamily(f"{name}_last", "Number of iptables rules written by kube-proxy in last sync", labels=labels)  # fmt: skip
        for one in self._rules():
            place = (FAMILIES[one.version == 6], one.table)
            total.add_metric(place, one.total)
            last.add_metric(place, one.last)
        yield from (total, last)
