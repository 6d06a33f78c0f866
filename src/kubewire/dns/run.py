"""Run a server until it is told to stop: the process behind ``kubewire dns`` and the DNS pods."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kubewire.dns.config import DEFAULT_COREFILE, Configuration, Environment, build, load
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugins.reload import FAILED, RUNNING
from kubewire.dns.server import Server

log = logging.getLogger("kubewire.dns")


class _Format(logging.Formatter):
    """``[INFO] text``, as CoreDNS writes it."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a line."""
        name = "FATAL" if record.levelno > logging.ERROR else record.levelname
        return f"[{name}] {super().format(record)}"


def set_up_logging(*, debug: bool = False) -> None:
    """Log to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Format())
    root = logging.getLogger("kubewire")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    root.propagate = False


Text = Callable[[], str] | None


def read(conf: str | Path | None, env: Environment, text: Text = None) -> Configuration:
    """Load a Corefile; None means ./Corefile if it is there, else CoreDNS' default."""
    if text is not None:
        return build(text(), str(conf or "Corefile"), env)
    if conf is not None:
        return load(conf, env)
    if Path("Corefile").exists():
        return load("Corefile", env)
    return build(DEFAULT_COREFILE, "Corefile", env)


def run(
    conf: str | Path | None = None,
    *,
    text: Text = None,
    port: int = 53,
    kubeconfig: str | Path = "",
    context: str = "",
    agent: str = "",
    quiet: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT; gives the exit status. Raises CorefileError at the start.

    ``text`` gives the Corefile instead of the file ``conf``, which then only names it.
    ``kubeconfig`` is where the API server is if the Corefile does not say so (else the pod's
    service account); ``agent`` is the name under which applied changes are reported.
    """
    env = Environment(
        default_port=port,
        kubeconfig=str(kubeconfig),
        context=context,
        agent=agent or f"dns/{os.environ.get('HOSTNAME') or socket.gethostname()}",
        warn=lambda text: log.warning("%s", text),
    )
    set_up_logging()
    again = partial(read, conf, env, text)
    return asyncio.run(_serve(again(), again, env, quiet=quiet))


class _Reloads:
    """Reads the file again, one task for each time."""

    def __init__(
        self, server: Server, again: Callable[[], Configuration], env: Environment
    ) -> None:
        self._server, self._again, self._env = server, again, env
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure = ""

    def begin(self, *, always: bool) -> asyncio.Task[None]:
        """Look at the file; ``always``: load it, too, if it is the same."""
        task = asyncio.get_running_loop().create_task(self._change(always=always), name="reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _change(self, *, always: bool) -> None:
        env, server = self._env, self._server
        try:
            fresh = self._again()
            same = server.configuration and fresh.digest == server.configuration.digest
            if same and not always:
                return
            log.info("Reloading")
            await server.load(fresh)
            log.info("plugin/reload: Running configuration SHA512 = %s", fresh.digest.hex())
            env.metrics.drop(RUNNING)
            env.metrics.set(RUNNING, 1, "sha512", fresh.digest.hex())
            log.info("Reloading complete")
            self._failure = ""
        except (CorefileError, OSError) as error:
            # Tried again, because what is wrong may lie outside of the file, but told once.
            if always or self._failure != str(error):
                env.metrics.add(FAILED)
                log.error("plugin/reload: Corefile changed but reload failed: %s", error)
            self._failure = str(error)


async def _serve(
    configuration: Configuration,
    again: Callable[[], Configuration],
    env: Environment,
    *,
    quiet: bool,
) -> int:
    server = Server(say=(lambda _: None) if quiet else _print)
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    env.end = end
    reloads = _Reloads(server, again, env)

    def told() -> None:
        # Asked for by a signal it may be about files that the Corefile names: certificates, zones.
        log.info("SIGUSR1: Reloading")
        reloads.begin(always=True)

    def ended_by(number: signal.Signals) -> None:
        log.info("%s: Shutting down servers then terminating", number.name)
        end(0)

    # The plugin that calls this is stopped, and its task with it, in the middle of a reload.
    env.reload = lambda: asyncio.shield(reloads.begin(always=False))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended_by, number)
    loop.add_signal_handler(signal.SIGUSR1, told)
    loop.add_signal_handler(signal.SIGQUIT, os._exit, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # What the first lists bring is here to stay: collecting in the middle of it finds nothing.
    gc.disable()
    try:
        await server.load(configuration)
    finally:
        gc.freeze()
        # Answers that are kept are many and part of no cycle: look rarely, and at few things at once.
        gc.set_threshold(5_000, 20, 50)
        gc.enable()
    status = await ended
    await server.stop()
    return status


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


__all__ = ["run", "set_up_logging"]
