"""Who owns which field (metadata.managedFields): server-side apply and its conflicts.

Ownership is recorded from the first server-side apply of an object on. What it held before then
belongs to ``before-first-apply``, as upstream does for objects without a record, but for what
``kubectl apply`` has noted in the object as its own: going on with ``--server-side`` is no conflict.
Objects that nobody applies that way carry no record, which keeps them a third smaller.
"""

from typing import Any

import msgspec

from kubewire.api.errors import Cause, StatusError
from kubewire.api.meta import JSON
from kubewire.apiserver import fieldset
from kubewire.apiserver.catalog import Served
from kubewire.apiserver.fieldset import Path, Shape
from kubewire.apiserver.rfc3339 import now

BEFORE = "before-first-apply"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
KUBECTL, CLIENT_SIDE = "kubectl", "kubectl-client-side-apply"
"""How kubectl calls itself with ``--server-side``, and without."""


class Entry(msgspec.Struct):
    """One manager's fields."""

    manager: str
    operation: str
    api_version: str
    paths: set[Path]
    subresource: str = ""
    time: str = ""

    def same_manager(self, manager: str, operation: str, subresource: str) -> bool:
        """Whether this is the entry of that manager."""
        return (self.manager, self.operation, self.subresource) == (manager, operation, subresource)

    def to_wire(self) -> JSON:
        """As a ManagedFieldsEntry."""
        out = {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fieldset.to_wire(self.paths),
        }
        return {**out, "subresource": self.subresource} if self.subresource else out


def _read(obj: JSON) -> list[Entry]:
    return [
        Entry(
            manager=e.get("manager", ""),
            operation=e.get("operation", "Update"),
            api_version=e.get("apiVersion", ""),
            paths=fieldset.from_wire(e.get("fieldsV1") or {}),
            subresource=e.get("subresource", ""),
            time=e.get("time", ""),
        )
        for e in obj["metadata"].get("managedFields") or ()
        if e
    ]


def _write(obj: JSON, entries: list[Entry]) -> None:
    kept = [e.to_wire() for e in entries if e.paths]
    if kept:
        obj["metadata"]["managedFields"] = kept
    else:
        obj["metadata"].pop("managedFields", None)


def first_apply(served: Served, applied: JSON, manager: str) -> JSON:
    """An object that is created by an apply."""
    paths = set(fieldset.leaves(applied, Shape.of(served)))
    version = served.resource.api_version
    _write(applied, [Entry(manager, "Apply", version, paths, time=now())])
    return applied


def apply(
    served: Served, live: JSON, applied: JSON, manager: str, *, force: bool, subresource: str = ""
) -> JSON:
    """Merge an applied configuration into an object; Conflict if others own what it changes."""
    shape, version = Shape.of(served), served.resource.api_version
    values, before = fieldset.leaves(applied, shape), fieldset.leaves(live, shape)
    entries = _read(live) or _unrecorded(live, before, shape, version, manager)
    mine = next((e for e in entries if e.same_manager(manager, "Apply", subresource)), None)
    others = [e for e in entries if e is not mine]
    changed = {p for p, v in values.items() if p[-1] != "." and before.get(p, ...) != v}
    _settle(others, changed, force, served)
    dropped = (mine.paths if mine else set()) - set(values)
    for entry in others:
        dropped -= {d for d in dropped if _owns(entry.paths, d)}
    out = fieldset.merge(live, _without_identity(applied), shape)
    out = fieldset.remove(out, dropped, shape)
    out["metadata"] = {**out["metadata"]}
    unchanged = mine is not None and mine.paths == set(values)
    time = mine.time if unchanged and mine is not None else now()
    updated = Entry(manager, "Apply", version, set(values), subresource, time)
    _write(out, [updated, *others])
    return out


