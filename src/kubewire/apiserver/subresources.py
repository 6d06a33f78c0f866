"""Subresources that change objects: scale, binding, token, and the reviews."""

import datetime
from typing import Any

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON
from kubewire.api.selectors import LabelSelector
from kubewire.apiserver.auth import Tokens, User
from kubewire.apiserver.catalog import Served
from kubewire.apiserver.rest import Rest, WriteOptions, conflict
from kubewire.apiserver.rfc3339 import now
from kubewire.apiserver.store import Revision

KINDS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "scale": ("autoscaling", "v1", "Scale", ("get", "patch", "update")),
    "finalize": ("", "", "", ("update",)),
    "binding": ("", "v1", "Binding", ("create",)),
    "eviction": ("policy", "v1", "Eviction", ("create",)),
    "token": ("authentication.k8s.io", "v1", "TokenRequest", ("create",)),
    "log": ("", "", "", ("get",)),
    "exec": ("", "v1", "PodExecOptions", ("create", "get")),
    "attach": ("", "v1", "PodAttachOptions", ("create", "get")),
    "portforward": ("", "v1", "PodPortForwardOptions", ("create", "get")),
    "proxy": ("", "v1", "ServiceProxyOptions", ("create", "delete", "get", "patch", "update")),
}
"""Subresource -> (group, version, kind, verbs); an empty kind means the parent's."""


def scale_of(served: Served, obj: JSON) -> JSON:
    """The Scale of an object."""
    meta = obj["metadata"]
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    paths = _custom_scale(served)
    replicas = _dig(obj, paths.get("specReplicasPath", ".spec.replicas"))
    observed = _dig(obj, paths.get("statusReplicasPath", ".status.replicas"))
    selector = spec.get("selector")
    out_status: JSON = {"replicas": observed or 0}
    if paths.get("labelSelectorPath"):
        out_status["selector"] = _dig(obj, paths["labelSelectorPath"]) or ""
    elif served.resource.kind == "ReplicationController":
        out_status["selector"] = ",".join(f"{k}={v}" for k, v in sorted((selector or {}).items()))
    elif isinstance(selector, dict):
        out_status["selector"] = _selector_text(selector)
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    del status
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {k: meta[k] for k in kept if k in meta},
        "spec": {"replicas": replicas} if replicas else {},
        "status": out_status,
    }


def set_scale(served: Served, obj: JSON, scale: JSON) -> JSON:
    """Apply a Scale to an object."""
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    name = obj["metadata"]["name"]
    if not isinstance(replicas, int) or replicas < 0:
        from kubewire.apiserver.faults import Faults

        faults = Faults()
        faults.invalid("spec.replicas", replicas, "must be greater than or equal to 0")
        raise faults.error("autoscaling", "Scale", name)
    version = (scale.get("metadata") or {}).get("resourceVersion")
    if version and version != obj["metadata"]["resourceVersion"]:
        raise conflict(served, name, "the object has been modified; please apply your changes to the latest version and try again")  # fmt: skip
    path = _custom_scale(served).get("specReplicasPath", ".spec.replicas")
    *parents, last = path.lstrip(".").split(".")
    target = obj
    for step in parents:
        target = target.setdefault(step, {})
    target[last] = replicas
    return obj


def bind(
    rest: Rest, pods: Served, namespace: str, name: str, binding: JSON, options: WriteOptions
) -> None:
    """The scheduler's decision: the pod runs on this node."""
    target = (binding.get("target") or {}).get("name")
    if not target:
        raise StatusError("Invalid", 'Binding "" is invalid: target.name: Required value')

    def change(pod: JSON) -> JSON:
        if pod["metadata"].get("deletionTimestamp"):
            raise conflict_of_binding(name, f"pod {name} is being deleted, cannot be assigned to a host")  # fmt: skip
        current = pod["spec"].get("nodeName")
        if current:
            raise conflict_of_binding(name, f'pod {name} is already assigned to node "{current}"')
        pod["spec"]["nodeName"] = target
        annotations = (binding.get("metadata") or {}).get("annotations")
        if annotations:
            pod["metadata"].setdefault("annotations", {}).update(annotations)
        conditions = [
            c for c in pod["status"].get("conditions") or () if c.get("type") != "PodScheduled"
        ]
        stamp = now()
        conditions.append({"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": stamp})  # fmt: skip
        pod["status"]["conditions"] = conditions
        return pod

    rest.update(pods, namespace, name, change, options, "binding")


def conflict_of_binding(name: str, why: str) -> StatusError:
    """409 for a pod that cannot be bound."""
    text = f'Operation cannot be fulfilled on pods/binding "{name}": {why}'
    return StatusError("Conflict", text, kind="pods/binding", name=name)


def token_request(tokens: Tokens, account: Revision, body: JSON) -> JSON:
    """Answer a TokenRequest."""
    spec = body.get("spec") or {}
    seconds = int(spec.get("expirationSeconds") or 3600)
    audiences = list(spec.get("audiences") or ())
    token, expires = tokens.issue(account.obj, audiences, seconds, spec.get("boundObjectRef"))
    stamp = datetime.datetime.fromtimestamp(expires, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    meta = account.obj["metadata"]
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "creationTimestamp": None},
        "spec": {**spec, "expirationSeconds": seconds, "audiences": audiences or ["https://kubernetes.default.svc.cluster.local"]},
        "status": {"token": token, "expirationTimestamp": stamp},
    }  # fmt: skip


def review(kind: str, body: JSON, user: User, tokens: Tokens) -> JSON:
    """Answer a question about identity or permission: whoever is known may do everything."""
    out = {**body, "kind": kind}
    if kind == "SelfSubjectReview":
        out["status"] = {"userInfo": user.to_wire()}
    elif kind == "TokenReview":
        try:
            found = tokens.check((body.get("spec") or {}).get("token", ""))
            out["status"] = {"authenticated": True, "user": found.to_wire()}
        except StatusError:
            out["status"] = {"user": {}, "error": "invalid bearer token"}
    elif kind == "SelfSubjectRulesReview":
        everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
        urls = {"verbs": ["*"], "nonResourceURLs": ["*"]}
        out["status"] = {"resourceRules": [everything], "nonResourceRules": [urls], "incomplete": False}  # fmt: skip
    else:
        known = (body.get("spec") or {}).get("user", user.name) != "system:anonymous"
        out["status"] = {"allowed": known}
    return out


def _custom_scale(served: Served) -> JSON:
    found: JSON = ((served.custom or {}).get("subresources") or {}).get("scale") or {}
    return found


def _dig(obj: JSON, path: str) -> Any:
    value: Any = obj
    for step in path.lstrip(".").split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _selector_text(selector: JSON) -> str:
    import msgspec

    return str(msgspec.convert(selector, LabelSelector))
