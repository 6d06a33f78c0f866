"""Writes the kernel's legacy tables as ``iptables-legacy-restore --noflush`` does, but remembers them.

The kernel takes a table only whole. The program therefore fetches it, takes it apart, puts it
together and sends it, for each change again. Here the bytes that were sent last are kept, and only
what differs is changed in them: what is left is the kernel's own work.

They are kept no longer than they are sure to be what the kernel has: everybody who writes tables
opens the lock file for it, and that is watched (inotify); whoever does not leaves a table of another
shape. After that the table is fetched and compared. What cannot be written here is left to the program
(`UnfitError`), before anything is written.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kubewire.kernel.iptables import LOCK_SECONDS, IptablesError
from kubewire.lang.iptables.blob import COUNTERS, ROOM, Blob, Edit
from kubewire.lang.iptables.change import Change
from kubewire.lang.iptables.entries import UnfitError

log = logging.getLogger(__name__)

LOCK = Path(os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock"))
_FAMILIES = {4: (socket.AF_INET, socket.SOL_IP), 6: (socket.AF_INET6, socket.IPPROTO_IPV6)}
_GET_INFO, _GET_ENTRIES, _REPLACE, _ADD_COUNTERS = 64, 65, 64, 65
_INFO = struct.Struct("32sI5I5III")
_NAMED = struct.Struct("32sI4x")
"""Before entries that are asked for, and before counters that are added."""
_REPLACEMENT = struct.Struct("32sIII5I5IIQ")
_OPENED_OR_CLOSED = 0x20 | 0x8 | 0x10
_PAUSE = 0.01
_BYTES = 8
_libc = ctypes.CDLL(None, use_errno=True)


class Info(NamedTuple):
    """The shape of a table, as the kernel tells it at once."""

    hooks: int
    """Bits."""
    places: tuple[int, ...]
    """Of the built-in chains' first rules, then of their policies."""
    entries: int
    size: int


class _Kept(NamedTuple):
    info: Info
    blob: Blob
    right: bool = False
    """Somebody has said so; our own changes do not alter that."""
    sure: bool = True
    """Nobody has taken the lock since."""


