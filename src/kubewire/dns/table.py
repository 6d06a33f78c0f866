"""Answers as octets, keyed by the octets of the question: what makes a repeated question cheap.

The key is everything behind the message id, so flags, spelling and EDNS are part of it; the answer
is everything but the id. An entry lives until its time is over or one of the things that it was
made of changes.
"""

from collections.abc import Collection, Hashable, Iterable
from itertools import islice
from typing import NamedTuple

import msgspec

from kubewire.dns.metrics import Metric

MAX_ENTRIES = 65_536
AT_ONCE = 128
"""How many of the oldest entries make room together: to find the oldest one of a dict takes time."""


class Labels(NamedTuple):
    """What a hit counts as."""

    kind: tuple[str, ...]
    """zone, view, proto, family, type, rcode, plugin"""
    asked: int
    said: int
    """Octets of question and answer."""
    do: bool = False
    counted: tuple[tuple[Metric, tuple[str, ...]], ...] = ()
    """What plugins would have counted."""


class Entry(msgspec.Struct, gc=False):
    """One question's answers (several if addresses take turns).

    There are many and none is part of a cycle: the garbage collector would only lose time with them.
    """

    answers: tuple[bytes, ...]
    until: float
    deps: tuple[Hashable, ...]
    labels: Labels
    """For metrics: what a hit counts as."""
    hits: int = 0


class Table:
    """Entries, and which of them depend on what."""

    def __init__(self, limit: int = MAX_ENTRIES) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.retired: dict[Labels, int] = {}
        """Hits of entries that are gone, by labels."""
        self._limit = limit
        self._users: dict[Hashable, bytes | set[bytes]] = {}
        """One key alone needs no set: so it is with most Services."""

    def set_cookies(self, secrets: tuple[bytes, ...]) -> None:
        """With what cookies are signed, for tables that answer by themselves."""

    def put(self, key: bytes, entry: Entry) -> None:
        """Add or replace an entry; the oldest ones make room."""
        if key in self.entries:
            self._forget(key)
        elif len(self.entries) >= self._limit:
            self._discard(tuple(islice(self.entries, min(AT_ONCE, 1 + self._limit // 8))))
        self.entries[key] = entry
        users = self._users
        for dep in entry.deps:
            found = users.get(dep)
            if found is None:
                users[dep] = key
            elif isinstance(found, set):
                found.add(key)
            else:
                users[dep] = {found, key}

    def drop(self, deps: Iterable[Hashable]) -> None:
        """Forget every answer that was made of one of these."""
        for dep in deps:
            found = self._users.get(dep)
            if found is not None:
                self._discard(tuple(found) if isinstance(found, set) else (found,))

    def clear(self) -> None:
        """Forget everything."""
        self._discard(tuple(self.entries))

    def hits(self) -> dict[Labels, int]:
        """How often answers were replayed, by labels."""
        found = dict(self.retired)
        for entry in self.entries.values():
            found[entry.labels] = found.get(entry.labels, 0) + entry.hits
        return found

    def _discard(self, keys: Collection[bytes]) -> None:
        for key in keys:
            self._forget(key)

    def _forget(self, key: bytes) -> None:
        entry = self.entries.pop(key)
        if entry.hits:
            self.retired[entry.labels] = self.retired.get(entry.labels, 0) + entry.hits
        users = self._users
        for dep in entry.deps:
            found = users[dep]
            if isinstance(found, set):
                found.discard(key)
                if found:
                    continue
            del users[dep]
