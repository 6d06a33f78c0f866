"""How anybody enters a pod: the kubelet's programs, exec probes, stand-ins, ``kubewire exec``.

A pod has a network namespace and a folder, no mount namespace. Who runs a program in it takes a
mount namespace of its own and binds what ``pod.json`` in the folder lists:

    {"namespace", "name", "uid", "ips": [...], "containerNames": [...],
     "netns": PATH, "hostname": NAME, "binds": [BIND...],
     "containers": {NAME: {"binds": [BIND...], "env": {...}, "cwd": PATH}}}
    BIND = {"source": PATH, "target": PATH, "readOnly": BOOL}

A target that this machine does not have is made on an overlay (or, at the top level, on a mirror
of "/"), so nothing ever appears in the machine's own folders.
"""

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubewire.kernel import namespaces

POD_FILE = "pod.json"
SCRATCH = "/run"
"""Where the entrance mounts what it needs for itself; the pod's own /run is on top afterwards."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of the pod, and where it appears."""

    source: str
    target: str
    read_only: bool = False

    def to_wire(self) -> dict[str, Any]:
        """The form in pod.json."""
        return {"source": self.source, "target": self.target, "readOnly": self.read_only}

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> "Bind":
        """Read the form in pod.json."""
        return cls(data["source"], data["target"], bool(data.get("readOnly")))


@dataclass(frozen=True, slots=True)
class Entrance:
    """All that a program needs to run in a pod."""

    netns: str
    hostname: str
    binds: tuple[Bind, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    argv: tuple[str, ...] = ()
    """What the container itself runs."""
    message: tuple[Bind, ...] = ()
    """Where that leaves its last words; who only looks in needs no such place."""

    def prepare(self, *, is_main: bool = False) -> None:
        """In the child, already in the pod's network namespace: mounts, hostname, folder."""
        namespaces.private_mounts()
        namespaces.unshare(namespaces.CLONE_NEWUTS)
        _sethostname(self.hostname)
        bind_all((*self.binds, *self.message) if is_main else self.binds)
        os.chdir(self.cwd or "/")


def describe(folder: str | Path) -> dict[str, Any]:
    """What pod.json says."""
    found: dict[str, Any] = json.loads((Path(folder) / POD_FILE).read_bytes())
    return found


def entrance(folder: str | Path, container: str = "") -> Entrance:
    """Read a pod's folder; without a container the pod's own binds and the caller's environment."""
    data = describe(folder)
    own = (data.get("containers") or {}).get(container) or {}
    binds = [*(data.get("binds") or ()), *(own.get("binds") or ())]
    return Entrance(
        data["netns"],
        data["hostname"],
        tuple(Bind.from_wire(b) for b in binds),
        {**os.environ, **(own.get("env") or {}), "HOSTNAME": data["hostname"]},
        own.get("cwd") or "",
    )


def _sethostname(name: str) -> None:
    import socket

    socket.sethostname(name[:64])


def bind_all(binds: tuple[Bind, ...]) -> None:
    """Bind everything, parents first; targets that are missing are made, on overlays."""
    # Sources are held open first: a bind (or an overlay over /run) may hide where they lie.
    opened = [(os.open(b.source, os.O_PATH | os.O_CLOEXEC), b) for b in binds]
    opened.sort(key=lambda pair: pair[1].target.count("/"))
    places = _Places()
    try:
        outer = [(fd, b) for fd, b in opened if not any(_is_below(b, other) for other in binds)]
        for fd, one in outer:  # Overlays before binds: one laid later would hide them.
            places.make(one.target, is_folder=_is_folder(fd))
        for fd, one in opened:
            target = places.make(one.target, is_folder=_is_folder(fd))
            namespaces.bind(f"/proc/self/fd/{fd}", target, read_only=one.read_only)
    finally:
        for fd, _ in opened:
            os.close(fd)


def _is_below(one: Bind, other: Bind) -> bool:
    return Path(other.target) in Path(one.target).parents


def _is_folder(fd: int) -> bool:
    import stat

    return stat.S_ISDIR(os.fstat(fd).st_mode)


class _Places:
    """Mount points, made where they are missing."""

    def __init__(self) -> None:
        self._added_to: set[Path] = set()
        """Folders that are our own by now."""

    def make(self, path: str, *, is_folder: bool) -> Path:
        """The real path to mount on."""
        real = Path(path).resolve()
        if real.exists():
            return real
        ancestor = next(p for p in real.parents if p.is_dir())
        near = (ancestor, *(p for p in ancestor.parents if p != Path("/")))
        if self._added_to.isdisjoint(near):
            try:
                _mirror_root() if ancestor == Path("/") else _make_writable(ancestor)
            except OSError as error:
                why = f"no place for {path} in the pod: {error.strerror}"
                raise OSError(error.errno, why) from error
            self._added_to.add(ancestor)
        (real if is_folder else real.parent).mkdir(parents=True, exist_ok=True)
        if not is_folder:
            real.touch()
        return real


def _make_writable(folder: Path) -> None:
    """Let things be added to a folder of the machine, for this mount namespace only."""
    if any(
        os.path.ismount(entry)
        for entry in os.scandir(folder)
        if entry.is_dir(follow_symlinks=False)
    ):
        # An overlay shows one file system only: /dev would lose its terminals.
        _mirror_folder(folder)
        return
    try:
        _overlay(folder)
    except OSError as error:
        # In a user namespace a folder below which the machine has mounts of its own (/run/user)
        # cannot be the lower layer of an overlay.
        if error.errno != errno.EINVAL:
            raise
        namespaces.umount(folder)
        _mirror_folder(folder)


def _mirror_folder(folder: Path) -> None:
    """Lay a tmpfs over a folder that shows everything that was in it."""
    flags = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW
    held = {entry.name: os.open(entry, flags) for entry in folder.iterdir()}
    links = {name: (folder / name).readlink() for name in held if (folder / name).is_symlink()}
    namespaces.mount_tmpfs(folder)
    for name, fd in held.items():
        if name in links:
            (folder / name).symlink_to(links[name])
        else:
            _mirror(folder / name, folder / name, fd)
        os.close(fd)


def _overlay(folder: Path) -> None:
    """Lay a fresh writable layer over a folder; a tmpfs that nobody else sees holds the layer."""
    held = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        namespaces.mount_tmpfs(folder)
        upper, work = folder / "upper", folder / "work"
        upper.mkdir()
        work.mkdir()
        layers = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        try:
            base = f"/proc/self/fd/{layers}"
            namespaces.mount_overlay(
                folder, f"/proc/self/fd/{held}", Path(base, "upper"), Path(base, "work")
            )
        finally:
            os.close(layers)
    finally:
        os.close(held)


def _mirror_root() -> None:
    """Take a root folder of one's own that shows all of the machine's, and may be added to."""
    base = Path(SCRATCH)
    flags = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW
    held = {entry.name: os.open(entry, flags) for entry in Path("/").iterdir()}
    namespaces.mount_tmpfs(base)
    for name, fd in held.items():
        _mirror(base / name, Path("/", name), fd)
    os.chroot(base)
    os.chdir("/")
    for fd in held.values():
        os.close(fd)


def _mirror(place: Path, original: Path, fd: int) -> None:
    import stat

    mode = os.fstat(fd).st_mode
    if stat.S_ISLNK(mode):
        place.symlink_to(original.readlink())
    elif stat.S_ISDIR(mode):
        place.mkdir()
        namespaces.bind(f"/proc/self/fd/{fd}", place)
    else:
        place.touch()
        namespaces.bind(f"/proc/self/fd/{fd}", place)
