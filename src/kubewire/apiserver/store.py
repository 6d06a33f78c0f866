"""The store: every object in memory, every commit in a log on disk before anyone hears of it.

A revision keeps the object and its encoded JSON, so that gets, lists and watches join bytes
instead of encoding again. One counter numbers all commits (resourceVersion). A commit is one
``write()`` to an append-only file: once it returns, a killed server has lost nothing. Records are
lines: ``P resource JSON`` (put), ``D resource JSON`` (deleted), ``R n`` (restarted at version n), and
at the head of a compacted log ``S n`` with one ``L resource JSON`` per object. A torn last line is a
commit that nobody was told about and is cut off at the next start.

Stored dicts are shared with every reader and must never be changed in place.
"""

import fcntl
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from kubewire.api.errors import InputError, StatusError
from kubewire.api.meta import JSON, Key

HISTORY = 4096
"""Events that each resource remembers for watches that start in the past."""

COMPACT_FLOOR = 4 << 20
"""A log smaller than this is never rewritten."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Revision:
    """One version of one object; ``data`` is its JSON."""

    __slots__ = ("data", "obj", "rv")

    def __init__(self, obj: JSON, data: bytes, rv: int) -> None:
        self.obj = obj
        self.data = data
        self.rv = rv


class Event:
    """One commit as watches see it; ``before`` is None when the object is new."""

    __slots__ = ("after", "before", "key", "kind", "rv")

    def __init__(
        self, kind: str, key: Key, rv: int, before: Revision | None, after: Revision
    ) -> None:
        self.kind = kind
        self.key = key
        self.rv = rv
        self.before = before
        self.after = after


Listener = Callable[[Event], None]


class Collection:
    """All objects of one resource, their recent history and who listens."""

    def __init__(self, oldest: int = 0) -> None:
        self.objects: dict[Key, Revision] = {}
        self.history: deque[Event] = deque(maxlen=HISTORY)
        self.forgotten = oldest
        """The resourceVersion up to which events are no longer in ``history``."""
        self.listeners: dict[Listener, None] = {}
        self.changed = 0
        self._order: list[Key] | None = None

    def order(self) -> list[Key]:
        """Keys as lists show them."""
        if self._order is None:
            self._order = sorted(self.objects)
        return self._order

    def record(self, event: Event) -> None:
        """Apply one commit to the state and pass it on."""
        if event.kind == "DELETED":
            self.objects.pop(event.key, None)
        else:
            self.objects[event.key] = event.after
        if event.kind != "MODIFIED":
            self._order = None
        if len(self.history) == HISTORY:
            self.forgotten = self.history[0].rv
        self.history.append(event)
        self.changed = event.rv
        for listener in tuple(self.listeners):
            listener(event)

    def since(self, rv: int) -> Iterator[Event]:
        """Events after ``rv``; StatusError Expired when some are already forgotten."""
        if rv < self.forgotten:
            raise StatusError(
                "Expired", f"too old resource version: {rv} ({self.forgotten})", code=410
            )
        return (event for event in tuple(self.history) if event.rv > rv)


class Store:
    """Collections by resource name (``deployments.apps``), one counter, one log."""

    def __init__(self, directory: Path | None = None) -> None:
        self.rv = 1
        self._floor = 0
        self.collections: dict[str, Collection] = {}
        self._file = self._lock = -1
        self._path: Path | None = None
        self._size = 0
        self._compact_at = COMPACT_FLOOR
        if directory is not None:
            self._open(directory)

    def collection(self, resource: str) -> Collection:
        """The collection of a resource, created on first use."""
        found = self.collections.get(resource)
        if found is None:
            found = self.collections[resource] = Collection(self._floor)
        return found

    def get(self, resource: str, key: Key) -> Revision | None:
        """The current revision of one object."""
        return self.collection(resource).objects.get(key)

    def put(self, resource: str, key: Key, obj: JSON) -> Revision:
        """Commit a new or changed object; sets its resourceVersion."""
        collection = self.collection(resource)
        rv = self.rv + 1
        obj["metadata"]["resourceVersion"] = str(rv)
        data = _encode(obj)
        self._append(b"P %b %b\n" % (resource.encode(), data))
        self.rv = rv
        after = Revision(obj, data, rv)
        before = collection.objects.get(key)
        kind = "ADDED" if before is None else "MODIFIED"
        collection.record(Event(kind, key, rv, before, after))
        return after

    def delete(self, resource: str, key: Key, final: JSON | None = None) -> Revision:
        """Commit a deletion; the event carries the last state at the new resourceVersion."""
        collection = self.collection(resource)
        before = collection.objects[key]
        rv = self.rv + 1
        obj = dict(final or before.obj)
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(rv)}
        data = _encode(obj)
        self._append(b"D %b %b\n" % (resource.encode(), data))
        self.rv = rv
        after = Revision(obj, data, rv)
        collection.record(Event("DELETED", key, rv, before, after))
        return after

    def drop(self, resource: str) -> None:
        """Forget a resource that is no longer served (its definition was deleted)."""
        for key in list(self.collection(resource).objects):
            self.delete(resource, key)

    def close(self) -> None:
        """Close the log."""
        if self._file >= 0:
            os.close(self._file)
            os.close(self._lock)
            self._file = self._lock = -1

    def _append(self, record: bytes) -> None:
        if self._file < 0:
            return
        if self._size > self._compact_at:
            self._compact()
        written = os.write(self._file, record)
        if written != len(record):
            os.ftruncate(self._file, self._size)
            raise StatusError("InternalError", f"{self._path}: no space left for the log")
        self._size += written

    def _open(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Released by the kernel when the process ends, however it ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise InputError(f"{directory}: another API server writes here") from None
        self._path = directory / "log"
        if self._path.exists():
            self._replay(self._path.read_bytes())
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o600)
        os.ftruncate(self._file, self._size)
        self._compact_at = max(COMPACT_FLOOR, self._size * 2)
        if self._size:
            # Who has applied what is forgotten by a restart. A new version makes every agent that
            # hears of it report again; otherwise a sync would wait for reports made long ago.
            self.rv += 1
            self._append(b"R %d \n" % self.rv)

    def _replay(self, log: bytes) -> None:
        end = log.rfind(b"\n") + 1
        for line in log[:end].splitlines():
            operation, _, rest = line.partition(b" ")
            name, _, data = rest.partition(b" ")
            if operation == b"S":
                self.rv = self._floor = int(name)
                continue
            if operation == b"R":
                self.rv = int(name)
                continue
            obj = _decode(data)
            meta = obj["metadata"]
            key, rv = Key(meta.get("namespace", ""), meta["name"]), int(meta["resourceVersion"])
            collection = self.collection(name.decode())
            revision = Revision(obj, data, rv)
            if operation == b"L":
                collection.objects[key] = revision
                continue
            before = collection.objects.get(key)
            changed = "ADDED" if before is None else "MODIFIED"
            kind = "DELETED" if operation == b"D" else changed
            collection.record(Event(kind, key, rv, before, revision))
            self.rv = max(self.rv, rv)
        self._size = end

    def _compact(self) -> None:
        """Rewrite the log as one snapshot; a crash leaves either the old or the new file."""
        assert self._path is not None
        temporary = self._path.with_suffix(".new")
        parts = [b"S %d \n" % self.rv]
        for name, collection in self.collections.items():
            prefix = b"L %b " % name.encode()
            parts += [b"%b%b\n" % (prefix, r.data) for r in collection.objects.values()]
        temporary.write_bytes(b"".join(parts))
        temporary.replace(self._path)
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._size = os.fstat(self._file).st_size
        self._compact_at = max(COMPACT_FLOOR, self._size * 2)
