"""/metrics and /metrics/probes: what this kubelet knows, by upstream's names."""

from collections import Counter
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from kubewire.kubelet.record import Running, Terminated
from kubewire.kubelet.worker import PodWorker

FORMAT = "text/plain; version=0.0.4; charset=utf-8"
_RESULTS = {"success": "successful", "warning": "successful", "failure": "failed", "error": "unknown"}  # fmt: skip
_PROBE_LABELS = ("probe_type", "result", "container", "pod", "namespace", "pod_uid")


class _Once(Collector):
    """What is read for one answer."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def kubelet(node: str, workers: Sequence[PodWorker]) -> str:
    """The page of /metrics."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Once(_kubelet(node, workers)))
    return generate_latest(registry).decode()


def probes(node: str, workers: Sequence[PodWorker]) -> str:
    """The page of /metrics/probes."""
    registry = CollectorRegistry()
    registry.register(_Once(_probes(workers)))
    return generate_latest(registry).decode()


def is_running(worker: PodWorker) -> bool:
    """The pod has a sandbox."""
    return worker.record.has_sandbox


def _kubelet(node: str, workers: Sequence[PodWorker]) -> Iterable[Metric]:
    name = GaugeMetricFamily("kubelet_node_name", "The node's name. The count is always 1.", labels=["node"])  # fmt: skip
    name.add_metric([node], 1)
    yield name
    running = sum(map(is_running, workers))
    yield GaugeMetricFamily("kubelet_running_pods", "Number of pods that have a running pod sandbox", running)  # fmt: skip
    desired = GaugeMetricFamily("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.", labels=["static"])  # fmt: skip
    desired.add_metric([""], len(workers))
    yield desired
    states = Counter(
        "running" if isinstance(known.state, Running) else "exited"
        for worker in workers
        for known in worker.record.containers.values()
        if isinstance(known.state, Running | Terminated)
    )
    containers = GaugeMetricFamily("kubelet_running_containers", "Number of containers currently running", labels=["container_state"])  # fmt: skip
    for state in ("running", "exited"):
        containers.add_metric([state], states[state])
    yield containers


def _probes(workers: Sequence[PodWorker]) -> Iterable[Metric]:
    total = CounterMetricFamily("prober_probe", "Cumulative number of a liveness, readiness or startup probe for a container by result.", labels=_PROBE_LABELS)  # fmt: skip
    for worker in workers:
        meta = worker.pod.metadata
        merged: Counter[tuple[str, str, str]] = Counter()
        for (container, kind, outcome), count in worker.probed.items():
            merged[kind.capitalize(), _RESULTS[outcome], container] += count
        for key, count in sorted(merged.items()):
            total.add_metric([*key, meta.name, meta.namespace, meta.uid], count)
    yield total