class Tables:
    """One family's tables in the network namespace in which this was made."""

    def __init__(self, version: int) -> None:
        self._version = version
        family, self._level = _FAMILIES[version]
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._kept: dict[str, _Kept] = {}
        self._lock: _Lock | None = None

    def close(self) -> None:
        """Forget everything; the tables stay."""
        self._kept = {}
        self._socket.close()
        if self._lock:
            self._lock.close()

    def info(self, table: str) -> Info:
        """What the kernel says of a table without showing it."""
        answer = bytearray(_INFO.size)
        answer[: len(table)] = table.encode()
        self._ask(_GET_INFO, answer)
        _, hooks, *places, count, size = _INFO.unpack(answer)
        return Info(hooks, tuple(places), count, size)

    def apply(self, changes: Sequence[Change]) -> None:
        """Bring changes about, one table after the other; chains that they write are lists of lines."""
        if struct.calcsize("P") != _BYTES:
            raise UnfitError("the kernel's structures are known for 64 bits only")
        with self._locked():
            ready = [(c.table, *self._edited(c)) for c in changes]
            for index, (table, kept, edit) in enumerate(ready):
                try:
                    self._replace(table, kept, edit)
                except OSError as error:
                    if not index:
                        raise UnfitError(f"the kernel refuses the table {table}: {error}") from None
                    raise IptablesError(f"table {table}: {error}") from None

    def keep(self, tables: Iterable[str]) -> None:
        """Fetch tables, so that they are at hand; whether they are right, `approve` says later."""
        try:
            with self._locked():
                self._kept = {table: self._fetched(table) for table in tables}
        except UnfitError as error:
            log.debug("not kept: %s", error)

    def approve(self) -> None:
        """What is kept has turned out to be right."""
        self._kept = {table: kept._replace(right=True) for table, kept in self._kept.items()}

    def are_right(self, tables: Iterable[str]) -> bool:
        """Tables are still what was approved, and what we have changed since; they are fetched for it."""
        try:
            return all(self._is_right(table) for table in tables)
        except UnfitError:
            return False

    def _is_right(self, table: str) -> bool:
        kept = self._kept.get(table)
        if not kept or not kept.right:
            return False
        info = self.info(table)
        return info == kept.info and kept.blob.is_like(self._entries(table, info))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            if self._lock is None or self._lock.gone:
                if self._lock:
                    self._lock.close()
                self._kept, self._lock = {}, _Lock(LOCK)
        except OSError as error:
            raise UnfitError(f"{LOCK}: {error.strerror}") from None
        with self._lock.held() as alone:
            if not alone:
                self._kept = {t: kept._replace(sure=False) for t, kept in self._kept.items()}
            yield

    def _edited(self, change: Change) -> tuple[_Kept, Edit]:
        """Kept no more until it is in the kernel."""
        kept = self._current(change.table)
        self._kept.pop(change.table, None)
        return kept, kept.blob.edit(change)

    def _current(self, table: str) -> _Kept:
        kept, info = self._kept.get(table), self.info(table)
        if not kept or kept.info != info:
            return self._fetched(table)
        if not kept.sure and not kept.blob.is_like(data := self._entries(table, info)):
            return _Kept(info, Blob.read(self._version, data))
        return kept._replace(sure=True)

    def _fetched(self, table: str) -> _Kept:
        info = self.info(table)
        return _Kept(info, Blob.read(self._version, self._entries(table, info)))

    def _entries(self, table: str, info: Info) -> bytearray:
        data = bytearray(ROOM + info.size)
        request = memoryview(data)[ROOM - _NAMED.size :]
        _NAMED.pack_into(request, 0, table.encode(), info.size)
        self._ask(_GET_ENTRIES, request)
        return data

    def _replace(self, table: str, kept: _Kept, edit: Edit) -> None:
        info, blob = kept.info, kept.blob
        counters = bytearray(edit.before * COUNTERS)
        name, shape = table.encode(), (blob.count, blob.size)
        hold = (ctypes.c_char * len(counters)).from_buffer(counters)
        numbers = (info.hooks, *shape, *info.places, edit.before, ctypes.addressof(hold))
        _REPLACEMENT.pack_into(blob.data, 0, name, *numbers)
        self._tell(_REPLACE, blob.data)
        counted = _NAMED.pack(name, blob.count) + edit.carried(counters)
        try:
            self._tell(_ADD_COUNTERS, bytearray(counted))
        except OSError as error:
            log.warning("table %s: its counters are lost: %s", table, error)
        else:
            self._kept[table] = _Kept(Info(info.hooks, info.places, *shape), blob, kept.right)

    def _ask(self, option: int, answer: bytearray | memoryview) -> None:
        length = ctypes.c_uint(len(answer))
        hold = (ctypes.c_char * len(answer)).from_buffer(answer)
        number = self._socket.fileno(), self._level, option
        try:
            _checked(_libc.getsockopt(*number, hold, ctypes.byref(length)))
        except OSError as error:
            raise UnfitError(f"the kernel does not tell: {error}") from None

    def _tell(self, option: int, request: bytearray) -> None:
        hold = (ctypes.c_char * len(request)).from_buffer(request)
        number = self._socket.fileno(), self._level, option
        _checked(_libc.setsockopt(*number, hold, ctypes.c_uint(len(request))))


class _Lock:
    """The file that every writer of tables locks, and whether anybody else has opened it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._watch = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        # Without a watch nobody is ever sure to be alone.
        if self._watch >= 0:
            _libc.inotify_add_watch(self._watch, os.fsencode(path), _OPENED_OR_CLOSED)

    def close(self) -> None:
        os.close(self._file)
        if self._watch >= 0:
            os.close(self._watch)

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Hold it; yields whether nobody has opened or closed it since it was held before."""
        deadline = time.monotonic() + LOCK_SECONDS
        while not self._taken():
            if time.monotonic() > deadline:
                raise IptablesError(f"{self._path}: another program holds it")
            time.sleep(_PAUSE)
        try:
            yield self._alone()
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _taken(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def _alone(self) -> bool:
        if self._watch < 0:
            return False
        with contextlib.suppress(BlockingIOError):
            return not os.read(self._watch, 1 << 16)
        return True

    @property
    def gone(self) -> bool:
        """Somebody has deleted the file: others lock another one."""
        return not os.fstat(self._file).st_nlink


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
