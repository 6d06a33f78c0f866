"""Rows of everything else: nodes, configuration, storage, accounts, events."""

from typing import Any

from kubewire.api.meta import JSON
from kubewire.apiserver.ages import age, since
from kubewire.apiserver.cells import Cells


def _namespace(obj: JSON) -> list[Any]:
    return [obj["metadata"]["name"], (obj.get("status") or {}).get("phase", ""), age(obj)]


def _node(obj: JSON) -> list[Any]:
    spec, status, meta = obj.get("spec") or {}, obj.get("status") or {}, obj["metadata"]
    ready = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), None)
    text = "Unknown" if ready is None else ("Ready" if ready["status"] == "True" else "NotReady")
    if spec.get("unschedulable"):
        text += ",SchedulingDisabled"
    prefix = "node-role.kubernetes.io/"
    roles = {k.removeprefix(prefix) for k in meta.get("labels") or {} if k.startswith(prefix)}
    addresses = status.get("addresses") or ()
    info = status.get("nodeInfo") or {}

    def address(kind: str) -> str:
        return next((a["address"] for a in addresses if a["type"] == kind), "<none>")

    return [
        meta["name"],
        text,
        ",".join(sorted(r for r in roles if r)) or "<none>",
        age(obj),
        info.get("kubeletVersion", ""),
        address("InternalIP"),
        address("ExternalIP"),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _config_map(obj: JSON) -> list[Any]:
    count = len(obj.get("data") or ()) + len(obj.get("binaryData") or ())
    return [obj["metadata"]["name"], count, age(obj)]


def _secret(obj: JSON) -> list[Any]:
    return [obj["metadata"]["name"], obj.get("type", ""), len(obj.get("data") or ()), age(obj)]


def _service_account(obj: JSON) -> list[Any]:
    return [obj["metadata"]["name"], len(obj.get("secrets") or ()), age(obj)]


def _event(obj: JSON) -> list[Any]:
    about = obj.get("involvedObject") or {}
    source = obj.get("source") or {}
    first = obj.get("firstTimestamp") or obj.get("eventTime")
    series = obj.get("series") or {}
    last = obj.get("lastTimestamp") or series.get("lastObservedTime") or first
    component = source.get("component") or obj.get("reportingComponent") or ""
    host = source.get("host") or obj.get("reportingInstance")
    kind = about.get("kind", "").lower()
    return [
        since(last) if last else "<unknown>",
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{kind}/{about['name']}" if about.get("name") else kind,
        about.get("fieldPath", ""),
        ", ".join(t for t in (component, host) if t),
        (obj.get("message") or "").strip(),
        since(first) if first else "<unknown>",
        obj.get("count") or series.get("count") or 1,
        obj["metadata"]["name"],
    ]


def _lease(obj: JSON) -> list[Any]:
    return [obj["metadata"]["name"], (obj.get("spec") or {}).get("holderIdentity", ""), age(obj)]


def _claim(obj: JSON) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    bound = bool(spec.get("volumeName"))
    return [
        obj["metadata"]["name"],
        "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase", ""),
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "") if bound else "",
        _modes(status.get("accessModes")) if bound else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or "<unset>",
        age(obj),
        spec.get("volumeMode", ""),
    ]


def _modes(modes: list[str] | None) -> str:
    short = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}  # fmt: skip
    return ",".join(short.get(m, m) for m in modes or ())


def _volume(obj: JSON) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    claim = spec.get("claimRef") or {}
    return [
        obj["metadata"]["name"],
        (spec.get("capacity") or {}).get("storage", ""),
        _modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        status.get("phase", ""),
        f"{claim['namespace']}/{claim['name']}" if claim else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or "<unset>",
        status.get("reason", ""),
        age(obj),
        spec.get("volumeMode", ""),
    ]


def _storage_class(obj: JSON) -> list[Any]:
    notes = obj["metadata"].get("annotations") or {}
    default = notes.get("storageclass.kubernetes.io/is-default-class") == "true"
    return [
        obj["metadata"]["name"] + (" (default)" if default else ""),
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy", ""),
        obj.get("volumeBindingMode", ""),
        str(bool(obj.get("allowVolumeExpansion"))).lower(),
        age(obj),
    ]


