"""/exec, /run and /attach: programs beside a container, and its own output as it comes."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from aiohttp import web

from kubewire.api.errors import StatusError
from kubewire.client import remotecommand
from kubewire.client.remotecommand import Session
from kubewire.kubelet.capture import captured
from kubewire.kubelet.enter import Entrance
from kubewire.kubelet.enter import entrance as entrance_of
from kubewire.kubelet.live import Live
from kubewire.kubelet.output import Output
from kubewire.kubelet.pod import Container
from kubewire.kubelet.serving import bare, command
from kubewire.kubelet.worker import PodWorker

TRUE = ("1", "true")


def running(worker: PodWorker, container: Container) -> Live:
    """The container's run; refused if it does not run."""
    live = worker.live(container.name)
    if live is None:
        meta = worker.pod.metadata
        text = f"container not found ({container.name}) in pod {meta.namespace}/{meta.name}: it does not run"  # fmt: skip
        raise StatusError("InternalError", text)
    return live


def entrance(worker: PodWorker, container: Container) -> Entrance:
    """How a program enters; a stand-in's sees this machine's variables, as with `kubewire exec`."""
    live = running(worker, container)
    if not worker.is_played(container):
        return live.entrance
    return entrance_of(worker.folder, container.name)


async def execute(
    request: web.BaseRequest, worker: PodWorker, container: Container
) -> web.StreamResponse:
    """Run ``command`` with the streams that the query names."""
    query = request.query
    enter, argv = entrance(worker, container), query.getall("command", [])
    if not argv:
        raise StatusError("BadRequest", "you must specify at least one command for the container")
    wanted = {name: query.get(name) in TRUE for name in ("input", "output", "error", "tty")}

    async def work(session: Session) -> int:
        running = await command.start(
            enter,
            argv,
            stdin=wanted["input"],
            stdout=wanted["output"],
            stderr=wanted["error"] and not wanted["tty"],
            tty=wanted["tty"],
        )
        session.on_resize = running.on_resize
        try:
            return await remotecommand.pump(session, running)
        finally:
            running.close()

    return await _serve(request, work)


async def run(
    request: web.BaseRequest, worker: PodWorker, container: Container
) -> web.StreamResponse:
    """Run ``cmd`` and answer with both its outputs."""
    argv = request.query.get("cmd", "").split(" ")
    try:
        code, output = await captured(entrance(worker, container), argv, None, kill_rest=True)
    except OSError as error:
        raise StatusError("InternalError", str(error)) from error
    return web.Response(body=output, status=500 if code else 200, content_type="text/plain")


async def attach(
    request: web.BaseRequest, worker: PodWorker, container: Container
) -> web.StreamResponse:
    """Show what the container prints from now on, until it ends."""
    output = running(worker, container).run.output
    query = request.query
    shown = {
        name
        for name, flag in (("stdout", "output"), ("stderr", "error"))
        if query.get(flag) in TRUE
    }

    async def work(session: Session) -> int:
        session.on_resize = lambda size: output.resize(size.width, size.height)
        writer = await output.input() if query.get("input") in TRUE else None
        typing = asyncio.create_task(_type(session, writer, once=container.stdin_once))
        try:
            await _follow(session, output, shown)
        finally:
            typing.cancel()
        # As upstream: how the container ended is said by the pod's status.
        return 0

    return await _serve(request, work)


async def _serve(
    request: web.BaseRequest, work: Callable[[Session], Awaitable[int]]
) -> web.StreamResponse:
    server = bare.serve if bare.is_asked(request) else remotecommand.serve
    return await server(request, work)


async def _type(session: Session, writer: asyncio.StreamWriter | None, *, once: bool) -> None:
    """Pass on what the client types; its end is the program's only if ``stdinOnce`` says so."""
    with contextlib.suppress(ConnectionError):
        async for data in session.stdin():
            if writer is not None:
                writer.write(data)
                await writer.drain()
        if writer is not None and once:
            writer.close()


async def _follow(session: Session, output: Output, shown: set[str]) -> None:
    queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    sends = {"stdout": session.stdout, "stderr": session.stderr}
    with output.listening(lambda stream, data: queue.put_nowait((stream, data))):
        while not (output.is_finished and queue.empty()):
            while not queue.empty():
                stream, data = queue.get_nowait()
                if stream in shown:
                    await sends[stream](data)
            if not output.is_finished:
                await output.changed()
