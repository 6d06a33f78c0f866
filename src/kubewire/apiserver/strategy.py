"""What differs per kind: what a write may touch, what holds an object back, defaults and checks.

``Admission`` is the one place that every write passes: prepare (fields that only the server or only
a subresource may set), default, validate, allocate. Each step returns or raises; allocation also
returns how to undo itself, for a dry run or a commit that fails.
"""

from collections.abc import Callable
from typing import Any

from kubewire.api.meta import JSON, Key
from kubewire.apiserver import customresource, defaults, ingressclass, validation
from kubewire.apiserver.allocate import ServiceAddresses
from kubewire.apiserver.catalog import Catalog, Served
from kubewire.apiserver.faults import Faults
from kubewire.apiserver.serviceaccount import mount_token
from kubewire.apiserver.store import Store

DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"
IMMORTAL_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})
NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")

_GENERATION_GROUPS = frozenset(
    [
        "apps",
        "batch",
        "networking.k8s.io",
        "policy",
        "discovery.k8s.io",
        "apiextensions.k8s.io",
        "policy.networking.k8s.io",
        "flowcontrol.apiserver.k8s.io",
        "storage.k8s.io",
        "admissionregistration.k8s.io",
        "scheduling.k8s.io",
        "resource.k8s.io",
    ]
)
_GENERATION_CORE = frozenset({"pods", "replicationcontrollers"})
_STATUS_ON_CREATE = frozenset({"nodes"})

Undo = Callable[[], None]


def has_generation(served: Served) -> bool:
    """Whether metadata.generation counts changes of the spec."""
    r = served.resource
    if served.custom is not None:
        return True
    return r.plural in _GENERATION_CORE if not r.group else r.group in _GENERATION_GROUPS


def holds(served: Served, obj: JSON) -> bool:
    """Whether something beside metadata.finalizers keeps a deleted object."""
    return served.storage == "namespaces" and bool((obj.get("spec") or {}).get("finalizers"))


def grace_period(served: Served, obj: JSON, asked: int | None) -> int:
    """Seconds between the request and the end; only pods that run somewhere have any."""
    if served.storage != "pods":
        return 0
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    grace = spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked
    return max(int(grace), 1) if grace < 0 else int(grace)


def on_deletion_begun(served: Served, obj: JSON) -> None:
    """What a kind shows once its deletion has begun."""
    if served.storage == "namespaces":
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}


class Admission:
    """Every write passes here between decoding and the store."""

    def __init__(self, catalog: Catalog, addresses: ServiceAddresses, store: Store) -> None:
        self.catalog = catalog
        self.addresses = addresses
        self.store = store

    def create(self, served: Served, obj: JSON) -> Undo:
        """Complete and check a new object; raises Invalid."""
        _prepare_create(served, obj)
        self._complete(served, obj)
        if served.storage == "pods":
            self._mount_token(obj)
        if served.storage == "ingresses.networking.k8s.io":
            classes = self.store.collection("ingressclasses.networking.k8s.io").objects.values()
            ingressclass.choose(obj, (c.obj for c in classes))
        faults = Faults()
        validation.metadata(served, obj, faults)
        validation.create(served, obj, faults)
        if served.custom is not None:
            customresource.validate(served, obj, faults)
        self._raise(served, obj, faults)
        undo = _nothing
        if served.storage == "services":
            undo = self.addresses.create(obj, faults)
            self._raise(served, obj, faults)
        if served.storage == DEFINITIONS:
            customresource.accept(obj)
        return undo

    def update(self, served: Served, old: JSON, new: JSON, subresource: str) -> Undo:
        """Complete and check a changed object; raises Invalid."""
        _prepare_update(served, old, new, subresource)
        self._complete(served, new)
        if new == old:
            return _nothing
        faults = Faults()
        validation.metadata(served, new, faults, old)
        if subresource != "status":
            validation.update(served, old, new, faults)
        if served.custom is not None:
            customresource.validate(served, new, faults)
        self._raise(served, new, faults)
        undo = _nothing
        if served.storage == "services" and not subresource:
            undo = self.addresses.update(old, new, faults)
            self._raise(served, new, faults)
        if served.storage == DEFINITIONS:
            customresource.accept(new)
        return undo

    def committed(self, served: Served, obj: JSON) -> None:
        """Act on what has been stored: a definition is served from now on."""
        if served.storage == DEFINITIONS:
            self.catalog.define(obj["metadata"]["name"], obj)

    def deleted(self, served: Served, obj: JSON) -> None:
        """Give back what a deleted object held."""
        if served.storage == "services":
            self.addresses.release(obj)
        if served.storage == DEFINITIONS:
            self.store.drop(obj["metadata"]["name"])
            self.catalog.define(obj["metadata"]["name"], None)

    def _complete(self, served: Served, obj: JSON) -> None:
        if served.custom is not None:
            customresource.complete(served, obj)
        else:
            defaults.apply(served.resource.kind, obj)

    def _mount_token(self, obj: JSON) -> None:
        spec = obj.get("spec")
        if isinstance(spec, dict):
            name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
            key = Key(obj["metadata"].get("namespace", ""), str(name))
            account = self.store.get("serviceaccounts", key)
            mount_token(spec, account.obj if account else None)

    def _raise(self, served: Served, obj: JSON, faults: Faults) -> None:
        if faults:
            r = served.resource
            raise faults.error(r.group, r.kind, obj["metadata"].get("name") or "")


