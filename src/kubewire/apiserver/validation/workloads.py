"""Deployment, ReplicaSet, StatefulSet, DaemonSet, Job, CronJob."""

from collections.abc import Iterable
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from kubewire.api.meta import JSON
from kubewire.api.selectors import LabelSelector
from kubewire.apiserver.faults import Faults
from kubewire.apiserver.validation import names, pods, selectors
from kubewire.lang import cron

_NOT_NEGATIVE = "must be greater than or equal to 0"
_STATEFUL_MUTABLE = (
    "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
)  # fmt: skip
_STATEFUL_TEXT = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
    "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
    "'minReadySeconds' are forbidden"
)


def workload(obj: JSON, faults: Faults) -> None:
    """What Deployment, ReplicaSet, StatefulSet and DaemonSet have in common."""
    spec, kind = obj.get("spec") or {}, obj["kind"]
    _counts(spec, "spec", faults)
    selector = spec.get("selector")
    if selector is None:
        faults.required("spec.selector")
    else:
        selectors.selector(selector, "spec.selector", faults)
        if selectors.is_empty(selector):
            why = f"empty selector is invalid for {kind.lower()}"
            faults.invalid("spec.selector", selector, why)
    claims = [(c.get("metadata") or {}).get("name", "") for c in spec.get("volumeClaimTemplates") or ()]  # fmt: skip
    template(spec.get("template") or {}, "spec.template", faults, claims)
    _matches(selector, spec.get("template") or {}, faults)
    policy = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy")
    if policy in ("OnFailure", "Never"):
        faults.unsupported("spec.template.spec.restartPolicy", policy, ("Always",))
    if kind == "Deployment":
        _strategy(
            spec.get("strategy") or {}, "spec.strategy", ("Recreate", "RollingUpdate"), faults
        )
    elif kind in ("DaemonSet", "StatefulSet"):
        update = spec.get("updateStrategy") or {}
        _strategy(update, "spec.updateStrategy", ("RollingUpdate", "OnDelete"), faults)
    if kind == "StatefulSet" and spec.get("podManagementPolicy") not in (
        "OrderedReady",
        "Parallel",
    ):
        value = spec.get("podManagementPolicy")
        faults.invalid("spec.podManagementPolicy", value, "must be 'OrderedReady' or 'Parallel'")


def template(value: JSON, path: str, faults: Faults, claims: Iterable[str] = ()) -> None:
    """A pod template."""
    meta = value.get("metadata") or {}
    selectors.labels(meta.get("labels") or {}, f"{path}.labels", faults)
    selectors.annotations(meta.get("annotations") or {}, f"{path}.annotations", faults)
    pods.spec(value.get("spec") or {}, f"{path}.spec", faults, claims)


def _counts(spec: JSON, path: str, faults: Faults) -> None:
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds",
                  "parallelism", "completions", "backoffLimit", "activeDeadlineSeconds",
                  "ttlSecondsAfterFinished"):  # fmt: skip
        number = spec.get(field)
        if isinstance(number, int) and number < 0:
            faults.invalid(f"{path}.{field}", number, _NOT_NEGATIVE)


def _matches(selector: Any, value: JSON, faults: Faults) -> None:
    labels = (value.get("metadata") or {}).get("labels") or {}
    if selector is None:
        matches = False  # no selector selects nothing, an empty one everything
    else:
        try:
            matches = msgspec.convert(selector, LabelSelector).matches(labels)
        except msgspec.ValidationError:
            return  # the wrong operator has been reported
    if not matches:
        path = "spec.template.metadata.labels"
        faults.invalid(path, labels, "`selector` does not match template `labels`")