def _budget(obj: JSON) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}

    def amount(field: str) -> str:
        return "N/A" if spec.get(field) is None else str(spec[field])

    return [
        obj["metadata"]["name"],
        amount("minAvailable"),
        amount("maxUnavailable"),
        status.get("disruptionsAllowed", 0),
        age(obj),
    ]


def _autoscaler(obj: JSON) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    target = spec.get("scaleTargetRef") or {}
    texts = []
    for metric in spec.get("metrics") or ():
        resource = metric.get("resource") or {}
        percent = (resource.get("target") or {}).get("averageUtilization")
        if percent is not None:
            texts.append(f"{resource.get('name')}: <unknown>/{percent}%")
    return [
        obj["metadata"]["name"],
        f"{target.get('kind', '')}/{target.get('name', '')}",
        ", ".join(texts) or "<none>",
        str(spec.get("minReplicas", "<unset>")),
        spec.get("maxReplicas", 0),
        status.get("currentReplicas", 0),
        age(obj),
    ]


def _role_binding(obj: JSON) -> list[Any]:
    reference = obj.get("roleRef") or {}
    subjects: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in obj.get("subjects") or ():
        name = subject.get("name", "")
        if subject.get("kind") == "ServiceAccount":
            name = f"{subject.get('namespace', '')}/{name}"
        subjects.setdefault(subject.get("kind", ""), []).append(name)
    role = f"{reference.get('kind', '')}/{reference.get('name', '')}"
    return [
        obj["metadata"]["name"], role, age(obj),
        *(", ".join(subjects[k]) for k in ("User", "Group", "ServiceAccount")),
    ]  # fmt: skip


def _created(obj: JSON) -> list[Any]:
    return [obj["metadata"]["name"], obj["metadata"].get("creationTimestamp")]


def _priority_class(obj: JSON) -> list[Any]:
    return [
        obj["metadata"]["name"],
        obj.get("value", 0),
        str(bool(obj.get("globalDefault"))).lower(),
        age(obj),
        obj.get("preemptionPolicy", ""),
    ]


_RBAC = "Name|Role|Age|*Users|*Groups|*ServiceAccounts"
KINDS: dict[str, tuple[str, Cells]] = {
    "Namespace": ("Name|Status|Age", _namespace),
    "Node": ("Name|Status|Roles|Age|Version|*Internal-IP|*External-IP|*OS-Image|*Kernel-Version|*Container-Runtime", _node),
    "ConfigMap": ("Name|Data|Age", _config_map),
    "Secret": ("Name|Type|Data|Age", _secret),
    "ServiceAccount": ("Name|Secrets|Age", _service_account),
    "Event": ("Last Seen|Type|Reason|Object|*Subobject|*Source|Message|*First Seen|*Count|*Name", _event),
    "Lease": ("Name|Holder|Age", _lease),
    "PersistentVolumeClaim": ("Name|Status|Volume|Capacity|Access Modes|StorageClass|VolumeAttributesClass|Age|*VolumeMode", _claim),
    "PersistentVolume": ("Name|Capacity|Access Modes|Reclaim Policy|Status|Claim|StorageClass|VolumeAttributesClass|Reason|Age|*VolumeMode", _volume),
    "StorageClass": ("Name|Provisioner|ReclaimPolicy|VolumeBindingMode|AllowVolumeExpansion|Age", _storage_class),
    "PodDisruptionBudget": ("Name|Min Available|Max Unavailable|Allowed Disruptions|Age", _budget),
    "HorizontalPodAutoscaler": ("Name|Reference|Targets|MinPods|MaxPods|Replicas|Age", _autoscaler),
    "RoleBinding": (_RBAC, _role_binding),
    "ClusterRoleBinding": (_RBAC, _role_binding),
    "Role": ("Name|Created At", _created),
    "ClusterRole": ("Name|Created At", _created),
    "CustomResourceDefinition": ("Name|Created At", _created),
    "PriorityClass": ("Name|Value|Global-Default|Age|PreemptionPolicy", _priority_class),
}  # fmt: skip
"""Kind -> columns and the function that fills them."""
