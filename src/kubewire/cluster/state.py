"""Where a cluster of this machine keeps its files, and how others find it by name.

A folder per cluster holds ``cluster.json``: written by the supervisor, read by every other command.
Only the standard library is imported here: ``kubewire exec`` must start in milliseconds.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kubewire.api.errors import InputError

DEFAULT_NAME = "kubewire"


@dataclass(frozen=True, slots=True)
class ClusterState:
    """A running (or dead) cluster, as its supervisor described it."""

    name: str
    directory: Path
    """The cluster's folder on the host."""
    pid: int
    """The supervisor, PID 1 of the sandbox, as the host counts."""
    start_time: int
    """Field 22 of /proc/PID/stat: tells a reused pid from the real one. Unit: clock ticks."""
    server: str = ""
    """URL of the API server on the host's loopback."""
    nodes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    """The options of ``up`` that others need to know (network, modes, publish)."""

    @property
    def kubeconfig(self) -> Path:
        """Admin kubeconfig for the host."""
        return self.directory / "kubeconfig"

    @property
    def run_dir(self) -> Path:
        """The tmpfs of the sandbox; it exists only inside the sandbox's mount namespace."""
        return self.directory / "run"

    @property
    def log_dir(self) -> Path:
        """One log file per process."""
        return self.directory / "log"

    @property
    def alive(self) -> bool:
        """The supervisor runs."""
        return self.pid > 0 and process_start_time(self.pid) == self.start_time

    def save(self) -> None:
        """Write cluster.json in one step."""
        record = asdict(self) | {"directory": str(self.directory)}
        temporary = self.directory / "cluster.json.new"
        temporary.write_text(json.dumps(record))
        temporary.rename(self.directory / "cluster.json")


def home() -> Path:
    """Folder of all clusters of this user."""
    if chosen := os.environ.get("KUBEWIRE_HOME"):
        return Path(chosen)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "kubewire"
    return Path(f"/tmp/kubewire-{os.getuid()}")


def directory(name: str) -> Path:
    """Folder of one cluster; InputError if the name cannot be one."""
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?", name):
        raise InputError(f"--name {name!r}: must consist of lower case letters, digits and '-'")
    return home() / name


def names() -> list[str]:
    """Every cluster of this user, dead ones too."""
    return sorted(p.parent.name for p in home().glob("*/cluster.json"))


def find(name: str) -> ClusterState | None:
    """Read a cluster's state; None if there is none of that name."""
    path = directory(name) / "cluster.json"
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return ClusterState(
        **(record | {"directory": Path(record["directory"]), "nodes": tuple(record["nodes"])})
    )


def load(name: str) -> ClusterState:
    """Read the state of a cluster that must be running; InputError says what to do otherwise."""
    state = find(name)
    if state is None:
        raise InputError(
            f'no cluster "{name}" on this machine: start one with "kubewire up --name {name}"'
        )
    if not state.alive:
        raise InputError(
            f'cluster "{name}" is dead (its supervisor ended): clean up with "kubewire down --name {name}"'
        )
    return state


def process_start_time(pid: int) -> int:
    """Start of a process in clock ticks since boot; 0 if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])
