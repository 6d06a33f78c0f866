"""Lists: selection, order, pages, and the state at an earlier version."""

import base64
import binascii
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from itertools import islice

import msgspec

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON, Key
from kubewire.apiserver.fieldselect import Predicate
from kubewire.apiserver.store import Collection, Revision


class ListOptions(msgspec.Struct, frozen=True):
    """Query parameters of lists and watches."""

    label_selector: str = ""
    field_selector: str = ""
    resource_version: str = ""
    match: str = ""
    limit: int = 0
    token: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "ListOptions":
        """Read them from a query string."""
        limit = query.get("limit") or "0"
        if not limit.isdigit():
            raise StatusError("BadRequest", f'limit: Invalid value: "{limit}": must be a number')
        return cls(
            label_selector=query.get("labelSelector", ""),
            field_selector=query.get("fieldSelector", ""),
            resource_version=query.get("resourceVersion", ""),
            match=query.get("resourceVersionMatch", ""),
            limit=int(limit),
            token=query.get("continue", ""),
        )


class _Continue(msgspec.Struct, frozen=True):
    v: str
    rv: int
    start: tuple[str, str]


def collect(
    collection: Collection,
    current: int,
    namespace: str,
    test: Predicate | None,
    options: ListOptions,
) -> tuple[list[Revision], JSON]:
    """The objects to show, in the order of their keys, and the list's metadata."""
    objects, rv, start = collection.objects, current, None
    if options.token:
        token = _read_token(options.token)
        rv, start = token.rv, Key(*token.start)
        if rv < collection.forgotten:
            raise StatusError("Expired", "The provided continue parameter is too old to display a consistent list result.", code=410)  # fmt: skip
        objects = _state_at(collection, rv)
    elif options.match == "Exact" and options.resource_version not in ("", "0"):
        rv = int(options.resource_version)
        objects = _state_at(collection, rv)
    # A page costs what it shows, not what there is: clients list by pages of some hundred.
    keys = collection.order() if objects is collection.objects else sorted(objects)
    first = bisect_left(keys, (namespace,))
    if start is not None:
        first = max(first, bisect_right(keys, start))
    end = bisect_left(keys, (namespace + "\0",)) if namespace else len(keys)
    revisions = (objects[key] for key in islice(keys, first, end))
    found = filter(lambda revision: test(revision.obj), revisions) if test else revisions
    meta: JSON = {"resourceVersion": str(rv)}
    if not options.limit:
        return list(found), meta
    shown = list(islice(found, options.limit))
    if next(found, None) is not None:
        last = shown[-1].obj["metadata"]
        raw = msgspec.json.encode(
            _Continue("kubewire/v1", rv, (last.get("namespace", ""), last["name"]))
        )
        meta["continue"] = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        if test is None:
            meta["remainingItemCount"] = end - first - options.limit
    return shown, meta


def _state_at(collection: Collection, rv: int) -> dict[Key, Revision]:
    """Undo the commits after ``rv``; Expired when they are no longer remembered."""
    later = list(collection.since(rv))
    if not later:
        return collection.objects
    objects = dict(collection.objects)
    for event in reversed(later):
        if event.before is None:
            objects.pop(event.key, None)
        else:
            objects[event.key] = event.before
    return objects


def _read_token(text: str) -> _Continue:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return msgspec.json.decode(raw, type=_Continue)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise StatusError("BadRequest", "continue key is not valid: the token is malformed") from error  # fmt: skip
