"""The schema of ClusterNetworkPolicy has what the typed kind has, and text for all of it."""

from collections.abc import Iterator
from typing import Any

import msgspec

from kubewire.api.clusternetworkpolicy import ClusterNetworkPolicySpec
from kubewire.api.meta import JSON
from kubewire.apiserver.policyschema import version

SCHEMA: JSON = version()["schema"]["openAPIV3Schema"]


def fields(schema: JSON, path: str = "") -> Iterator[tuple[str, JSON]]:
    """Every field below, by its path."""
    for name, below in (schema.get("properties") or {}).items():
        yield f"{path}.{name}", below
        yield from fields(below.get("items") or below, f"{path}.{name}")


def typed(kind: Any, path: str = "") -> Iterator[str]:
    """Every field of a wire struct, by its path."""
    info = msgspec.inspect.type_info(kind)
    for part in getattr(info, "types", ()) or (info,):
        item = getattr(part, "item_type", part)
        for field in getattr(item, "fields", ()):
            yield f"{path}.{field.encode_name}"
            yield from typed(_python(field.type), f"{path}.{field.encode_name}")


def _python(info: Any) -> Any:
    """The struct that a field leads to, if it does."""
    for part in getattr(info, "types", ()) or (info,):
        item = getattr(part, "item_type", part)
        if isinstance(item, msgspec.inspect.StructType):
            return item.cls
    return str


def test_fields_are_those_of_the_type() -> None:
    told = {path for path, _ in fields(SCHEMA["properties"]["spec"])}
    only_egress = {"nodes", "networks", "domainNames"}
    known = {
        path
        for path in typed(ClusterNetworkPolicySpec)
        if not (path.startswith(".ingress.from.") and path.split(".")[3] in only_egress)
    }
    assert told == known


def test_every_field_is_described() -> None:
    assert [path for path, schema in fields(SCHEMA) if not schema.get("description")] == []
