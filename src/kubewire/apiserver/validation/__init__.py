"""What makes an object invalid, with upstream's field paths and words; one module per family."""

from collections.abc import Callable

from kubewire.api.meta import JSON
from kubewire.apiserver.catalog import Served
from kubewire.apiserver.faults import Faults
from kubewire.apiserver.validation import (
    names,
    network,
    others,
    pods,
    selectors,
    service,
    workloads,
)

Check = Callable[[JSON, Faults], None]
Compare = Callable[[JSON, JSON, Faults], None]


def _pod(obj: JSON, faults: Faults) -> None:
    pods.spec(obj.get("spec") or {}, "spec", faults)


def _replication_controller(obj: JSON, faults: Faults) -> None:
    workloads.template((obj.get("spec") or {}).get("template") or {}, "spec.template", faults)


CREATE: dict[str, Check] = {
    "Pod": _pod,
    "Deployment": workloads.workload,
    "ReplicaSet": workloads.workload,
    "StatefulSet": workloads.workload,
    "DaemonSet": workloads.workload,
    "ReplicationController": _replication_controller,
    "Job": workloads.job,
    "CronJob": workloads.cron_job,
    "Service": service.service,
    "Endpoints": service.endpoints,
    "EndpointSlice": service.endpoint_slice,
    "Ingress": network.ingress,
    "IngressClass": network.ingress_class,
    "NetworkPolicy": network.network_policy,
    "ClusterNetworkPolicy": network.cluster_network_policy,
    "ConfigMap": others.config_map,
    "Secret": others.secret,
    "Node": others.node,
    "Lease": others.lease,
    "PodDisruptionBudget": others.disruption_budget,
    "RoleBinding": others.role_binding,
    "ClusterRoleBinding": others.role_binding,
    "HorizontalPodAutoscaler": others.autoscaler,
    "CustomResourceDefinition": others.definition,
}
UPDATE: dict[str, Compare] = {
    "Pod": pods.update,
    "Deployment": workloads.workload_update,
    "ReplicaSet": workloads.workload_update,
    "StatefulSet": workloads.workload_update,
    "DaemonSet": workloads.workload_update,
    "Job": workloads.job_update,
    "Service": service.service_update,
    "EndpointSlice": service.endpoint_slice_update,
    "ConfigMap": others.config_map_update,
    "Secret": others.config_map_update,
    "Node": others.node_update,
    "RoleBinding": others.role_binding_update,
    "ClusterRoleBinding": others.role_binding_update,
    "CustomResourceDefinition": others.definition_update,
}
CREATE_ONLY: dict[str, Callable[[JSON, Faults], None]] = {"Ingress": network.ingress_create}
"""What objects that are there already may break."""
_LABEL_NAMED = frozenset({"Namespace"})
_PATH_NAMED = frozenset({"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"})


def metadata(served: Served, obj: JSON, faults: Faults, old: JSON | None = None) -> None:
    """Check name, labels, annotations and finalizers."""
    meta = obj["metadata"]
    name = meta.get("name") or ""
    if not name:
        faults.required("metadata.name", "name or generateName is required")
    elif old is None:
        for error in _name_errors(served, name):
            faults.invalid("metadata.name", name, error)
    if old is not None and all(
        old["metadata"].get(f) == meta.get(f) for f in ("labels", "annotations", "finalizers")
    ):
        return
    selectors.labels(meta.get("labels") or {}, "metadata.labels", faults)
    selectors.annotations(meta.get("annotations") or {}, "metadata.annotations", faults)
    for finalizer in meta.get("finalizers") or ():
        for error in names.qualified(finalizer):
            faults.invalid("metadata.finalizers", finalizer, error)
    if old is not None and old["metadata"].get("deletionTimestamp"):
        added = set(meta.get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
        if added:
            why = f"no new finalizers can be added if the object is being deleted, found new finalizers {sorted(added)}"
            faults.forbidden("metadata.finalizers", why)


def _name_errors(served: Served, name: str) -> list[str]:
    kind = served.resource.kind
    if kind == "Service" and served.custom is None:
        return names.label_1035(name)
    if kind in _LABEL_NAMED and served.custom is None:
        return names.label(name)
    if kind in _PATH_NAMED and served.custom is None:
        return names.path_segment(name)
    return names.subdomain(name)


def create(served: Served, obj: JSON, faults: Faults) -> None:
    """Check a new object."""
    if served.custom is not None:
        return
    for table in (CREATE, CREATE_ONLY):
        if check := table.get(served.resource.kind):
            check(obj, faults)


def update(served: Served, old: JSON, new: JSON, faults: Faults) -> None:
    """Check a changed object."""
    if served.custom is not None:
        return
    kind = served.resource.kind
    check, compare = CREATE.get(kind), UPDATE.get(kind)
    if check is not None and old.get("spec", old) != new.get("spec", new):
        check(new, faults)
    if compare is not None:
        compare(old, new, faults)
