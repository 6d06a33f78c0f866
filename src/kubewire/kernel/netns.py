"""Network namespaces kept by bind mounts.

A namespace is per thread and everything here is synchronous: while the calling thread is away in
another namespace nothing else can run in it, and other threads stay where they are. So an event
loop may call these functions directly; no helper process is needed.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

from kubewire.kernel.namespaces import (
    CLONE_NEWNET,
    MNT_DETACH,
    MS_BIND,
    mount,
    setns,
    umount,
    unshare,
)

if TYPE_CHECKING:
    from kubewire.kernel.netlink import Message

_SELF = "/proc/thread-self/ns/net"
_LOOPBACK_HOPS = (IPv4Address("0.0.0.0"), IPv6Address("::1"))

Netns = str | Path | int
"""Where a namespace is: the path that keeps it, or an open file descriptor."""


def current() -> int:
    """Open the calling thread's namespace; the caller closes the descriptor."""
    return os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)


def create(path: Path) -> None:
    """Make a namespace that lives at ``path`` until `delete`; its loopback is up.

    May be called from several threads at once (``asyncio.to_thread``): most of its millisecond is
    spent in the kernel.

    The file must not exist: a namespace is never replaced silently.
    """
    home = current()
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_RDONLY, 0o444))
        try:
            unshare(CLONE_NEWNET)
            try:
                _prepare_loopback()
                mount(_SELF, path, flags=MS_BIND)
            finally:
                setns(home, CLONE_NEWNET)
        except BaseException:
            path.unlink()
            raise
    finally:
        os.close(home)


def delete(path: Path) -> None:
    """Let go of a namespace; the kernel ends it when nothing else uses it. Absent is fine."""
    with suppress(FileNotFoundError, OSError):
        umount(path, MNT_DETACH)
    path.unlink(missing_ok=True)


def is_namespace(path: str | Path) -> bool:
    """Tell whether a network namespace is kept at ``path`` (a bare file is what a kill leaves)."""
    try:
        with entered(path):
            return True
    except OSError:
        return False


def inode(where: Netns) -> tuple[int, int]:
    """Identity of a namespace: equal for two paths that keep the same one."""
    found = os.fstat(where) if isinstance(where, int) else Path(where).stat()
    return found.st_dev, found.st_ino


@contextmanager
def opened(where: Netns) -> Iterator[int]:
    """Yield a descriptor of the namespace; closed afterwards unless it was given as one."""
    if isinstance(where, int):
        yield where
        return
    fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def entered(where: Netns) -> Iterator[None]:
    """Run the body (which must not await) in a namespace."""
    home = current()
    try:
        with opened(where) as fd:
            setns(fd, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


def socket_in(
    where: Netns,
    family: int = socket.AF_INET,
    kind: int = socket.SOCK_STREAM,
    protocol: int = 0,
) -> socket.socket:
    """Make a socket that belongs to a namespace; it keeps doing so wherever it is used."""
    with entered(where):
        return socket.socket(family, kind, protocol)


def _prepare_loopback() -> None:
    from kubewire.kernel.rtnetlink import RtNetlink

    with RtNetlink() as netlink:
        netlink.transact(_of_loopback())


@cache
def _of_loopback() -> "list[Message]":
    from kubewire.kernel.links import set_link
    from kubewire.kernel.routes import put_neighbour

    # The machine has room for some 1,000 neighbours of all namespaces together, and traffic on a
    # loopback takes one; permanent ones are not counted, so many pods do not run it full.
    own = [put_neighbour(1, address, "00:00:00:00:00:00") for address in _LOOPBACK_HOPS]
    return [set_link("lo", up=True), *own]
