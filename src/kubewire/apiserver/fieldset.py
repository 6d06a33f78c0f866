"""An object as the set of its leaf fields, which is how field ownership is counted.

A path is a tuple of steps as ``fieldsV1`` spells them: ``f:name`` for a field, ``k:{"name":"c"}``
for an item of an associative list, ``v:"x"`` for a member of a set, and a final ``.`` for the item
itself. Lists that are neither, and maps that are declared atomic, are single leaves.
"""

import json
from collections.abc import Iterable
from typing import Any

from kubewire.api.meta import JSON
from kubewire.apiserver import customresource
from kubewire.apiserver.catalog import Served
from kubewire.apiserver.mergekeys import KEY_DEFAULTS, LIST_MAP_KEYS, MERGED_SETS
from kubewire.apiserver.models import Struct

Path = tuple[str, ...]

ATOMIC_TYPES = frozenset(
    [
        "LabelSelector",
        "ObjectReference",
        "LocalObjectReference",
        "SecretKeySelector",
        "ConfigMapKeySelector",
        "ObjectFieldSelector",
        "ResourceFieldSelector",
        "TypedLocalObjectReference",
        "NodeSelector",
        "SecretReference",
        "CrossVersionObjectReference",
        "RoleRef",
    ]
)
ATOMIC_FIELDS = frozenset({("PodSpec", "nodeSelector"), ("ServiceSpec", "selector")})
_OURS = frozenset(
    [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "managedFields",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
    ]
)


class Shape:
    """What a part of an object looks like: a built-in type, a custom schema, or unknown."""

    __slots__ = ("schema", "struct")

    def __init__(self, struct: Struct | None = None, schema: JSON | None = None) -> None:
        self.struct = struct
        self.schema = schema or {}

    @classmethod
    def of(cls, served: Served) -> "Shape":
        """The shape of a kind."""
        if served.declared is not None:
            return cls(schema=customresource.schema_of(served))
        return cls(served.struct)

    def below(self, name: str) -> "Shape":
        """The shape of a field (of its items, if it is a list)."""
        if self.struct is not None:
            field = self.struct.fields.get(name)
            return Shape(field.struct if field is not None and not field.scalar else None)
        schema = (self.schema.get("properties") or {}).get(name) or {}
        return Shape(schema=schema.get("items") or schema)

    def keys(self, name: str) -> tuple[str, ...]:
        """The keys of an associative list, or none."""
        if self.struct is not None:
            return LIST_MAP_KEYS.get((self.struct.name, name), ())
        schema = (self.schema.get("properties") or {}).get(name) or {}
        return tuple(schema.get("x-kubernetes-list-map-keys") or ())

    def is_set(self, name: str) -> bool:
        """Whether a list is a set of scalars."""
        if self.struct is not None:
            return (self.struct.name, name) in MERGED_SETS
        schema = (self.schema.get("properties") or {}).get(name) or {}
        return schema.get("x-kubernetes-list-type") == "set"

    def is_atomic(self, name: str) -> bool:
        """Whether a map is owned as a whole."""
        if self.struct is not None:
            field = self.struct.fields.get(name)
            type_name = field.type_name if field is not None else ""
            return type_name in ATOMIC_TYPES or (self.struct.name, name) in ATOMIC_FIELDS
        schema = (self.schema.get("properties") or {}).get(name) or {}
        return schema.get("x-kubernetes-map-type") == "atomic"


def item_key(item: Any, keys: tuple[str, ...]) -> str:
    """The step that leads to an item of an associative list."""
    values = {k: item.get(k, KEY_DEFAULTS.get(k)) for k in sorted(keys)}
    return "k:" + json.dumps({k: v for k, v in values.items() if v is not None}, separators=(",", ":"))  # fmt: skip


def leaves(obj: JSON, shape: Shape) -> dict[Path, Any]:
    """Every leaf of an object that someone can own, with its value."""
    out: dict[Path, Any] = {}
    body = {k: v for k, v in obj.items() if k not in ("apiVersion", "kind")}
    body["metadata"] = {k: v for k, v in (obj.get("metadata") or {}).items() if k not in _OURS}
    _collect(body, shape, (), out)
    out.pop(("f:metadata",), None)
    return out


