"""What a run of a container prints: from its pipes into a file of CRI records (see ``logs``).

The kubelet's own event loop copies: a program that prints faster than that waits, as with any
container runtime. The file lies in memory (the cluster's tmpfs), so that it is cut at `MOST` bytes:
what was before is kept once, in a file beside it that nobody is shown, and is then gone.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kubewire.kubelet.logs import STREAMS, Splitter, moment

MOST = 10 << 20
BLOCK = 1 << 16

Listener = Callable[[str, bytes], None]
"""Told a stream's name and what was printed to it."""


class Output:
    """The output of one run; nothing is opened before ``pipes``."""

    def __init__(self, path: Path, *, most: int = MOST) -> None:
        self.path = path
        self.is_finished = False
        """Nothing more will come."""
        self.cuts = 0
        """How often the file began anew."""
        self._most = most
        self._file = -1
        self._size = 0
        self._readers: dict[int, tuple[str, Splitter]] = {}
        self._listeners: set[Listener] = set()
        self._changed = asyncio.Event()

    @contextlib.contextmanager
    def pipes(self) -> Iterator[tuple[int, int]]:
        """Where stdout and stderr of the program lead; the block hands them to it."""
        self.path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(previous(self.path))
        self._open()
        written = []
        for stream in STREAMS:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reading, False)
            self._readers[reading] = stream, Splitter(stream)
            asyncio.get_running_loop().add_reader(reading, self._read, reading)
            written.append(writing)
        try:
            yield written[0], written[1]
        except BaseException:
            _close_all(written)
            self.finish()
            raise
        _close_all(written)

    def finish(self) -> None:
        """The run has ended: take what is left, and tell who waits."""
        for reading in tuple(self._readers):
            while self._read(reading):
                pass
            self._close(reading)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self.is_finished = True
        self._notify()

    async def changed(self) -> None:
        """Return when there is more, or an end."""
        await self._changed.wait()

    def after(self, position: int) -> bytes:
        """What the file holds from a position on."""
        return read_from(self.path, position)

    def before(self, position: int) -> bytes:
        """The same of the file that was cut last."""
        return read_from(self._full, position)

    @contextlib.contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Tell somebody (attach) what is printed while the block runs."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    @property
    def _full(self) -> Path:
        return self.path.with_suffix(".full")

    def _read(self, reading: int) -> bool:
        """Take a block; true if there was one."""
        try:
            data = os.read(reading, BLOCK)
        except BlockingIOError:
            return False
        if not data:
            self._close(reading)
            return False
        stream, splitter = self._readers[reading]
        self._write(splitter.feed(data, moment(time.time_ns())))
        for listener in tuple(self._listeners):
            listener(stream, data)
        self._notify()
        return True

    def _close(self, reading: int) -> None:
        if reading not in self._readers:
            return
        asyncio.get_running_loop().remove_reader(reading)
        _, splitter = self._readers.pop(reading)
        os.close(reading)
        self._write(splitter.end(moment(time.time_ns())))

    def _write(self, records: bytes) -> None:
        if not records or self._file < 0:
            return
        if self._size and self._size + len(records) > self._most:
            os.close(self._file)
            self.path.rename(self._full)
            self.cuts += 1
            self._open()
        os.write(self._file, records)
        self._size += len(records)

    def _open(self) -> None:
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o644)
        self._size = 0

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def read_from(path: Path, position: int) -> bytes:
    """What a file holds from a position on; nothing if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read()
    except FileNotFoundError:
        return b""


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def previous(path: Path) -> Path:
    """Where the log of the run before lies."""
    return path.with_suffix(".log.1")