def _nothing() -> None:
    pass


def _prepare_create(served: Served, obj: JSON) -> None:
    storage = served.storage
    if served.has_status and storage not in _STATUS_ON_CREATE:
        obj.pop("status", None)
    if storage == "pods":
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(obj.get("spec") or {})}
    elif storage == "namespaces":
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
    elif storage == "services":
        obj["status"] = {"loadBalancer": {}}
    elif storage == DEFINITIONS:
        customresource.prepare_definition(obj)
    elif served.custom is None and served.has_status:
        obj.setdefault("status", _EMPTY_STATUS.get(storage, {}) and {**_EMPTY_STATUS[storage]})
    labels = obj["metadata"].setdefault("labels", {}) if storage == "namespaces" else None
    if labels is not None:
        labels["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")


_EMPTY_STATUS: dict[str, JSON] = {
    "replicasets.apps": {"replicas": 0},
    "statefulsets.apps": {"replicas": 0, "availableReplicas": 0},
    "daemonsets.apps": {
        "currentNumberScheduled": 0,
        "numberMisscheduled": 0,
        "desiredNumberScheduled": 0,
        "numberReady": 0,
    },
    "ingresses.networking.k8s.io": {"loadBalancer": {}},
    "replicationcontrollers": {"replicas": 0},
}


def _prepare_update(served: Served, old: JSON, new: JSON, subresource: str) -> None:
    if subresource == "status":
        status = new.get("status")
        kept = new["metadata"].get("annotations")
        fields = new["metadata"].get("managedFields")
        for name in list(new):
            if name != "status":
                del new[name]
        new.update({k: v for k, v in old.items() if k != "status"})
        new["metadata"] = {**old["metadata"]}
        if kept is not None and served.custom is None:
            new["metadata"]["annotations"] = kept
        if fields is not None:
            new["metadata"]["managedFields"] = fields
        if status is not None:
            new["status"] = status
        return
    if served.has_status and not subresource:
        _keep(old, new, "status")
    if served.storage == "services":
        _drop_type_dependent(old.get("spec") or {}, new.get("spec") or {})
    if served.storage == "namespaces":
        new["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = old["metadata"]["name"]  # fmt: skip
        if subresource != "finalize":
            _keep(old, new, "spec")


def _drop_type_dependent(old: JSON, new: JSON) -> None:
    """Fields that only one type of Service has go when the type does, unless they were changed."""
    needs = {
        "externalTrafficPolicy": new.get("type") in ("NodePort", "LoadBalancer")
        or new.get("externalIPs"),
        "allocateLoadBalancerNodePorts": new.get("type") == "LoadBalancer",
        "loadBalancerClass": new.get("type") == "LoadBalancer",
        "internalTrafficPolicy": new.get("type") != "ExternalName",
    }
    for field, needed in needs.items():
        if not needed and field in new and new[field] == old.get(field):
            del new[field]


def _keep(old: JSON, new: JSON, field: str) -> None:
    if field in old:
        new[field] = old[field]
    else:
        new.pop(field, None)


def qos_class(spec: JSON) -> str:
    """Guaranteed, Burstable or BestEffort, from the containers' requests and limits."""
    guaranteed, any_set = True, False
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        resources: dict[str, Any] = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            any_set = any_set or name in limits or name in requests
            if name not in limits or requests.get(name, limits[name]) != limits[name]:
                guaranteed = False
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
