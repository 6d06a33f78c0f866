"""``kubewire up`` from outside the sandbox: claim the name and the host's ports, fork, listen to events.

Only light modules are imported here; the fork imports the heavy ones while the command line goes on.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubewire.api.errors import InputError, system_text
from kubewire.client.manifests import Manifest
from kubewire.cluster import state
from kubewire.cluster.options import Options, Publish, Start


@dataclass(frozen=True, slots=True)
class Launched:
    """A cluster that is starting."""

    directory: Path
    events: int
    """Read end of the pipe of JSON lines."""
    lifeline: int
    """In the foreground: the cluster ends when this end of the pipe closes; else -1."""

    def read(self) -> Iterator[dict[str, Any]]:
        """Events up to "ready" or "failed", or to the death of the cluster."""
        with os.fdopen(self.events) as lines:
            for line in lines:
                event = json.loads(line)
                yield event
                if event["event"] in ("ready", "failed"):
                    return


def claim(name: str) -> Path:
    """Take the cluster's folder; InputError if a cluster of that name runs."""
    from kubewire.cluster.down import down

    found = state.find(name)
    if found and found.alive:
        raise InputError(
            f'cluster "{name}" is running already: "kubewire down --name {name}" stops it'
        )
    directory = state.directory(name)
    if directory.exists():
        down(name)
    home = state.home()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{home}: {system_text(error)}; set KUBEWIRE_HOME") from error
    if home.stat().st_uid != os.getuid():
        raise InputError(f"{home}: belongs to another user; set KUBEWIRE_HOME")
    for folder in (
        directory,
        directory / "log",
        directory / "run",
        directory / "store",
        directory / "pki",
    ):
        folder.mkdir(mode=0o700)
    return directory


def listen(port: int, flag: str) -> socket.socket:
    """Listen on the host's loopback; InputError names the flag if the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise InputError(f"{flag}: cannot listen on 127.0.0.1:{port}: {error.strerror}") from error
    return listener


def launch(
    options: Options, manifests: Sequence[Manifest], *, namespace: str, patience: float
) -> Launched:
    """Start the cluster; returns as soon as the fork is made. Raises InputError; nothing is left then."""
    publish: list[tuple[Publish, socket.socket]] = []
    api: socket.socket | None = None
    try:
        for wanted in options.publish:
            publish.append((wanted, listen(wanted.host_port, f"--publish {wanted.host_port}")))
        api = listen(0, "API server")
        directory = claim(options.name)
        events, tell = os.pipe()
        lifeline, hold = os.pipe() if options.foreground else (-1, -1)
        if os.fork() == 0:
            os.close(events)
            if hold >= 0:
                os.close(hold)
            start = Start(
                options=options,
                directory=directory,
                api=api,
                publish=tuple(publish),
                manifests=tuple(manifests),
                namespace=namespace,
                patience=patience,
                tell=tell,
                lifeline=lifeline,
            )
            _become_cluster(start)
        os.close(tell)
        if lifeline >= 0:
            os.close(lifeline)
        return Launched(directory, events, hold)
    finally:
        for _, listener in publish:
            listener.close()
        if api:
            api.close()


def _become_cluster(start: Start) -> None:
    """In the fork: enter the sandbox, fork its PID 1, note who it is, and go."""
    status = 1
    try:
        os.setsid()
        from kubewire.cluster.supervisor import log_to

        log_to(start.directory / "log" / "supervisor.log")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        from kubewire.cluster import sandbox

        sandbox.enter(start.directory / "run")
        # Until cluster.json is written nobody could find PID 1, so it waits for that.
        ready, go = os.pipe()

        def first() -> None:
            from kubewire.cluster.processes import run_cluster

            run_cluster(start)

        _describe(start, sandbox.fork_first(first, ready))
        os.write(go, b".")
        status = 0
    except InputError as error:
        line = {"event": "failed", "lines": [str(error)], "never_started": True}
        os.write(start.tell, json.dumps(line).encode() + b"\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _describe(start: Start, pid: int) -> None:
    options = start.options
    state.ClusterState(
        name=options.name,
        directory=start.directory,
        pid=pid,
        start_time=state.process_start_time(pid),
        server=f"https://127.0.0.1:{start.api.getsockname()[1]}",
        nodes=options.node_names,
        options=options.to_json(),
    ).save()