def _strategy(value: JSON, path: str, kinds: tuple[str, ...], faults: Faults) -> None:
    kind = value.get("type")
    if kind not in kinds:
        faults.unsupported(f"{path}.type", kind, kinds)
        return
    rolling = value.get("rollingUpdate")
    if kind == "Recreate" and rolling is not None:
        faults.forbidden(f"{path}.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")  # fmt: skip
    if kind != "RollingUpdate" or not rolling or "partition" in rolling:
        return
    for field in ("maxUnavailable", "maxSurge"):
        amount = rolling.get(field, 0)
        if isinstance(amount, str):
            pods.check(faults, f"{path}.rollingUpdate.{field}", amount, names.percent(amount))
        elif amount < 0:
            faults.invalid(f"{path}.rollingUpdate.{field}", amount, _NOT_NEGATIVE)
    if _is_zero(rolling.get("maxUnavailable")) and _is_zero(rolling.get("maxSurge")):
        unavailable = rolling.get("maxUnavailable")
        why = "may not be 0 when `maxSurge` is 0"
        faults.invalid(f"{path}.rollingUpdate.maxUnavailable", unavailable, why)


def _is_zero(value: Any) -> bool:
    return value in (0, "0%", None)


def workload_update(old: JSON, new: JSON, faults: Faults) -> None:
    """Selectors never change; a StatefulSet's spec hardly does."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    kind = new["kind"]
    if kind == "StatefulSet":

        def frozen(spec: JSON) -> JSON:
            return {k: v for k, v in spec.items() if k not in _STATEFUL_MUTABLE}

        if frozen(before) != frozen(after):
            faults.forbidden("spec", _STATEFUL_TEXT)
    elif before.get("selector") != after.get("selector"):
        faults.invalid("spec.selector", after.get("selector"), "field is immutable")


def job(obj: JSON, faults: Faults) -> None:
    """A Job."""
    job_spec(obj.get("spec") or {}, "spec", faults)


def job_spec(spec: JSON, path: str, faults: Faults) -> None:
    """A JobSpec, in a Job or in a CronJob."""
    _counts(spec, path, faults)
    value = spec.get("template") or {}
    template(value, f"{path}.template", faults)
    policy = (value.get("spec") or {}).get("restartPolicy")
    if policy == "Always":
        faults.required(f"{path}.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"')
    mode = spec.get("completionMode", "NonIndexed")
    if mode not in ("NonIndexed", "Indexed"):
        faults.unsupported(f"{path}.completionMode", mode, ("NonIndexed", "Indexed"))
    if mode == "Indexed" and spec.get("completions") is None:
        faults.required(f"{path}.completions", "when completion mode is Indexed")


def job_update(old: JSON, new: JSON, faults: Faults) -> None:
    """Template and selector of a Job never change."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    for field in ("completions", "selector", "template", "completionMode"):
        if field == "completions" and after.get("completionMode") == "Indexed":
            continue
        if before.get(field) != after.get(field):
            faults.invalid(f"spec.{field}", after.get(field), "field is immutable")


def cron_job(obj: JSON, faults: Faults) -> None:
    """A CronJob."""
    spec = obj.get("spec") or {}
    if not spec.get("schedule"):
        faults.required("spec.schedule")
    else:
        try:
            cron.parse(spec["schedule"])
        except ValueError as error:
            faults.invalid("spec.schedule", spec["schedule"], str(error))
    if (zone := spec.get("timeZone")) is not None:
        _time_zone(zone, faults)
    policies = ("Allow", "Forbid", "Replace")
    if spec.get("concurrencyPolicy") not in policies:
        faults.unsupported("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), policies)
    inner = (spec.get("jobTemplate") or {}).get("spec") or {}
    job_spec(inner, "spec.jobTemplate.spec", faults)


def _time_zone(name: str, faults: Faults) -> None:
    if not name:
        faults.invalid("spec.timeZone", name, "timeZone must be nil or non-empty string")
    elif name == "Local":
        faults.invalid("spec.timeZone", name, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")  # fmt: skip
    else:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            faults.invalid("spec.timeZone", name, f"unknown time zone {name}")
