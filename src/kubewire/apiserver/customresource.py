"""CustomResourceDefinitions: accept one, and prune, default and validate what it declares."""

from typing import Any

from kubewire.api.meta import JSON
from kubewire.apiserver.catalog import Served
from kubewire.apiserver.faults import Faults

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,),
    "number": (int, float), "boolean": (bool,),
}  # fmt: skip


def prepare_definition(obj: JSON) -> None:
    """Fill what the server derives in a new definition."""
    spec = obj.get("spec") or {}
    names = spec.get("names") or {}
    if names.get("kind"):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")
    spec.setdefault("conversion", {"strategy": "None"})


def accept(obj: JSON) -> None:
    """Mark a valid definition as established; its resources are served at once."""
    spec = obj["spec"]
    stamp = obj["metadata"].get("creationTimestamp")
    status = obj.setdefault("status", {})
    conditions = [
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ]
    status["conditions"] = [
        {"type": t, "status": "True", "lastTransitionTime": stamp, "reason": r, "message": m}
        for t, r, m in conditions
    ]
    status["acceptedNames"] = spec["names"]
    stored = [v["name"] for v in spec["versions"] if v.get("storage")]
    status["storedVersions"] = sorted({*(status.get("storedVersions") or ()), *stored})


def schema_of(served: Served) -> JSON:
    """The openAPIV3Schema of the served version."""
    schema: JSON = ((served.declared or {}).get("schema") or {}).get("openAPIV3Schema") or {}
    return schema


def complete(served: Served, obj: JSON) -> None:
    """Fill defaults that the schema declares."""
    _default(obj, schema_of(served))


def prune(served: Served, obj: JSON) -> list[str]:
    """Drop fields that the schema does not declare; returns their paths."""
    unknown: list[str] = []
    schema = schema_of(served)
    body = {k: v for k, v in obj.items() if k not in ("apiVersion", "kind", "metadata")}
    _prune(body, schema, "", unknown)
    for name in [k for k in obj if k not in ("apiVersion", "kind", "metadata")]:
        if name not in body:
            del obj[name]
    return unknown


def validate(served: Served, obj: JSON, faults: Faults) -> None:
    """Check types, required fields, enumerations and bounds."""
    schema = schema_of(served)
    body = {k: v for k, v in obj.items() if k not in ("apiVersion", "kind", "metadata")}
    trimmed = {
        **schema,
        "required": [r for r in schema.get("required") or () if r not in ("apiVersion", "kind", "metadata")],
    }  # fmt: skip
    _check(body, trimmed, "", faults)


def _default(value: Any, schema: JSON) -> None:
    if isinstance(value, dict):
        for name, below in (schema.get("properties") or {}).items():
            if name not in value and "default" in below:
                value[name] = _copy(below["default"])
            if name in value:
                _default(value[name], below)
        additional = schema.get("additionalProperties")
        if isinstance(additional, dict):
            for item in value.values():
                _default(item, additional)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            _default(item, schema["items"])


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _prune(value: Any, schema: JSON, path: str, unknown: list[str]) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _prune(item, schema.get("items") or {}, f"{path}[{index}]", unknown)
        return
    if not isinstance(value, dict) or schema.get("x-kubernetes-embedded-resource"):
        return
    properties = schema.get("properties") or {}
    additional = schema.get("additionalProperties")
    keep = schema.get("x-kubernetes-preserve-unknown-fields") or additional is True
    for name in list(value):
        below = f"{path}.{name}" if path else name
        if name in properties:
            _prune(value[name], properties[name], below, unknown)
        elif isinstance(additional, dict):
            _prune(value[name], additional, below, unknown)
        elif not keep:
            unknown.append(below)
            del value[name]


def _check(value: Any, schema: JSON, path: str, faults: Faults) -> None:
    if value is None:
        if not schema.get("nullable") and schema.get("type"):
            faults.invalid(path, "null", f'{path} in body must be of type {schema["type"]}: "null"')
        return
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            faults.invalid(path, _name(value), f"{path} in body must be of type integer,string")
        return
    wanted = schema.get("type")
    if wanted and not _is(value, wanted):
        text = f'{path} in body must be of type {wanted}: "{_name(value)}"'
        faults.invalid(path, _name(value), text)
        return
    if schema.get("enum") and value not in schema["enum"]:
        faults.unsupported(path, value, map(str, schema["enum"]))
    _bounds(value, schema, path, faults)
    if isinstance(value, dict):
        _check_object(value, schema, path, faults)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            _check(item, schema["items"], f"{path}[{index}]", faults)


def _check_object(value: JSON, schema: JSON, path: str, faults: Faults) -> None:
    for name in schema.get("required") or ():
        if name not in value:
            faults.required(f"{path}.{name}" if path else name)
    properties = schema.get("properties") or {}
    additional = schema.get("additionalProperties")
    for name, item in value.items():
        below = properties.get(name) or (additional if isinstance(additional, dict) else None)
        if below:
            _check(item, below, f"{path}.{name}" if path else name, faults)


def _bounds(value: Any, schema: JSON, path: str, faults: Faults) -> None:
    import re

    def bad(what: str) -> None:
        faults.invalid(path, value, f"{path} in body should {what}")

    if isinstance(value, str):
        pattern = schema.get("pattern")
        if pattern and _matches(re, pattern, value) is False:
            bad(f"match '{pattern}'")
        if len(value) < schema.get("minLength", 0):
            bad(f"be at least {schema['minLength']} chars long")
        if len(value) > schema.get("maxLength", len(value)):
            bad(f"be at most {schema['maxLength']} chars long")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            bad(f"be greater than or equal to {schema['minimum']}")
        if value > schema.get("maximum", value):
            bad(f"be less than or equal to {schema['maximum']}")
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            bad(f"have at least {schema['minItems']} items")
        if len(value) > schema.get("maxItems", len(value)):
            bad(f"have at most {schema['maxItems']} items")


def _matches(re: Any, pattern: str, value: str) -> bool | None:
    """None when the pattern is one that only Go understands."""
    try:
        return re.search(pattern, value) is not None
    except re.error:
        return None


def _is(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(wanted, (object,)))


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    for name in ("object", "array", "string", "integer", "number"):
        if isinstance(value, _TYPES[name]):
            return name
    return "null"
