"""Columns of ``kubectl get`` for each kind: names, priorities and cells as upstream prints them.

Priority 1 shows only with ``-o wide``. Custom kinds bring their own columns
(additionalPrinterColumns). An age is shown as kubectl would: 42s, 3m5s, 2d.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from kubewire.api.meta import JSON
from kubewire.apiserver import clustercolumns, networkcolumns, podcolumns, workloadcolumns
from kubewire.apiserver.ages import age, since
from kubewire.apiserver.catalog import Served
from kubewire.apiserver.cells import Cells


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


_KINDS: dict[str, tuple[str, Cells]] = {
    "Pod": (podcolumns.HEADER, podcolumns.cells),
    **workloadcolumns.KINDS,
    **networkcolumns.KINDS,
    **clustercolumns.KINDS,
}


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
