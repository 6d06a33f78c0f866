"""The page that Prometheus reads, beside what kube-proxy has in the same mode."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kubewire.api.meta import Key
from kubewire.kubeproxy.metrics import Metrics
from kubewire.kubeproxy.plan import Decision, Frontend, FrontendKey
from kubewire.kubeproxy.proxier import RuleCount

ALL = {
    "sync_proxy_rules_duration_seconds": ("histogram", "ip_family"),
    "sync_proxy_rules_last_timestamp_seconds": ("gauge", "ip_family"),
    "sync_proxy_rules_last_queued_timestamp_seconds": ("gauge", "ip_family"),
    "sync_proxy_rules_endpoint_changes_pending": ("gauge", ""),
    "sync_proxy_rules_endpoint_changes": ("counter", ""),
    "sync_proxy_rules_service_changes_pending": ("gauge", ""),
    "sync_proxy_rules_service_changes": ("counter", ""),
    "sync_proxy_rules_no_local_endpoints_total": ("gauge", "ip_family traffic_policy"),
    "network_programming_duration_seconds": ("histogram", "ip_family"),
    "proxy_healthz": ("counter", "code"),
    "proxy_livez": ("counter", "code"),
    "conntrack_reconciler_sync_duration_seconds": ("histogram", "ip_family"),
    "conntrack_reconciler_deleted_entries": ("counter", "ip_family"),
}
"""Of kube-proxy 1.36; counters without their ``_total``."""
TOLD_APART = {
    "sync_full_proxy_rules_duration_seconds": ("histogram", "ip_family"),
    "sync_partial_proxy_rules_duration_seconds": ("histogram", "ip_family"),
}
OF_MODE = {
    "nftables": TOLD_APART
    | {
        "sync_proxy_rules_nftables_sync_failures": ("counter", "ip_family"),
        "sync_proxy_rules_nftables_cleanup_failures": ("counter", "ip_family"),
    },
    "iptables": TOLD_APART
    | {
        "sync_proxy_rules_iptables_restore_failures": ("counter", "ip_family"),
        "sync_proxy_rules_iptables_partial_restore_failures": ("counter", "ip_family"),
        "sync_proxy_rules_iptables_total": ("gauge", "ip_family table"),
        "sync_proxy_rules_iptables_last": ("gauge", "ip_family table"),
    },
    "ipvs": {"sync_proxy_rules_iptables_restore_failures": ("counter", "ip_family")},
    "envoy": TOLD_APART | {"sync_proxy_rules_nftables_sync_failures": ("counter", "ip_family")},
}


def page(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample -> values of its labels, by the labels' names -> value."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = tuple(v for _, v in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@pytest.mark.parametrize("mode", OF_MODE)
def test_names_types_and_labels_are_those_of_kube_proxy(mode: str) -> None:
    rules = (lambda: [RuleCount("nat", 4, 7, 2)]) if mode == "iptables" else None
    found = {}
    for family in text_string_to_metric_families(Metrics(mode, list, rules).render().decode()):
        if family.name.startswith("kubeproxy_"):
            labels = {name for s in family.samples for name in s.labels if name != "le"}
            found[family.name.removeprefix("kubeproxy_")] = (family.type, " ".join(sorted(labels)))
    assert found == ALL | OF_MODE[mode]


def test_every_figure_goes_where_it_belongs() -> None:
    nowhere = Decision("drop", why="no endpoint here")
    frontends = [
        Frontend(FrontendKey(ip, "TCP", port), kind, Key("d", "s"), "p", dict.fromkeys(("pod", "node", "other"), nowhere))  # type: ignore[arg-type]
        for ip, port, kind in (("10.96.0.1", 80, "ClusterIP"), ("fd00::1", 80, "NodePort"), ("fd00::2", 80, "NodePort"))
    ]  # fmt: skip
    metrics = Metrics("iptables", lambda: frontends, lambda: [RuleCount("filter", 6, 7, 2)])
    metrics.queued(services=2, endpoints=3)
    before = page(metrics)
    metrics.synced(0.003, full=True)
    metrics.failed(full=True)
    metrics.failed(full=False)
    metrics.reconciled({"IPv6": 4}, 0.001)
    metrics.programming["IPv4"].observe(0.3)
    after = page(metrics)
    assert before["kubeproxy_sync_proxy_rules_service_changes_pending"] == {(): 2}
    assert after["kubeproxy_sync_proxy_rules_service_changes_pending"] == {(): 0}
    assert after["kubeproxy_sync_proxy_rules_endpoint_changes_total"] == {(): 3}
    both = {("IPv4",): 1, ("IPv6",): 1}
    assert after["kubeproxy_sync_full_proxy_rules_duration_seconds_count"] == both
    assert after["kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total"] == both
    assert after["kubeproxy_sync_proxy_rules_iptables_restore_failures_total"] == dict.fromkeys(
        both, 2
    )
    assert after["kubeproxy_conntrack_reconciler_deleted_entries_total"] == {
        ("IPv4",): 0,
        ("IPv6",): 4,
    }
    assert after["kubeproxy_network_programming_duration_seconds_count"] == {
        ("IPv4",): 1,
        ("IPv6",): 0,
    }
    assert after["kubeproxy_sync_proxy_rules_iptables_total"] == {("IPv6", "filter"): 7}
    assert after["kubeproxy_sync_proxy_rules_no_local_endpoints_total"] == {
        ("IPv4", "internal"): 1, ("IPv6", "internal"): 0, ("IPv4", "external"): 0, ("IPv6", "external"): 1,
    }  # fmt: skip
    assert after["process_resident_memory_bytes"][()] > 0
    assert not [name for name in after if name.endswith("_created")]
