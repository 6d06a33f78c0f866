"""The agent's end of the thick plugin: one call per connection on a unix socket.

The client sends the program's name and its CNI_* variables, each ended by NUL, an empty string,
and then stdin until end of file. The answer is the exit status on a line, then what to print.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

from kubewire.cni.plugin import Plugin
from kubewire.kernel.unixsocket import short_name

LIMIT = 4 << 20
"""Bytes of one call: a prevResult of a long chain is some kilobytes."""

log = logging.getLogger(__name__)


class Server:
    """Serves a `Plugin` on a unix socket that only its owner may open."""

    def __init__(self, plugin: Plugin, path: Path) -> None:
        self._plugin = plugin
        self._path = path
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; a socket that a killed agent left is replaced."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._plugin.recover()
        beside = self._path.with_suffix(".new")
        beside.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(
            self._serve, short_name(beside), backlog=1024
        )
        beside.chmod(0o600)
        beside.replace(self._path)

    async def _unheard(self, program: str, env: dict[str, str], stdin: bytes, status: int) -> None:
        """Undo an ADD that its client did not wait for: the runtime takes it for failed."""
        log.warning(
            "%s %s: the client did not wait for the answer", program, env.get("CNI_COMMAND")
        )
        if env.get("CNI_COMMAND") == "ADD" and status == 0:
            await self._plugin.run(program, env | {"CNI_COMMAND": "DEL"}, stdin)

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            data = await reader.read(-1)
            if len(data) <= LIMIT:
                program, env, stdin = parse_call(data)
                with contextlib.ExitStack() as held:
                    status, answer = await self._plugin.run(program, env, stdin, held)
                    try:
                        writer.write(b"%d\n" % status + answer)
                        await writer.drain()
                    except ConnectionError:
                        await self._unheard(program, env, stdin, status)
        except Exception:
            # No answer makes the client say "try again later"; the cause is here.
            log.exception("CNI call failed")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def parse_call(data: bytes) -> tuple[str, dict[str, str], bytes]:
    """Read what a client sent."""
    head, _, stdin = data.partition(b"\0\0")
    program, *variables = head.decode(errors="surrogateescape").split("\0")
    env = dict(text.split("=", 1) for text in variables if "=" in text)
    return program, env, stdin


async def serve_forever(path: Path, pod_cidrs: Sequence[str], *, metrics_port: int = 0) -> None:
    """Serve until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    plugin = Plugin(lambda: pod_cidrs or None)
    server = Server(plugin, path)
    await server.start()
    try:
        if metrics_port:
            await _serving_metrics(plugin, metrics_port, ended)
        else:
            await ended.wait()
    finally:
        await server.close()
        await plugin.close()


async def _serving_metrics(plugin: Plugin, port: int, ended: asyncio.Event) -> None:
    from kubewire.cni.metrics import serve

    metrics, end = asyncio.create_task(serve(plugin, port)), asyncio.create_task(ended.wait())
    await asyncio.wait([metrics, end], return_when=asyncio.FIRST_COMPLETED)
    end.cancel()
    if metrics.done():
        metrics.result()
    metrics.cancel()
    await asyncio.wait([metrics])
