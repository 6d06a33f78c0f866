"""Strict decoding: what Go's decoder says about a body that does not fit its kind.

A wrong type is always an error (400). A field that the kind does not have is dropped; what is said
about it depends on ``fieldValidation``: nothing, a Warning header, or an error.
"""

from typing import Any

from kubewire.api.errors import Cause
from kubewire.api.meta import JSON
from kubewire.apiserver.models import Field, Struct


class WrongTypeError(Exception):
    """A value that the field's Go type cannot hold; the text is Go's, the cause has the place."""

    def __init__(self, text: str, field: str, fault: str) -> None:
        super().__init__(text)
        self.cause = Cause(reason="FieldValueTypeInvalid", message=fault, field=field)


def conform(obj: JSON, kind: Struct) -> tuple[JSON, list[str]]:
    """Return the object without unknown or null fields, and the paths of the unknown ones."""
    unknown: list[str] = []
    return _struct(obj, kind, "", "", unknown), unknown


def _struct(value: JSON, kind: Struct, path: str, plain: str, unknown: list[str]) -> JSON:
    out: JSON = {}
    fields = kind.fields
    for name, item in value.items():
        field = fields.get(name)
        if field is None:
            unknown.append(f"{path}{name}")
        elif item is not None:
            out[name] = _value(item, field, kind, path + name, plain + name, unknown)
    return out


def _value(
    item: Any, field: Field, owner: Struct, path: str, plain: str, unknown: list[str]
) -> Any:
    if field.repeated:
        if type(item) is not list:
            raise _wrong(item, field.go_type, owner, path, plain)
        return [
            _one(entry, field, owner, f"{path}[{index}]", plain, unknown)
            for index, entry in enumerate(item)
            if entry is not None
        ]
    return _one(item, field, owner, path, plain, unknown)


def _one(item: Any, field: Field, owner: Struct, path: str, plain: str, unknown: list[str]) -> Any:
    scalar = field.scalar
    if scalar == "string" and type(item) is str:
        return item
    if not scalar:
        if type(item) is not dict:
            raise _wrong(item, f"v1.{field.type_name}", owner, path, plain)
        return _struct(item, field.struct, path + ".", plain + ".", unknown)
    check = _CHECKS.get(scalar)
    if check is not None and not check(item):
        raise _wrong(item, field.go_type.removeprefix("[]"), owner, path, plain)
    if scalar == "stringmap":
        return _string_map(item, owner, path, plain)
    if scalar == "quantity" and type(item) is not str:
        return str(item)
    return item


def _string_map(item: JSON, owner: Struct, path: str, plain: str) -> JSON:
    for key, value in item.items():
        if type(value) is not str and value is not None:
            raise _wrong(value, "string", owner, f"{path}[{key}]", plain)
    return {k: v or "" for k, v in item.items()}


def _wrong(item: Any, go_type: str, owner: Struct, path: str, plain: str) -> WrongTypeError:
    what = _JSON_NAMES.get(type(item), "null")
    if isinstance(item, float) and "int" in go_type:
        what = f"number {item}"
    text = f"json: cannot unmarshal {what} into Go struct field {owner.name}.{plain} of type {go_type}"  # fmt: skip
    if go_type in ("v1.Time", "resource.Quantity"):
        text = f'unable to decode {plain}: "{item}" is not a {go_type}'
    return WrongTypeError(text, path, f"must be of type {go_type}, not {what}")


_JSON_NAMES: dict[type, str] = {
    str: "string", dict: "object", list: "array", bool: "bool", int: "number", float: "number",
}  # fmt: skip


def _is_int(limit: int, item: Any) -> bool:
    return type(item) is int and -limit <= item < limit


_CHECKS = {
    "string": lambda item: type(item) is str,
    "bool": lambda item: type(item) is bool,
    "int32": lambda item: _is_int(1 << 31, item),
    "int64": lambda item: _is_int(1 << 63, item),
    "float64": lambda item: type(item) in (int, float),
    "intstr": lambda item: type(item) is str or _is_int(1 << 31, item),
    "quantity": lambda item: type(item) in (str, int, float),
    "time": lambda item: type(item) is str,
    "object": lambda item: type(item) is dict,
    "stringmap": lambda item: type(item) is dict,
}