def _collect(value: JSON, shape: Shape, path: Path, out: dict[Path, Any]) -> None:
    for name, item in value.items():
        at = (*path, f"f:{name}")
        if isinstance(item, dict) and item and not shape.is_atomic(name):
            _collect(item, shape.below(name), at, out)
        elif isinstance(item, list) and shape.keys(name):
            for entry in item:
                step = (*at, item_key(entry, shape.keys(name)))
                out[*step, "."] = True
                _collect(entry, shape.below(name), step, out)
        elif isinstance(item, list) and shape.is_set(name):
            for entry in item:
                out[*at, f"v:{json.dumps(entry)}"] = entry
        else:
            out[at] = item


def merge(live: JSON, applied: JSON, shape: Shape) -> JSON:
    """The live object with every applied field set."""
    out = dict(live)
    for name, item in applied.items():
        present = out.get(name)
        if isinstance(item, dict) and isinstance(present, dict) and not shape.is_atomic(name):
            out[name] = merge(present, item, shape.below(name))
        elif isinstance(item, list) and isinstance(present, list) and shape.keys(name):
            out[name] = _merge_items(present, item, shape.keys(name), shape.below(name))
        elif isinstance(item, list) and isinstance(present, list) and shape.is_set(name):
            out[name] = present + [entry for entry in item if entry not in present]
        else:
            out[name] = item
    return out


def _merge_items(live: list[Any], applied: list[Any], keys: tuple[str, ...], shape: Shape) -> list[Any]:  # fmt: skip
    """Present items in their order, then the new ones."""
    present = {item_key(item, keys): item for item in live}
    wanted = {item_key(item, keys): item for item in applied}
    kept = [merge(v, wanted[k], shape) if k in wanted else v for k, v in present.items()]
    return kept + [item for k, item in wanted.items() if k not in present]


def remove(obj: JSON, paths: Iterable[Path], shape: Shape) -> JSON:
    """The object without the given leaves; what is emptied by that goes, too."""
    # Whole items first: without its key field an item could not be found any more.
    for path in sorted(paths, key=lambda p: (p[-1] != ".", -len(p))):
        obj = _remove(obj, path, shape)
    return obj


def _remove(value: JSON, path: Path, shape: Shape) -> JSON:
    name = path[0].removeprefix("f:")
    if name not in value:
        return value
    item, out = value[name], dict(value)
    if len(path) == 1:
        del out[name]
    elif isinstance(item, dict):
        out[name] = _remove(item, path[1:], shape.below(name))
    elif isinstance(item, list):
        keys, below = shape.keys(name), shape.below(name)
        out[name] = [e for i in item for e in _remove_item(i, path[1:], keys, below)]
    if name in out and out[name] in ({}, []) and item not in ({}, []):
        del out[name]
    return out


def _remove_item(item: Any, path: Path, keys: tuple[str, ...], shape: Shape) -> list[Any]:
    if path[0].startswith("v:"):
        return [] if json.dumps(item) == path[0][2:] else [item]
    if item_key(item, keys) != path[0]:
        return [item]
    return [] if path[1:] == (".",) else [_remove(item, path[1:], shape)]


def to_wire(paths: Iterable[Path]) -> JSON:
    """As fieldsV1."""
    tree: JSON = {}
    for path in sorted(paths):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
    return tree


def from_wire(tree: JSON) -> set[Path]:
    """From fieldsV1."""
    out: set[Path] = set()

    def walk(node: JSON, path: Path) -> None:
        if not node and path:
            out.add(path)
        for step, below in node.items():
            if step == "." and path and not path[-1].startswith("k:"):
                continue
            walk(below, (*path, step))

    walk(tree, ())
    return out


def show(path: Path) -> str:
    """As conflicts name it: ``.spec.containers[name="c"].image``."""
    out = ""
    for step in path:
        if step.startswith("f:"):
            out += f".{step[2:]}"
        elif step.startswith("k:"):
            keys = json.loads(step[2:])
            out += "[" + ",".join(f"{k}={json.dumps(v)}" for k, v in keys.items()) + "]"
        elif step.startswith("v:"):
            out += f"[={step[2:]}]"
    return out