def _unrecorded(
    live: JSON, before: dict[Path, Any], shape: Shape, version: str, manager: str
) -> list[Entry]:
    """Owners of an object without a record: kubectl by its note, and nobody known."""
    noted = _noted(live, shape)
    # A plain value that is another one now was set by somebody else; lists may only be defaulted.
    theirs = {
        p
        for p, value in noted.items()
        if p in before and (isinstance(value, list | dict) or before[p] == value)
    }
    name, operation = (KUBECTL, "Apply") if manager == KUBECTL else (CLIENT_SIDE, "Update")
    return [
        Entry(name, operation, version, theirs, time=now()),
        Entry(BEFORE, "Update", version, set(before) - theirs, time=now()),
    ]


def _noted(live: JSON, shape: Shape) -> dict[Path, Any]:
    """What ``kubectl apply`` has sent last, as it has written into an annotation."""
    try:
        note = msgspec.json.decode((live["metadata"].get("annotations") or {}).get(LAST_APPLIED, ""))  # fmt: skip
    except msgspec.DecodeError:
        return {}
    return fieldset.leaves(note, shape) if isinstance(note, dict) else {}


def _settle(others: list[Entry], changed: set[Path], force: bool, served: Served) -> None:
    """Fields that the apply changes are taken from their owners, by force or not at all."""
    conflicts = [(e, sorted(e.paths & changed)) for e in others if e.paths & changed]
    if conflicts and not force:
        raise _conflict(conflicts)
    for entry, _ in conflicts:
        entry.paths -= changed


def _owns(paths: set[Path], dropped: Path) -> bool:
    """Whether another manager keeps a field alive (for an item: any field in it)."""
    if dropped[-1] != ".":
        return dropped in paths
    prefix = dropped[:-1]
    return any(p[: len(prefix)] == prefix for p in paths)


def _without_identity(applied: JSON) -> JSON:
    meta = {k: v for k, v in (applied.get("metadata") or {}).items() if k in ("labels", "annotations", "finalizers", "ownerReferences", "uid", "resourceVersion")}  # fmt: skip
    return {**applied, "metadata": meta}


def _conflict(conflicts: list[tuple[Entry, list[Path]]]) -> StatusError:
    causes, texts = [], []
    for entry, paths in conflicts:
        using = f' with subresource "{entry.subresource}"' if entry.subresource else ""
        who = f'"{entry.manager}"{using} using {entry.api_version}'
        for path in paths:
            text = f"conflict with {who}"
            causes.append(Cause(reason="FieldManagerConflict", message=text, field=fieldset.show(path)))  # fmt: skip
        if len(paths) == 1:
            texts.append(f"conflict with {who}: {fieldset.show(paths[0])}")
        else:
            texts.append(f"conflicts with {who}:\n" + "\n".join(f"- {fieldset.show(p)}" for p in paths))  # fmt: skip
    count = len(causes)
    head = f"Apply failed with {count} conflict{'s' if count > 1 else ''}: "
    return StatusError("Conflict", head + "\n".join(texts), causes=causes)


def created(obj: JSON) -> None:
    """A new object that was not applied has no record."""
    obj["metadata"].pop("managedFields", None)


def updated(served: Served, old: JSON, new: JSON, manager: str, subresource: str) -> None:
    """A plain write takes the fields that it changes, if there is a record at all."""
    given: Any = new["metadata"].get("managedFields")
    if not old["metadata"].get("managedFields") or (given is not None and not any(given)):
        new["metadata"].pop("managedFields", None)
        return
    shape, version = Shape.of(served), served.resource.api_version
    before, after = fieldset.leaves(old, shape), fieldset.leaves(new, shape)
    changed = {p for p, v in after.items() if before.get(p, ...) != v}
    gone = set(before) - set(after)
    entries = _read(old)
    for entry in entries:
        entry.paths -= changed | gone
    if changed:
        mine = next((e for e in entries if e.same_manager(manager, "Update", subresource)), None)
        if mine is None:
            mine = Entry(manager, "Update", version, set(), subresource)
            entries.append(mine)
        mine.paths |= changed
        mine.time = now()
    _write(new, entries)
