"""Leases on disk: a log of whole lines, so that a kill at any point loses or doubles nothing.

An ADD is one line with all addresses of a pod, written by a single ``write`` *before* the address
is used; a DEL is one line after it is no longer used. A line that a kill cut off has no newline
and counts for nothing: its address was never given. When the log has grown well beyond the leases
it is rewritten beside and renamed. Several processes may share the file: each operation takes the
lock and first reads what others have appended.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import msgspec

from kubewire.cni.ipam import Address, Choice, Leases, RangeSet, choose

log = logging.getLogger(__name__)

SLACK = 1024
"""Lines beyond the leases that are tolerated before the log is rewritten."""


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record: a lease taken (with addresses) or dropped (without)."""

    owner: str
    addresses: tuple[str, ...] = ()
    last: dict[str, str] = {}


class Store:
    """The leases of one network on one node, shared by processes and kept across restarts."""

    def __init__(self, folder: Path, *, on_write: Callable[[str], None] = lambda _: None) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.leases = Leases()
        self._path = folder / "leases"
        self._lock_path = folder / "lock"
        self._lock = os.open(self._lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._log = -1
        self._read = 0
        self._lines = 0
        self._on_write = on_write
        """Called before every step that changes the disk, with its name (crash tests)."""
        with self._locked():
            pass

    def close(self) -> None:
        """Close the files."""
        for fd in (self._lock, self._log):
            if fd >= 0:
                os.close(fd)
        self._lock = self._log = -1

    def removed(self) -> bool:
        """Tell whether the folder was taken away, or made anew, since it was opened."""
        try:
            return not os.path.samestat(self._lock_path.stat(), os.fstat(self._lock))
        except FileNotFoundError:
            return True

    def take(
        self, owner: str, sets: Sequence[RangeSet], wanted: Iterable[Address] = ()
    ) -> tuple[Address, ...]:
        """Give an owner one address per set; asked again, it gets what it has."""
        with self._locked():
            if held := self.leases.addresses.get(owner):
                return held
            choice = choose(sets, self.leases, wanted)
            self._append(_line(owner, choice))
            self.leases.take(owner, choice)
            return choice.addresses

    def drop(self, owner: str) -> tuple[Address, ...]:
        """Take back what an owner holds; nothing is fine."""
        with self._locked():
            if owner not in self.leases.addresses:
                return ()
            self._append(_Line(owner))
            return self.leases.drop(owner)

    def held(self, owner: str) -> tuple[Address, ...]:
        """What an owner holds."""
        with self._locked():
            return self.leases.addresses.get(owner, ())

    def owners(self) -> tuple[str, ...]:
        """Everyone who holds an address."""
        with self._locked():
            return tuple(self.leases.addresses)

    def snapshot(self) -> dict[Address, str]:
        """Every address that is given, and to whom."""
        with self._locked():
            return dict(self.leases.owners)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self._catch_up()
            yield
            if self._lines > 2 * len(self.leases.addresses) + SLACK:
                self._rewrite()
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        if self._log < 0 or self._replaced():
            self._open()
        size = os.fstat(self._log).st_size
        if size < self._read:
            # Somebody has cut it.
            self._open()
        if size == self._read:
            return
        data = os.pread(self._log, size - self._read, self._read)
        whole = data.rfind(b"\n") + 1
        for raw in data[:whole].splitlines():
            try:
                self._apply(msgspec.json.decode(raw, type=_Line))
            except ValueError as error:
                # Nobody can say what it was; the kernel refuses an address that a pod has.
                log.warning("%s: a line counts for nothing: %s", self._path, error)
        self._read += whole
        if whole < len(data):
            # The tail of a writer that was killed; the lock says that it is not being written now.
            self._on_write("truncate")
            os.ftruncate(self._log, self._read)

    def _replaced(self) -> bool:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return True
        return not os.path.samestat(found, os.fstat(self._log))

    def _open(self) -> None:
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self._log = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.leases = Leases()
        self._read = self._lines = 0

    def _apply(self, line: _Line) -> None:
        self._lines += 1
        if line.addresses:
            last = {title: ip_address(text) for title, text in line.last.items()}
            choice = Choice(tuple(ip_address(text) for text in line.addresses), last)
            self.leases.take(line.owner, choice)
        elif line.last:
            self.leases.last |= {title: ip_address(text) for title, text in line.last.items()}
        else:
            self.leases.drop(line.owner)

    def _append(self, line: _Line) -> None:
        data = msgspec.json.encode(line) + b"\n"
        self._on_write("append")
        written = os.write(self._log, data)
        if written != len(data):
            os.ftruncate(self._log, self._read)
            raise OSError(f"{self._path}: the disk is full")
        self._read += len(data)
        self._lines += 1
        self._on_write("appended")

    def _rewrite(self) -> None:
        lines = [
            _line(owner, Choice(addresses, {}))
            for owner, addresses in self.leases.addresses.items()
        ]
        lines.append(_Line("", last={title: str(a) for title, a in self.leases.last.items()}))
        beside = self._path.with_suffix(".new")
        self._on_write("write beside")
        beside.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        self._on_write("rename")
        beside.replace(self._path)
        self._on_write("renamed")


def _line(owner: str, choice: Choice) -> _Line:
    return _Line(
        owner,
        tuple(map(str, choice.addresses)),
        {title: str(address) for title, address in choice.last.items()},
    )
