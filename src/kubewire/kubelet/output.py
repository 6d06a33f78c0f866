"""What a run of a container prints: from its pipes into a file of CRI records (see ``logs``).

A container with ``tty`` has a terminal instead; one with ``stdin`` reads what attach types.

The kubelet's own event loop copies: a program that prints faster than that waits, as with any
container runtime. The file lies in memory (the cluster's tmpfs), so that it is cut at `MOST` bytes:
what was before is kept once, in a file beside it that nobody is shown, and is then gone.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import pty
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kubewire.kernel import process, terminal
from kubewire.kubelet.logs import STREAMS, Splitter, moment

MOST = 10 << 20
BLOCK = 1 << 16
PIPE = 1 << 18
"""Bytes that a program may print while the kubelet is busy with something else."""

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
        self._cut = -1
        """The file that was cut last: whoever follows may not have read its end."""
        self._followers = 0
        self._size = 0
        self._readers: dict[int, tuple[str, Splitter]] = {}
        self._listeners: set[Listener] = set()
        self._changed = asyncio.Event()
        self._terminal = -1
        self._input = -1
        self._writer: asyncio.StreamWriter | None = None

    @contextlib.contextmanager
    def pipes(self, *, stdin: bool = False, tty: bool = False) -> Iterator[tuple[int, int, int]]:
        """Standard input, output and error of the program; the block hands them to it."""
        self.path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(previous(self.path))
        self._open()
        ends = self._make_terminal(stdin=stdin) if tty else self._make_pipes(stdin=stdin)
        try:
            yield ends
        except BaseException:
            _close_all(ends)
            self.finish()
            raise
        _close_all(ends)

    def _make_pipes(self, *, stdin: bool) -> tuple[int, int, int]:
        fed = process.DEVNULL
        if stdin:
            fed, self._input = os.pipe2(os.O_CLOEXEC)
        written = []
        for stream in STREAMS:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            with contextlib.suppress(OSError):
                fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE)
            self._listen(reading, stream)
            written.append(writing)
        return fed, written[0], written[1]

    def _make_terminal(self, *, stdin: bool) -> tuple[int, int, int]:
        self._terminal, theirs = pty.openpty()
        if stdin:
            self._input = os.dup(self._terminal)
        self._listen(self._terminal, STREAMS[0])
        return theirs, theirs, theirs

    def _listen(self, reading: int, stream: str) -> None:
        os.set_blocking(reading, False)
        self._readers[reading] = stream, Splitter(stream)
        asyncio.get_running_loop().add_reader(reading, self._read, reading)

    async def input(self) -> asyncio.StreamWriter | None:
        """What the program reads, if it reads anything."""
        if self._writer is None and self._input >= 0:
            loop = asyncio.get_running_loop()
            file, self._input = os.fdopen(self._input, "wb", buffering=0), -1
            made = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
            self._writer = asyncio.StreamWriter(made[0], made[1], None, loop)
        return self._writer

    def resize(self, width: int, height: int) -> None:
        """Tell the program the size of its terminal, if it has one."""
        if self._terminal >= 0:
            terminal.resize(self._terminal, width, height)

    def finish(self) -> None:
        """The run has ended: take what is left, and tell who waits."""
        for reading in tuple(self._readers):
            # No more than a pipe holds: something that was left running may print for ever.
            for _ in range(PIPE // BLOCK + 1):
                if not self._read(reading):
                    break
            self._close(reading)
        _close_all((self._input,))
        self._input = self._terminal = -1
        if self._writer is not None:
            self._writer.close()
        self.is_finished = True
        self._close_files()
        self._notify()

    async def changed(self) -> None:
        """Return when there is more, or an end."""
        await self._changed.wait()

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Keep the files open, whatever becomes of their names: the next run takes them."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            self._close_files()

    def read(self, position: int, cuts: int) -> tuple[bytes, int, int]:
        """For who is ``following``: what comes after a position, and the position after that."""
        if cuts != self.cuts:
            return _read_all(self._cut, position), 0, self.cuts
        data = _read_all(self._file, position)
        return data, position + len(data), cuts

    def _close_files(self) -> None:
        if self.is_finished and not self._followers:
            _close_all((self._file, self._cut))
            self._file = self._cut = -1

    @contextlib.contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Tell somebody (attach) what is printed while the block runs."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def _read(self, reading: int) -> bool:
        """Take a block; true if there was one."""
        try:
            data = os.read(reading, BLOCK)
        except BlockingIOError:
            return False
        except OSError as error:
            # What a terminal says when nobody is left at its other end.
            if error.errno != errno.EIO:
                raise
            data = b""
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
        self._terminal = -1 if reading == self._terminal else self._terminal
        os.close(reading)
        self._write(splitter.end(moment(time.time_ns())))

    def _write(self, records: bytes) -> None:
        if not records or self._file < 0:
            return
        if self._size and self._size + len(records) > self._most:
            _close_all((self._cut,))
            self._cut = self._file
            self.path.rename(self.path.with_suffix(".full"))
            self.cuts += 1
            self._open()
        # Without room for logs the program goes on.
        with contextlib.suppress(OSError):
            os.write(self._file, records)
        self._size += len(records)

    def _open(self) -> None:
        flags = os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o644)
        self._size = 0

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _read_all(fd: int, position: int) -> bytes:
    """What an open file holds from a position on."""
    return os.pread(fd, max(os.fstat(fd).st_size - position, 0), position) if fd >= 0 else b""


def _close_all(fds: Iterable[int]) -> None:
    for fd in {fd for fd in fds if fd >= 0}:
        os.close(fd)


def previous(path: Path) -> Path:
    """Where the log of the run before lies."""
    return path.with_suffix(".log.1")
