"""Marks of the ADDs that are under way: what one that was killed has left is undone from its mark.

A mark is a file that its writer keeps locked. The lock goes with the process, so a mark that can be
locked belongs to nobody: the same call is made again as DEL. It holds the whole call, so that also
another plugin that was our IPAM gets its DEL.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from kubewire.cni.spec import TRY_AGAIN_LATER, CniError

NAME = "adding"
"""Of the folder, within the network's."""


class Call(msgspec.Struct, frozen=True):
    """One call as the runtime made it."""

    program: str
    env: dict[str, str]
    stdin: bytes


class Journal:
    """The marks of one network."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @classmethod
    def below(cls, data_dir: Path) -> "list[Journal]":
        """Those of all networks."""
        return [cls(folder) for folder in sorted(data_dir.glob(f"*/{NAME}"))]

    @contextmanager
    def mark(self, program: str, env: Mapping[str, str], stdin: bytes) -> Iterator[None]:
        """Keep a mark for the time of the body; a kill leaves it behind."""
        call = Call(program, {k: v for k, v in env.items() if k.startswith("CNI_")}, stdin)
        data = msgspec.json.encode(call)
        path = self._folder / hashlib.sha256(data).hexdigest()[:32]
        fd = _lock(path)
        try:
            os.ftruncate(fd, 0)
            os.write(fd, data)
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(fd)

    def abandoned(self) -> Iterator[Call]:
        """Calls whose process is gone; each mark goes when the next is asked for."""
        for path in sorted(self._folder.iterdir()):
            with suppress(FileNotFoundError), path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                with suppress(msgspec.DecodeError):
                    yield msgspec.json.decode(file.read(), type=Call)
                path.unlink(missing_ok=True)


def _lock(path: Path) -> int:
    """Make and lock a file of that name; CniError if the very same call is under way."""
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(path.stat(), os.fstat(fd)):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise CniError(TRY_AGAIN_LATER, "CNI_COMMAND ADD: the same call is under way") from None
        except FileNotFoundError:
            pass
        # Its owner has just taken it away.
        os.close(fd)
