"""System calls for namespaces and mounts that Python 3.11 does not offer, with proper OSErrors.

A network namespace belongs to a thread, a mount namespace to the threads that share a filesystem
view, a user namespace to the whole process. Paths below ``/proc/thread-self`` therefore name the
caller's namespaces; ``/proc/PID`` would be wrong where ``/proc`` shows an outer pid namespace.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2

_CAP_SYS_ADMIN = 21

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, operation: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{operation}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces."""
    _checked(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def setns(fd: int, kind: int = 0) -> None:
    """Move the calling thread into the namespace behind an open file."""
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(
    source: str | Path, target: str | Path, kind: str = "", flags: int = 0, data: str = ""
) -> None:
    """mount(2)."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _checked(result, f"mount {source} on {target}")


def umount(target: str | Path, flags: int = MNT_DETACH) -> None:
    """umount2(2), lazily unless told otherwise."""
    _checked(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), f"umount {target}")


def pivot_root(new: Path, old: Path) -> None:
    """pivot_root(2)."""
    number = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine)
    if number is None:
        raise OSError(f"pivot_root: unknown system call number on {os.uname().machine}")
    result = _libc.syscall(ctypes.c_long(number), os.fsencode(new), os.fsencode(old))
    _checked(result, f"pivot_root {new}")


def private_mounts() -> None:
    """Take a mount namespace of one's own whose changes never reach the outside."""
    unshare(CLONE_NEWNS)
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def bind(source: str | Path, target: str | Path, *, read_only: bool = False) -> None:
    """Make ``source`` (a file or a tree) visible at ``target``."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | _kept_flags(target))


def mount_tmpfs(target: str | Path, *, mode: int = 0o755, size: str = "") -> None:
    """Mount an empty tmpfs."""
    options = f"mode={mode:o}" + (f",size={size}" if size else "")
    mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, options)


def mount_overlay(target: str | Path, lower: str | Path, upper: Path, work: Path) -> None:
    """Lay a writable ``upper`` over ``lower``; works in a user namespace since Linux 5.11."""
    options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
    mount("overlay", target, "overlay", 0, options)


def mount_proc() -> bool:
    """Mount a /proc of the own pid namespace; False where the machine masks /proc."""
    return _mounted(lambda: mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC))


def mount_sys() -> bool:
    """Mount a /sys of the own network namespace; False where the machine does not allow it."""
    return _mounted(lambda: mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC))


def _mounted(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except PermissionError:
        return False
    return True


def _kept_flags(target: str | Path) -> int:
    # A user namespace may not drop flags that the outer mount carries, so a remount repeats them.
    found = os.statvfs(target).f_flag
    return found & (MS_NOSUID | MS_NODEV | MS_NOEXEC)


def new_user_namespace(flags: int = 0, *, uid: int = 0, gid: int = 0) -> None:
    """Enter a new user namespace (and those of ``flags``) in which the caller is ``uid``:``gid``.

    Only the caller's own ids are mapped: that needs no privilege and no helper program.
    """
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | flags)
    proc = Path("/proc/thread-self")
    (proc / "setgroups").write_text("deny")
    (proc / "uid_map").write_text(f"{uid} {outer_uid} 1")
    (proc / "gid_map").write_text(f"{gid} {outer_gid} 1")


def may_unshare_without_user_namespace() -> bool:
    """Tell whether the caller holds CAP_SYS_ADMIN here."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False
