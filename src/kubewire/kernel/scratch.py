"""A temporary folder that goes with its process, whatever ends it.

A program that is killed clears nothing away. So a keeper does: a process of its own, which nobody who
ends the program would find (another session, another parent), asleep on a pipe until the program is gone.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kubewire.kernel.process import DEVNULL, fork_into


@contextlib.contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """A new folder for temporary files, for as long as the body runs and this process lives."""
    path = Path(tempfile.gettempdir(), f"{prefix}{secrets.token_hex(6)}")
    owner = _keep(path)
    try:
        path.mkdir(mode=0o700)
        yield path
    finally:
        _remove(path)
        os.close(owner)


def _keep(path: Path) -> int:
    """Have it removed once the descriptor that this returns is closed; the folder need not be there yet."""
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def keeper() -> None:
        if os.fork() == 0:
            os.chdir("/")
            os.read(reading, 1)
            _remove(path)

    first = fork_into(keeper, name="keeper", stdout=DEVNULL, stderr=DEVNULL, keep_fds=[reading], pdeathsig=0)  # fmt: skip
    os.close(reading)
    first.wait_blocking()
    return writing


def _remove(path: Path) -> None:
    # Another program that ends now may still be at it.
    shutil.rmtree(path, ignore_errors=True)
