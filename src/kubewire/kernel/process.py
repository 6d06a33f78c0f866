"""Processes in namespaces: run a program or a Python function there, and learn when it ends.

A child is forked without a shell. Until it executes its program it only makes system calls; what
fails there is raised in the caller. ``fork_into`` runs a function of this very process instead, so
that a built-in program (DNS, stand-ins) pays for no import.
"""

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import os
import pickle
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kubewire.kernel import namespaces
from kubewire.kernel.netns import Netns, opened

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BLOCK = 128 << 10

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

DEVNULL = -3
"""For stdin, stdout, stderr: nothing (the same number as `subprocess.DEVNULL`)."""

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int | bytes) -> None:
    argument = value if isinstance(value, bytes) else ctypes.c_ulong(value)
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), argument, zero, zero, zero) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def set_name(name: str) -> None:
    """Name the process as ``ps`` and ``top`` show it; 15 bytes are kept."""
    _prctl(_PR_SET_NAME, name.encode()[:15] + b"\0")


def die_with_parent(number: int = signal.SIGKILL, *, parent: int = 0) -> None:
    """Ask the kernel for a signal when the parent (thread) ends; exit if it already has."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if parent and os.getppid() != parent:
        os._exit(1)


def give_memory_back() -> None:
    """Make malloc return large blocks to the machine as soon as they are freed (glibc).

    Left alone it raises its own thresholds after the first large answer of an API server, and keeps
    whatever the busiest moment took. Children inherit it.
    """
    if hasattr(_libc, "mallopt"):
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            _libc.mallopt(ctypes.c_int(option), ctypes.c_int(_BLOCK))


def become_subreaper() -> None:
    """Inherit the orphans among one's descendants."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount that a child makes in a mount namespace of its own before it starts."""

    source: str
    target: str
    kind: str = "bind"
    read_only: bool = False

    def make(self) -> None:
        """Mount it."""
        if self.kind == "bind":
            namespaces.bind(self.source, self.target, read_only=self.read_only)
        else:
            flags = namespaces.MS_RDONLY if self.read_only else 0
            namespaces.mount(self.source, self.target, self.kind, flags)


class Process:
    """A child, held by a pidfd: its number cannot come to mean another process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.returncode: int | None = None
        """Exit status, or minus the signal that ended it; None while it runs."""
        self._ended: asyncio.Future[int] | None = None

    def signal(self, number: int) -> None:
        """Send a signal; a process that has ended is fine."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """Collect the exit status if the process has ended."""
        return self._collect(os.WNOHANG)

    def wait_blocking(self) -> int:
        """Wait without an event loop."""
        status = self._collect(0)
        assert status is not None
        return status

    async def wait(self) -> int:
        """Wait for the end; any number of tasks may."""
        if self.poll() is not None:
            assert self.returncode is not None
            return self.returncode
        if self._ended is None:
            loop = asyncio.get_running_loop()
            self._ended = loop.create_future()
            loop.add_reader(self.pidfd, self.wait_blocking)
        return await asyncio.shield(self._ended)

    def _collect(self, flags: int) -> int | None:
        if self.returncode is not None:
            return self.returncode
        try:
            found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | flags)
        except ChildProcessError:
            # Somebody else has reaped it; the status is lost, the end is not.
            self._finish(255)
            return self.returncode
        if found is not None:
            exited = found.si_code == os.CLD_EXITED
            self._finish(found.si_status if exited else -found.si_status)
        return self.returncode

    def _finish(self, status: int) -> None:
        self.returncode = status
        if self._ended is not None:
            self._ended.get_loop().remove_reader(self.pidfd)
            if not self._ended.done():
                self._ended.set_result(status)
        self.close()

    def close(self) -> None:
        """Let go of the pidfd; the process is not touched."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def reap_orphans(own: Iterable[int] = ()) -> int:
    """Collect ended children that are not in ``own`` (PID 1, a subreaper); returns how many."""
    known = set(own)
    count = 0
    with contextlib.suppress(ChildProcessError):
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None or found.si_pid in known:
                break
            os.waitpid(found.si_pid, 0)
            count += 1
    return count


def spawn(
    argv: Sequence[str],
    *,
    netns: Netns | None = None,
    mount_namespace: int | None = None,
    mounts: Sequence[Mount] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Iterable[int] = (),
    pdeathsig: int = signal.SIGKILL,
    new_session: bool = True,
    prepare: Callable[[], None] | None = None,
) -> Process:
    """Run a program; OSError (with the program's or the namespace's name) if it cannot start.

    ``prepare`` runs last in the child and may only make system calls.
    """
    kept = tuple(pass_fds)

    def child(report: int) -> None:
        _stdio(stdin, stdout, stderr)
        _close_others((*kept, report))
        for fd in kept:
            os.set_inheritable(fd, True)
        _enter_mounts(mount_namespace, mounts)
        if cwd is not None:
            os.chdir(cwd)
        if prepare is not None:
            prepare()
        environment = os.environ if env is None else env
        try:
            execute(argv, environment)
        except OSError as error:
            raise OSError(error.errno, f"exec {argv[0]}: {error.strerror}") from None

    return _fork(child, netns, pdeathsig, new_session)


