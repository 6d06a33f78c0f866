"""The node's Envoy as a process: started, found again after a restart of ours, started again.

It outlives this process, as rules of the kernel do: its connections go on while kube-proxy is
replaced. A file holds its process id; whoever comes next takes it over if it runs with the same
bootstrap, and replaces it otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

from kubewire.kernel import envoy
from kubewire.kernel.process import Process
from kubewire.kernel.unixsocket import short_name
from kubewire.kubeproxy.backends.envoy.compile import ADDRESSES, ADMIN, WAYS

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds for a start, and for a configuration to be taken."""
FAREWELL = 3600.0
"""Seconds for which connections go on through an Envoy that gets no new ones."""
_PAUSE = 0.005
_GLANCE = 0.02
"""Seconds for a question while Envoy may wait for us."""
_RESTART = 0.2
_OPEN = ("01", "04", "05", "08")
"""Established, or closed by one side."""


class EnvoyError(OSError):
    """Envoy does not do what it should."""


class Envoy:
    """One Envoy that lives in a folder and in this network namespace."""

    def __init__(self, directory: Path, turn: Callable[[float], None]) -> None:
        self._directory = directory
        self._turn = turn
        """Serves Envoy while it is waited for, at most so many seconds."""
        self._pid_file = directory / "envoy.pid"
        self._bootstrap = directory / "bootstrap.json"
        self._pidfd = -1
        self._child: Process | None = None
        self._watching: asyncio.AbstractEventLoop | None = None

    def running(self) -> bool:
        """Whether it lives."""
        return self._pidfd >= 0 and not _readable(self._pidfd)

    def ensure(self, bootstrap: bytes) -> bool:
        """Have it run with this bootstrap and listen; True if it had to be started."""
        if self.running():
            return False
        self._let_go()
        (self._directory / "left").unlink(missing_ok=True)
        same = self._bootstrap.exists() and self._bootstrap.read_bytes() == bootstrap
        self._adopt()
        if self.running() and same:
            self._watch()
            return False
        self.stop()
        self._bootstrap.write_bytes(bootstrap)
        self._start()
        self.wait("does not start", self._ready)
        return True

    def wait(self, problem: str, done: Callable[[], bool]) -> None:
        """Serve Envoy until it is done; EnvoyError if it ends or takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            if not self.running():
                raise EnvoyError(f"Envoy has ended: {self._last_words()}")
            if time.monotonic() > deadline:
                raise EnvoyError(f"Envoy {problem} within {PATIENCE:.0f} s: {self._last_words()}")
            self._turn(_PAUSE)

    def clusters(self) -> bytes:
        """Its clusters and their endpoints, as JSON."""
        return self._ask("/clusters?format=json")

    def lingers(self) -> bool:
        """Whether it still has clients, and has not been left for longer than ``FAREWELL``."""
        if not self.running():
            self._adopt()
        left = self._directory / "left"
        if not self.running() or not any(clients()):
            return False
        if not left.exists():
            left.touch()
        return time.time() - left.stat().st_mtime < FAREWELL

    def stop(self) -> None:
        """End it, an earlier run's too; connections through it end."""
        if not self.running():
            self._let_go()
            self._adopt()
        if self.running():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            _readable(self._pidfd, PATIENCE)
            with contextlib.suppress(ChildProcessError):  # Of an earlier run, or reaped already.
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        self._let_go()
        self._pid_file.unlink(missing_ok=True)
        (self._directory / ADMIN).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it; it runs on."""
        self._let_go()

    def _start(self) -> None:
        with (self._directory / "envoy.log").open("ab") as output:
            here = self._directory
            self._child = envoy.start(self._bootstrap, log=output.fileno(), pdeathsig=0, cwd=here)
        self._pidfd = os.dup(self._child.pidfd)
        self._pid_file.write_text(f"{self._child.pid}\n")
        self._watch()

    def _adopt(self) -> None:
        """Take over the one that the file names, if it is one of this folder."""
        try:
            pid = int(self._pid_file.read_text())
            self._pidfd = os.pidfd_open(pid)
            there = Path(f"/proc/{pid}/cwd").readlink()
        except (OSError, ValueError):
            self._let_go()
            return
        if there != self._directory.resolve():
            self._let_go()

    def _let_go(self) -> None:
        if self._watching is not None:
            self._watching.remove_reader(self._pidfd)
            self._watching = None
        if self._child is not None:
            self._child.poll()
            self._child = None
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _watch(self) -> None:
        """Where there is an event loop: learn of its death at once."""
        with contextlib.suppress(RuntimeError):
            self._watching = asyncio.get_running_loop()
            self._watching.add_reader(self._pidfd, self._died)

    def _died(self) -> None:
        loop = self._watching
        log.error("Envoy has died and is started again: %s", self._last_words())
        self._let_go()
        if loop is not None:
            loop.call_later(_RESTART, self._restart)

    def _restart(self) -> None:
        if not self.running() and self._bootstrap.exists():
            self._start()

    def _ready(self) -> bool:
        try:
            return self._ask("/ready", timeout=_GLANCE).strip() == b"LIVE"
        except (FileNotFoundError, ConnectionError, TimeoutError):
            return False

    def _ask(self, path: str, timeout: float = 5.0) -> bytes:
        return envoy.ask(Path(short_name(self._directory / ADMIN)), path, timeout=timeout)

    def _last_words(self) -> str:
        """The last complaint in its log."""
        try:
            lines = (self._directory / "envoy.log").read_text(errors="replace").splitlines()
        except OSError:
            return "no log"
        marked = [x for x in lines if "[warning]" in x or "[critical]" in x or "[error]" in x]
        return (marked or lines or ["nothing in its log"])[-1]


def clients() -> Iterator[str]:
    """Connections of this namespace that end at Envoy's listeners, as the kernel lists them."""
    places = {
        f"{_hexadecimal(address)}:{way.port:04X}" for address in ADDRESSES.values() for way in WAYS
    }
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path("/proc/thread-self/net", name).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if local in places and state in _OPEN:
                    yield line


def _hexadecimal(address: str) -> str:
    """As /proc/net/tcp writes an address: words in the machine's order."""
    packed = ip_address(address).packed
    words = struct.unpack(f">{len(packed) // 4}I", packed)
    return struct.pack(f"={len(words)}I", *words).hex().upper()


def _readable(fd: int, seconds: float = 0) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
