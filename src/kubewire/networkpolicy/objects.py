"""Raw objects -> what the answers need: pods, policies, namespaces, nodes, Services, slices.

Manifests of workloads (Deployment, StatefulSet, ...) stand for their pods: one pod that is named
after the workload, with the labels and ports of its template. So ``shop/web`` may name a pod or a
Deployment of manifests that were never applied.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec

from kubewire.api.clusternetworkpolicy import ClusterNetworkPolicy
from kubewire.api.core import Namespace, Node, Pod
from kubewire.api.errors import Cause, InputError
from kubewire.api.fielderrors import located
from kubewire.api.meta import JSON, Key
from kubewire.api.networkpolicy import NetworkPolicy
from kubewire.api.policyvalidation import cluster_network_policy_errors, network_policy_errors
from kubewire.api.service import EndpointSlice, Service
from kubewire.networkpolicy.workloads import owners

T = TypeVar("T")
Where = Callable[[str], str]
IP_ANNOTATION = "kubewire.dev/ip"

POLICIES = {
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
}
"""The versions that are enforced."""
CLUSTER_SCOPED = ("Namespace", "Node", "ClusterNetworkPolicy")
WORKLOADS = {
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Kind -> path of the pod template."""


TEMPLATE = "template"
"""Uid of a pod that stands for those of a workload."""


class Objects(msgspec.Struct):
    """Every object that an answer may need."""

    policies: list[NetworkPolicy | ClusterNetworkPolicy] = []
    pods: list[Pod] = []
    namespaces: list[Namespace] = []
    nodes: list[Node] = []
    services: list[Service] = []
    slices: list[EndpointSlice] = []


class Source(NamedTuple):
    """One raw object and how to name a field of it in an error."""

    obj: JSON
    where: Where


def read(sources: Iterable[Source], namespace: str = "default") -> Objects:
    """Decode what matters and skip other kinds; InputError names file, object and field."""
    found = Objects()
    seen: dict[tuple[str, str, str], Source] = {}
    for source in sources:
        obj = _defaulted(source, namespace)
        kind, meta = obj["kind"], obj["metadata"]
        identity = (str(kind), str(meta.get("namespace", "")), str(meta.get("name", "")))
        _add(found, Source(obj, source.where), str(obj.get("apiVersion", "")), kind)
        if kind in ("NetworkPolicy", "ClusterNetworkPolicy", "Pod") and identity in seen:
            raise InputError(f"{source.where('metadata.name')}: is there twice")
        seen[identity] = source
    _replace_workloads(found)
    return found


def _defaulted(source: Source, namespace: str) -> JSON:
    obj = source.obj
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        meta = {}
    if obj["kind"] in CLUSTER_SCOPED:
        meta = {k: v for k, v in meta.items() if k != "namespace"}
    elif not meta.get("namespace"):
        meta = {**meta, "namespace": namespace}
    return {**obj, "metadata": meta}


def _add(found: Objects, source: Source, version: str, kind: str) -> None:
    group = version.partition("/")[0] if "/" in version else ""
    obj = source.obj
    match (group, kind):
        case _ if kind.endswith("NetworkPolicy") and (version, kind) not in POLICIES:
            # Skipped, it would make every answer about it wrong.
            where = source.where("apiVersion")
            raise InputError(f'{where}: no matches for kind "{kind}" in version "{version}"')
        case ("networking.k8s.io", "NetworkPolicy"):
            _refuse(source, network_policy_errors(obj, strict=True))
            found.policies.append(_decode(source, NetworkPolicy))
        case ("policy.networking.k8s.io", "ClusterNetworkPolicy"):
            _refuse(source, cluster_network_policy_errors(obj, lenient_peers=True))
            found.policies.append(_decode(source, ClusterNetworkPolicy))
        case ("", "Pod"):
            found.pods.append(_addressed(_decode(source, Pod)))
        case ("", "Namespace"):
            found.namespaces.append(_decode(source, Namespace))
        case ("", "Node"):
            found.nodes.append(_decode(source, Node))
        case ("", "Service"):
            found.services.append(_decode(source, Service))
        case ("discovery.k8s.io", "EndpointSlice"):
            found.slices.append(_decode(source, EndpointSlice))
        case _ if kind in WORKLOADS:
            found.pods.append(_addressed(_decode(_of_template(source, WORKLOADS[kind]), Pod)))


def _refuse(source: Source, causes: list[Cause]) -> None:
    if causes:
        raise InputError("\n".join(f"{source.where(c.field)}: {c.message}" for c in causes))


def _decode(source: Source, type_: type[T]) -> T:
    try:
        return msgspec.convert(_without_nulls(source.obj), type_)
    except msgspec.ValidationError as error:
        message, field = located(error)
        raise InputError(f"{source.where(field or 'metadata')}: {message}") from error


def _without_nulls(value: Any) -> Any:
    """Drop explicit nulls: the API treats them as missing."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value


def _of_template(source: Source, path: tuple[str, ...]) -> Source:
    template: Any = source.obj
    for step in path:
        template = (template or {}).get(step) if isinstance(template, dict) else None
    template = template if isinstance(template, dict) else {}
    meta = source.obj["metadata"]
    inner = template.get("metadata") or {}
    pod = {
        "metadata": {
            "name": meta.get("name"),
            "namespace": meta["namespace"],
            "uid": TEMPLATE,
            "labels": inner.get("labels"),
            "annotations": inner.get("annotations"),
        },
        "spec": template.get("spec") or {},
    }
    return Source(pod, lambda field: source.where(".".join((*path, field))))


def _addressed(pod: Pod) -> Pod:
    """A pod that has no address yet and asks for one has it."""
    wanted = pod.annotations.get(IP_ANNOTATION)
    if pod.ips or not wanted:
        return pod
    return msgspec.structs.replace(pod, status=msgspec.structs.replace(pod.status, pod_ip=wanted))


def _replace_workloads(found: Objects) -> None:
    """Real pods of a workload, or a pod of its name, win over its template."""
    real = {p.key: p for p in found.pods if p.metadata.uid != TEMPLATE}
    owned = {Key(k.namespace, name) for k, p in real.items() for name in owners(p)}
    templates = {p.key: p for p in found.pods if p.metadata.uid == TEMPLATE}
    found.pods = [
        *(p for k, p in templates.items() if k not in owned | real.keys()),
        *real.values(),
    ]
