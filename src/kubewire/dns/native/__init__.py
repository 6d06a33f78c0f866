"""The compiled part of the fast path, if the machine that built kubewire had a C compiler.

``fastpath.c`` holds the answers to UDP questions in a table of its own and replays them from a
thread that needs no Python. Everything works without it: ``transport.udp`` is the same loop in
Python. ``KUBEWIRE_DNS_NATIVE=0`` in the environment leaves it out.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import struct
import weakref
from collections.abc import Callable, Collection
from pathlib import Path

from kubewire.dns.table import Entry, Labels, Table

VERSION = 3
LIBRARY = Path(__file__).with_name("fastpath.so")
SIZE = 4096
"""The largest answer that is kept."""

log = logging.getLogger(__name__)

_POINTER, _U32, _U64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
_SURFACE: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "kw_version": (_U32, ()),
    "kw_table_new": (_POINTER, ()),
    "kw_table_free": (None, (_POINTER,)),
    "kw_table_cookies": (None, (_POINTER, ctypes.c_char_p, _U32)),
    "kw_table_put": (
        ctypes.c_int,
        (
            _POINTER, ctypes.c_char_p, _U32, ctypes.c_char_p, ctypes.c_char_p, _U32,
            ctypes.c_double, _U32,
        ),
    ),
    "kw_table_remove": (None, (_POINTER, ctypes.c_char_p, _U32)),
    "kw_table_hits": (_U32, (_POINTER, _POINTER, _U32)),
    "kw_loop_start": (_POINTER, (ctypes.c_int, ctypes.c_int, _POINTER, _U32, _U32)),
    "kw_loop_swap": (None, (_POINTER, _POINTER)),
    "kw_loop_take": (_U32, (_POINTER, _POINTER)),
    "kw_loop_answer": (None, (_POINTER, _POINTER, _POINTER, ctypes.c_char_p, _U32)),
    "kw_loop_shed": (_U64, (_POINTER,)),
    "kw_loop_stop": (None, (_POINTER,)),
}  # fmt: skip


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, or None if there is none that fits."""
    if os.environ.get("KUBEWIRE_DNS_NATIVE") == "0" or not LIBRARY.exists():
        return None
    try:
        found = ctypes.CDLL(str(LIBRARY))
        for name, (result, arguments) in _SURFACE.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        log.warning("the compiled fast path is left out: %s", error)
        return None
    if found.kw_version() != VERSION:
        log.warning("the compiled fast path is left out: it was built from another version")
        return None
    return found


def new_table() -> Table:
    """A table for UDP: in the library if there is one."""
    found = library()
    return NativeTable(found) if found else Table()


def cut_key(question: bytes, name: bytes) -> bytes:
    """Under which the library finds an answer for everything at or below a name (lower case)."""
    end = question.index(0, 12) + 1
    return b"".join((b"\xff", bytes((end - 12,)), question[2:12], question[end:], name))


@functools.cache
def _packer(count: int) -> Callable[..., bytes]:
    return struct.Struct(f"={count}I").pack


class NativeTable(Table):
    """The octets live in the library; what they depend on, here."""

    def __init__(self, lib: ctypes.CDLL) -> None:
        super().__init__()
        self._lib = lib
        self.handle: int = lib.kw_table_new()
        if not self.handle:
            raise MemoryError("no room for a table of answers")
        self._slots: dict[Labels, int] = {}
        # At the end of the process a thread may still read it, and the memory goes anyway.
        weakref.finalize(self, lib.kw_table_free, self.handle).atexit = False

    def set_cookies(self, secrets: tuple[bytes, ...]) -> None:
        """Sign cookies with the first of these; without any they go back as they came."""
        self._lib.kw_table_cookies(self.handle, b"".join(secrets), len(secrets))

    def put(self, key: bytes, entry: Entry) -> None:
        """Add or replace an entry, unless its answers are too large to be replayed."""
        answers, count = entry.answers, len(entry.answers)
        if max(map(len, answers)) > SIZE:
            return
        slot = self.note(key, entry)
        whole = answers[0] if count == 1 else b"".join(answers)
        lengths = _packer(count)(*map(len, answers))
        self._lib.kw_table_put(self.handle, key, len(key), whole, lengths, count, entry.until, slot)
        entry.answers = ()

    def note(self, key: bytes, entry: Entry) -> int:
        """Remember what an entry that goes to the library is made of; gives its slot there."""
        super().put(key, entry)
        slot = self._slots.get(entry.labels)
        if slot is None:
            slot = self._slots[entry.labels] = len(self._slots)
        return slot

    def hits(self) -> dict[Labels, int]:
        """How often answers were replayed, by labels."""
        counts = (ctypes.c_uint64 * max(1, len(self._slots)))()
        self._lib.kw_table_hits(self.handle, counts, len(self._slots))
        return {labels: counts[slot] for labels, slot in self._slots.items()}

    def _discard(self, keys: Collection[bytes]) -> None:
        super()._discard(keys)
        packed = b"".join([len(key).to_bytes(4, "little") + key for key in keys])
        self._lib.kw_table_remove(self.handle, packed, len(packed))