def fork_into(
    function: Callable[[], None],
    *,
    netns: Netns | None = None,
    mounts: Sequence[Mount] = (),
    name: str = "",
    stdin: int | None = DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    keep_fds: Iterable[int] = (),
    pdeathsig: int = signal.SIGKILL,
) -> Process:
    """Run a function of this process in a child; its return is exit status 0, a traceback 1."""
    kept = tuple(keep_fds)

    def child(report: int) -> None:
        # What the parent held is never freed here: a late ``close`` would hit a reused number.
        gc.freeze()
        # As in every Python process: a peer that goes away is an exception, not the end.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        _stdio(stdin, stdout, stderr)
        _close_others((*kept, report))
        _forget_log_files()
        # Python's own streams may have been something else (a pipe, a test's capture).
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(fd, mode, closefd=False) for fd, mode in enumerate(("r", "w", "w"))
        )
        _enter_mounts(None, mounts)
        asyncio.events._set_running_loop(None)
        asyncio.set_event_loop(None)
        if name:
            set_name(name)
        os.close(report)
        _run(function)

    return _fork(child, netns, pdeathsig, True)


def _forget_log_files() -> None:
    """Log no more to files that are closed: their numbers will be other files'."""
    for handler in logging.root.handlers[:]:
        if isinstance(handler, logging.FileHandler):
            logging.root.removeHandler(handler)


def _run(function: Callable[[], None]) -> None:
    status = 0
    try:
        function()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _fork(
    child: Callable[[int], None], netns: Netns | None, pdeathsig: int, new_session: bool
) -> Process:
    """Fork, enter the namespace, run ``child``; what it raises before its program is raised here."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    # Signals wait until the child has dropped the parent's handlers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _child(
                child, writing,
                netns=netns, pdeathsig=pdeathsig, parent=parent, new_session=new_session,
            )  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(writing)
    process = Process(pid)
    with os.fdopen(reading, "rb") as pipe:
        failure = pipe.read()
    if failure:
        process.wait_blocking()
        number, message = pickle.loads(failure)
        raise OSError(number, message)
    return process


def _child(
    child: Callable[[int], None],
    report: int,
    *,
    netns: Netns | None,
    pdeathsig: int,
    parent: int,
    new_session: bool,
) -> None:
    try:
        _reset_signals()
        if pdeathsig:
            die_with_parent(pdeathsig, parent=parent)
        if new_session:
            os.setsid()
        if netns is not None:
            with opened(netns) as fd:
                namespaces.setns(fd, namespaces.CLONE_NEWNET)
        child(report)
    except OSError as error:
        text = error.strerror or str(error)
        if error.filename is not None:
            text = f"{error.filename}: {text}"
        os.write(report, pickle.dumps((error.errno or 0, text)))
    except BaseException:
        os.write(report, pickle.dumps((0, traceback.format_exc())))
    finally:
        os._exit(127)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _stdio(*wanted: int | None) -> None:
    # Copies first: a wanted descriptor may itself be one of 0, 1, 2 that is about to be replaced.
    copies = [_copy(fd) for fd in wanted]
    for target, copy in enumerate(copies):
        if copy is not None:
            os.dup2(copy, target, inheritable=True)


def _copy(fd: int | None) -> int | None:
    if fd is None:
        return None
    if fd == DEVNULL:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    return os.dup(fd)


def _close_others(kept: Iterable[int]) -> None:
    start = 3
    for fd in sorted(set(kept)):
        if fd >= start:
            os.closerange(start, fd)
            start = fd + 1
    os.closerange(start, 1 << 30)


def _enter_mounts(mount_namespace: int | None, mounts: Sequence[Mount]) -> None:
    if mount_namespace is not None:
        namespaces.setns(mount_namespace, namespaces.CLONE_NEWNS)
    if mounts:
        namespaces.private_mounts()
        for one in mounts:
            one.make()


def execute(argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Become a program, found by ``env``'s PATH; OSError if it cannot be."""
    # A folder of PATH that may not be searched is passed over, as a shell does.
    found = argv[0] if "/" in argv[0] else shutil.which(argv[0], path=env.get("PATH", os.defpath))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    os.execve(found, list(argv), dict(env))
