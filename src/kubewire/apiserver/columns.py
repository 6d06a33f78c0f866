"""Columns of ``kubectl get`` for each kind: names, priorities and cells as upstream prints them.

Priority 1 shows only with ``-o wide``. Custom kinds bring their own columns
(additionalPrinterColumns). An age is shown as kubectl would: 42s, 3m5s, 2d.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from kubewire.api.meta import JSON
from kubewire.api.selectors import LabelSelector
from kubewire.apiserver import podcolumns
from kubewire.apiserver.ages import age, since
from kubewire.apiserver.catalog import Served

Cells = Callable[[JSON], list[Any]]


def of(served: Served) -> tuple[list[JSON], Cells]:
    """Column definitions of a resource and the function that fills them."""
    if served.declared is not None:
        return _custom(served)
    header, cells = _KINDS.get(served.resource.kind, (_PLAIN, _plain))
    return _definitions(header), cells


def _definitions(header: str) -> list[JSON]:
    """From ``Name|Ready|*Node Name``; a star marks columns for ``-o wide``."""
    out = []
    for entry in header.split("|"):
        name = entry.lstrip("*")
        wide = entry != name
        kind = "integer" if name in _INTEGERS else "string"
        out.append(
            {
                "name": name,
                "type": kind,
                "format": "name" if name == "Name" else "",
                "description": "",
                "priority": int(wide),
            }
        )
    return out


_INTEGERS = frozenset({"Desired", "Current", "Up-to-date", "Available", "Data", "Replicas"})
_PLAIN = "Name|Age"


def _plain(obj: JSON) -> list[Any]:
    return [obj["metadata"]["name"], age(obj)]


def _selector(value: Any) -> str:
    if not value:
        return "<none>"
    return str(msgspec.convert(value, LabelSelector)) or "<none>"


def _map(value: JSON | None) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted((value or {}).items())) or "<none>"


def _images(obj: JSON) -> list[Any]:
    containers = (((obj.get("spec") or {}).get("template") or {}).get("spec") or {}).get("containers") or ()  # fmt: skip
    return [",".join(c.get("name", "") for c in containers), ",".join(c.get("image", "") for c in containers)]  # fmt: skip


def _deployment(obj: JSON) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        obj["metadata"]["name"],
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age(obj),
        *_images(obj),
        _selector(spec.get("selector")),
    ]


def _replica_set(obj: JSON) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    selector = spec.get("selector")
    text = _map(selector) if obj.get("kind") == "ReplicationController" else _selector(selector)
    return [
        obj["metadata"]["name"],
        spec.get("replicas", 0),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        age(obj),
        *_images(obj),
        text,
    ]


def _stateful_set(obj: JSON) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    ready = f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}"
    return [obj["metadata"]["name"], ready, age(obj), *_images(obj)]


def _daemon_set(obj: JSON) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    counts = (
        "desiredNumberScheduled", "currentNumberScheduled", "numberReady",
        "updatedNumberScheduled", "numberAvailable",
    )  # fmt: skip
    nodes = ((spec.get("template") or {}).get("spec") or {}).get("nodeSelector")
    return [
        obj["metadata"]["name"],
        *(status.get(c, 0) for c in counts),
        _map(nodes),
        age(obj),
        *_images(obj),
        _selector(spec.get("selector")),
    ]


def _job(obj: JSON) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    done = status.get("succeeded", 0)
    wanted = spec.get("completions")
    parallel = spec.get("parallelism", 1)
    completions = f"{done}/{wanted}" if wanted is not None else f"{done}/1" + (f" of {parallel}" if parallel > 1 else "")  # fmt: skip
    return [
        obj["metadata"]["name"],
        _job_status(obj),
        completions,
        _duration(status),
        age(obj),
        *_images(obj),
        _selector(spec.get("selector")),
    ]


def _job_status(obj: JSON) -> str:
    status = obj.get("status") or {}
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    true = {c["type"] for c in status.get("conditions") or () if c.get("status") == "True"}
    for condition, text in (("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended"), ("FailureTarget", "FailureTarget"), ("SuccessCriteriaMet", "SuccessCriteriaMet")):  # fmt: skip
        if condition in true:
            return text
    return "Running"


def _duration(status: JSON) -> str:
    if not status.get("startTime"):
        return ""
    return since(status["startTime"], status.get("completionTime"))


def _cron_job(obj: JSON) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    last = since(status["lastScheduleTime"]) if status.get("lastScheduleTime") else "<none>"
    template = {"spec": (spec.get("jobTemplate") or {}).get("spec") or {}}
    return [
        obj["metadata"]["name"],
        spec.get("schedule", ""),
        spec.get("timeZone") or "<none>",
        str(bool(spec.get("suspend"))),
        len(status.get("active") or ()),
        last,
        age(obj),
        *_images(template),
        _selector(((spec.get("jobTemplate") or {}).get("spec") or {}).get("selector")),
    ]


def _service(obj: JSON) -> list[Any]:
    spec = obj.get("spec") or {}
    ports = []
    for port in spec.get("ports") or ():
        text = f"{port['port']}"
        if port.get("nodePort"):
            text += f":{port['nodePort']}"
        ports.append(f"{text}/{port.get('protocol', 'TCP')}")
    return [
        obj["metadata"]["name"],
        spec.get("type", ""),
        spec.get("clusterIP") or "<none>",
        _external(obj),
        ",".join(ports) or "<none>",
        age(obj),
        _map(spec.get("selector")),
    ]


def _external(obj: JSON) -> str:
    spec = obj.get("spec") or {}
    kind, given = spec.get("type"), spec.get("externalIPs") or []
    if kind == "ExternalName":
        return spec.get("externalName") or "<none>"
    if kind == "LoadBalancer":
        balancer = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
        found = [i.get("ip") or i.get("hostname") or "" for i in balancer] + given
        return ",".join(found) or "<pending>"
    return ",".join(given) or "<none>"


def _endpoints(obj: JSON) -> list[Any]:
    found = []
    for subset in obj.get("subsets") or ():
        for address in subset.get("addresses") or ():
            ports = subset.get("ports") or [None]
            found += [_join(address["ip"], p["port"] if p else None) for p in ports]
    text = ",".join(found[:3]) or "<none>"
    if len(found) > 3:
        text += f" + {len(found) - 3} more..."
    return [obj["metadata"]["name"], text, age(obj)]


def _join(ip: str, port: int | None) -> str:
    if port is None:
        return ip
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _limited(values: Iterable[str]) -> str:
    found = list(values)
    more = f" + {len(found) - 3} more..." if len(found) > 3 else ""
    return (",".join(found[:3]) + more) or "<unset>"


def _endpoint_slice(obj: JSON) -> list[Any]:
    ports = (str(p["port"]) if p.get("port") is not None else "*" for p in obj.get("ports") or ())
    addresses = (a for e in obj.get("endpoints") or () for a in e.get("addresses") or ())
    return [
        obj["metadata"]["name"],
        obj.get("addressType", ""),
        _limited(ports),
        _limited(addresses),
        age(obj),
    ]


def _ingress(obj: JSON) -> list[Any]:
    spec = obj.get("spec") or {}
    hosts = [r["host"] for r in spec.get("rules") or () if r.get("host")]
    text = ",".join(hosts[:3]) or "*"
    if len(hosts) > 3:
        text += f" + {len(hosts) - 3} more..."
    balancer = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [
        obj["metadata"]["name"],
        spec.get("ingressClassName") or "<none>",
        text,
        ",".join(i.get("ip") or i.get("hostname") or "" for i in balancer),
        "80, 443" if spec.get("tls") else "80",
        age(obj),
    ]


def _ingress_class(obj: JSON) -> list[Any]:
    spec = obj.get("spec") or {}
    parameters = spec.get("parameters")
    text = "<none>"
    if parameters:
        kind = parameters["kind"] + (f".{parameters['apiGroup']}" if parameters.get("apiGroup") else "")  # fmt: skip
        text = f"{kind}/{parameters['name']}"
    return [obj["metadata"]["name"], spec.get("controller", ""), text, age(obj)]


def _network_policy(obj: JSON) -> list[Any]:
    selector = (obj.get("spec") or {}).get("podSelector")
    return [obj["metadata"]["name"], _selector(selector), age(obj)]


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


_IMAGES = "*Containers|*Images"
_RBAC = "Name|Role|Age|*Users|*Groups|*ServiceAccounts"
_KINDS: dict[str, tuple[str, Cells]] = {
    "Pod": (podcolumns.HEADER, podcolumns.cells),
    "Deployment": (f"Name|Ready|Up-to-date|Available|Age|{_IMAGES}|*Selector", _deployment),
    "ReplicaSet": (f"Name|Desired|Current|Ready|Age|{_IMAGES}|*Selector", _replica_set),
    "ReplicationController": (f"Name|Desired|Current|Ready|Age|{_IMAGES}|*Selector", _replica_set),
    "StatefulSet": (f"Name|Ready|Age|{_IMAGES}", _stateful_set),
    "DaemonSet": (f"Name|Desired|Current|Ready|Up-to-date|Available|Node Selector|Age|{_IMAGES}|*Selector", _daemon_set),
    "Job": (f"Name|Status|Completions|Duration|Age|{_IMAGES}|*Selector", _job),
    "CronJob": (f"Name|Schedule|Timezone|Suspend|Active|Last Schedule|Age|{_IMAGES}|*Selector", _cron_job),
    "Service": ("Name|Type|Cluster-IP|External-IP|Port(s)|Age|*Selector", _service),
    "Endpoints": ("Name|Endpoints|Age", _endpoints),
    "EndpointSlice": ("Name|AddressType|Ports|Endpoints|Age", _endpoint_slice),
    "Ingress": ("Name|Class|Hosts|Address|Ports|Age", _ingress),
    "IngressClass": ("Name|Controller|Parameters|Age", _ingress_class),
    "NetworkPolicy": ("Name|Pod-Selector|Age", _network_policy),
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


def _custom(served: Served) -> tuple[list[JSON], Cells]:
    wanted = (served.declared or {}).get("additionalPrinterColumns")
    if not wanted:
        wanted = [{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]
    definitions = _definitions("Name")
    for column in wanted:
        definitions.append(
            {
                "name": column["name"],
                "type": column.get("type", "string"),
                "format": column.get("format", ""),
                "description": column.get("description", ""),
                "priority": column.get("priority", 0),
            }
        )

    def cells(obj: JSON) -> list[Any]:
        return [obj["metadata"]["name"], *(_custom_cell(obj, c) for c in wanted)]

    return definitions, cells


def _custom_cell(obj: JSON, column: JSON) -> Any:
    values = list(_walk(obj, column.get("jsonPath", "")))
    if not values:
        return None
    if column.get("type") == "date":
        return since(values[0]) if isinstance(values[0], str) else None
    if column.get("type") in ("integer", "number", "boolean"):
        return values[0]
    return ",".join(v if isinstance(v, str) else msgspec.json.encode(v).decode() for v in values)


def _walk(obj: JSON, path: str) -> Iterable[Any]:
    """The simple part of JSONPath: names, indexes, [*] and [?(@.a=="b")]."""
    import re

    values: list[Any] = [obj]
    for match in re.finditer(
        r"\.(?P<name>(?:\\\.|[^.\[\]])+)|\[(?P<index>\d+|\*)\]|\['(?P<quoted>[^']+)'\]"
        r"|\[\?\(@\.(?P<field>[^=]+)==[\"'](?P<value>[^\"']*)[\"']\)\]",
        path,
    ):
        name = match["quoted"] or (match["name"] or "").replace("\\.", ".")
        if name:
            values = [v[name] for v in values if isinstance(v, dict) and v.get(name) is not None]
        elif match["field"]:
            field = match["field"].strip()
            values = [i for v in values if isinstance(v, list) for i in v if isinstance(i, dict) and i.get(field) == match["value"]]  # fmt: skip
        elif match["index"] == "*":
            values = [i for v in values if isinstance(v, list) for i in v]
        else:
            number = int(match["index"])
            values = [v[number] for v in values if isinstance(v, list) and number < len(v)]
    return values
