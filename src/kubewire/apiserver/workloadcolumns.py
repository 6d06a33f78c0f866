"""Rows of what runs pods: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs."""

from typing import Any

from kubewire.api.meta import JSON
from kubewire.apiserver.ages import age, since
from kubewire.apiserver.cells import Cells, labels_text, selector_text


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
        selector_text(spec.get("selector")),
    ]


def _replica_set(obj: JSON) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    selector = spec.get("selector")
    text = (
        labels_text(selector)
        if obj.get("kind") == "ReplicationController"
        else selector_text(selector)
    )
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
        labels_text(nodes),
        age(obj),
        *_images(obj),
        selector_text(spec.get("selector")),
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
        selector_text(spec.get("selector")),
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
        selector_text(((spec.get("jobTemplate") or {}).get("spec") or {}).get("selector")),
    ]


def _controller_revision(obj: JSON) -> list[Any]:
    refs = obj["metadata"].get("ownerReferences") or ()
    owner = next((r for r in refs if r.get("controller")), None)
    kind = owner and f"{owner['kind'].lower()}{_group(owner['apiVersion'])}/{owner['name']}"
    return [obj["metadata"]["name"], kind or "<none>", obj.get("revision", 0), age(obj)]


def _group(api_version: str) -> str:
    group, slash, _ = api_version.rpartition("/")
    return f".{group}" if slash else ""


_IMAGES = "*Containers|*Images"
KINDS: dict[str, tuple[str, Cells]] = {
    "Deployment": (f"Name|Ready|Up-to-date|Available|Age|{_IMAGES}|*Selector", _deployment),
    "ReplicaSet": (f"Name|Desired|Current|Ready|Age|{_IMAGES}|*Selector", _replica_set),
    "ReplicationController": (f"Name|Desired|Current|Ready|Age|{_IMAGES}|*Selector", _replica_set),
    "StatefulSet": (f"Name|Ready|Age|{_IMAGES}", _stateful_set),
    "DaemonSet": (f"Name|Desired|Current|Ready|Up-to-date|Available|Node Selector|Age|{_IMAGES}|*Selector", _daemon_set),
    "ControllerRevision": ("Name|Controller|Revision|Age", _controller_revision),
    "Job": (f"Name|Status|Completions|Duration|Age|{_IMAGES}|*Selector", _job),
    "CronJob": (f"Name|Schedule|Timezone|Suspend|Active|Last Schedule|Age|{_IMAGES}|*Selector", _cron_job),
}  # fmt: skip
"""Kind -> columns and the function that fills them."""
