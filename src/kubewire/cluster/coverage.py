"""What a manifest asks for and nothing here acts on: said once in ``kubewire status``, never hidden.

``ACTED`` names per kind the fields that some component reads; everything else that a user wrote
below ``spec`` is reported. Kinds without an entry are stored by the API server and otherwise inert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kubewire.api.meta import JSON

_PROBE = ("livenessProbe", "readinessProbe", "startupProbe")
_CONTAINER = frozenset(
    ("name", "image", "imagePullPolicy", "command", "args", "workingDir", "env", "envFrom", "ports", "volumeMounts", "lifecycle", "restartPolicy", "stdin", "stdinOnce", "tty", "terminationMessagePath", "terminationMessagePolicy", *_PROBE)
)  # fmt: skip
_POD = frozenset(
    ("containers", "initContainers", "ephemeralContainers", "restartPolicy", "nodeName", "nodeSelector", "tolerations", "hostNetwork", "hostname", "subdomain", "hostAliases", "dnsPolicy", "dnsConfig", "readinessGates", "terminationGracePeriodSeconds", "activeDeadlineSeconds", "volumes", "serviceAccountName", "serviceAccount", "schedulerName", "setHostnameAsFQDN", "enableServiceLinks")
)  # fmt: skip

ACTED: dict[str, frozenset[str] | None] = {
    "Namespace": None,
    "Node": None,
    "ConfigMap": None,
    "Secret": None,
    "ServiceAccount": None,
    "Event": None,
    "Lease": None,
    "Endpoints": None,
    "EndpointSlice": None,
    "CustomResourceDefinition": None,
    "IngressClass": None,
    "Service": None,
    "NetworkPolicy": None,
    "ClusterNetworkPolicy": None,
    "Ingress": None,
    "PodDisruptionBudget": None,
    "Pod": _POD,
    "Deployment": frozenset(("replicas", "selector", "template", "strategy", "minReadySeconds", "revisionHistoryLimit", "paused", "progressDeadlineSeconds")),
    "ReplicaSet": frozenset(("replicas", "selector", "template", "minReadySeconds")),
    "StatefulSet": frozenset(("replicas", "selector", "template", "serviceName", "podManagementPolicy", "updateStrategy", "revisionHistoryLimit", "minReadySeconds")),
    "DaemonSet": frozenset(("selector", "template", "updateStrategy", "minReadySeconds", "revisionHistoryLimit")),
    "CronJob": frozenset(("schedule", "timeZone", "jobTemplate", "concurrencyPolicy", "suspend", "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")),
    "Job": frozenset(("completions", "parallelism", "backoffLimit", "completionMode", "template", "selector", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "suspend", "manualSelector")),
}  # fmt: skip
"""Kind -> fields of spec that are acted on; None: the whole kind is."""


def inert_kinds(objects: Iterable[JSON]) -> dict[str, int]:
    """Kinds that are stored and that nothing acts on, with how many objects were given."""
    counts: dict[str, int] = {}
    for obj in objects:
        kind = f"{obj['kind']}.{obj['apiVersion']}"
        if obj["kind"] not in ACTED:
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def inert_fields(objects: Iterable[JSON]) -> dict[str, int]:
    """``Kind field.path`` of what nothing acts on, with how many objects use it."""
    counts: dict[str, int] = {}
    for obj in objects:
        for path in sorted(set(_unread(obj))):
            name = f"{obj['kind']} {path}"
            counts[name] = counts.get(name, 0) + 1
    return counts


def _unread(obj: JSON) -> Iterator[str]:
    acted = ACTED.get(obj["kind"])
    spec = obj.get("spec")
    if acted is None or not isinstance(spec, dict):
        return
    if obj["kind"] == "Pod":
        yield from _pod(spec, "spec")
        return
    yield from (f"spec.{name}" for name in spec if name not in acted)
    path, holder = "spec", spec
    if obj["kind"] == "CronJob":
        path, holder = "spec.jobTemplate.spec", (spec.get("jobTemplate") or {}).get("spec") or {}
        yield from (f"{path}.{name}" for name in holder if name not in (ACTED["Job"] or ()))
    template = holder.get("template")
    if isinstance(template, dict) and isinstance(template.get("spec"), dict):
        yield from _pod(template["spec"], f"{path}.template.spec")


def _pod(spec: dict[str, Any], path: str) -> Iterator[str]:
    yield from (f"{path}.{name}" for name in spec if name not in _POD)
    for group in ("containers", "initContainers"):
        for container in spec.get(group) or ():
            yield from (f"{path}.{group}[].{name}" for name in container if name not in _CONTAINER)
