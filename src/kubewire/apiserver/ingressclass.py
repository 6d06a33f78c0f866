"""The DefaultIngressClass admission: an Ingress that names no class gets the cluster's default one.

With several defaults nobody could tell which is meant, so that such an Ingress is refused.
"""

from collections.abc import Iterable

from kubewire.api.errors import StatusError
from kubewire.api.ingress import CLASS_ANNOTATION, DEFAULT_CLASS_ANNOTATION
from kubewire.api.meta import JSON
from kubewire.api.resources import INGRESSES


def choose(ingress: JSON, classes: Iterable[JSON]) -> None:
    """Fill in spec.ingressClassName; raises Forbidden."""
    spec, meta = ingress.get("spec"), ingress["metadata"]
    if not isinstance(spec, dict) or spec.get("ingressClassName") is not None:
        return
    if CLASS_ANNOTATION in (meta.get("annotations") or {}):
        return
    defaults = [c for c in classes if _annotations(c).get(DEFAULT_CLASS_ANNOTATION) == "true"]
    if len(defaults) > 1:
        name = meta.get("name") or ""
        why = f"{len(defaults)} default IngressClasses were found, only 1 allowed"
        text = f'{INGRESSES.group_resource} "{name}" is forbidden: Internal error occurred: {why}'
        raise StatusError(
            "Forbidden", text, group=INGRESSES.group, kind=INGRESSES.plural, name=name
        )
    if defaults:
        spec["ingressClassName"] = defaults[0]["metadata"]["name"]


def _annotations(obj: JSON) -> JSON:
    return obj["metadata"].get("annotations") or {}
