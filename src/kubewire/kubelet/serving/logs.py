"""/containerLogs: a container's log, the whole of it, its end, or as it comes."""

import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from aiohttp import web

from kubewire.api.errors import StatusError
from kubewire.kubelet.lifecycle import will_restart
from kubewire.kubelet.logs import Question, moment, tail_start
from kubewire.kubelet.output import Output, previous
from kubewire.kubelet.pod import Container
from kubewire.kubelet.record import Running, Terminated, Waiting
from kubewire.kubelet.rehearsal import parse
from kubewire.kubelet.runtime import log_path
from kubewire.kubelet.standin.ports import listeners
from kubewire.kubelet.worker import PodWorker

BLOCK = 1 << 18


async def answer(
    request: web.BaseRequest, worker: PodWorker, container: Container
) -> web.StreamResponse:
    """Stream what the query asks for."""
    query = request.query
    path = place(worker, container, before=query.get("previous") == "true")
    question = asked(query, now=time.time())
    live = worker.live(container.name)
    follow = live.run.output if live and query.get("follow") == "true" else None
    if worker.is_played(container):
        shown = _played(worker, container, question, follow)
    else:
        shown = following(follow, question) if follow else records(path, question)
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        async with contextlib.aclosing(shown):
            async for piece in shown:
                await response.write(piece)
        await response.write_eof()
    return response


def place(worker: PodWorker, container: Container, *, before: bool) -> Path:
    """The file that holds the log; refused where there is none, with upstream's texts."""
    known = worker.record.containers[container.name]
    where = f'container "{container.name}" in pod "{worker.pod.metadata.name}"'
    path, state = log_path(worker.folder, container.name), known.state
    if not before:
        if isinstance(state, Waiting) and known.last is None:
            raise StatusError("BadRequest", f"{where} is waiting to start: {state.reason}")
        return path
    if isinstance(state, Terminated) and will_restart(worker.pod, container, state):
        return path
    if known.last is None:
        raise StatusError("BadRequest", f"previous terminated {where} not found")
    return path if isinstance(state, Waiting) else previous(path)


def asked(query: Mapping[str, str], *, now: float) -> Question:
    """The question of a query; the API server has looked at its values."""
    since = ""
    if query.get("sinceSeconds"):
        since = moment(int((now - int(query["sinceSeconds"])) * 1e9)).decode()
    elif (when := parse(query.get("sinceTime", ""))) is not None:
        since = moment(int(when * 1e9)).decode()
    stream = query.get("stream", "All").lower()
    return Question(
        tail=int(query["tailLines"]) if query.get("tailLines") else None,
        since=since,
        stream="" if stream == "all" else stream,
        limit=int(query["limitBytes"]) if query.get("limitBytes") else None,
        timestamps=query.get("timestamps") == "true",
    )


async def records(path: Path, question: Question) -> AsyncGenerator[bytes, None]:
    """What a file holds."""
    for piece in _shown(_tail(_text(path), question), question):
        yield piece


async def following(output: Output, question: Question) -> AsyncGenerator[bytes, None]:
    """What there is, then what comes, until the run ends."""
    with output.following():
        data, at, cuts = output.read(0, output.cuts)
        data = _tail(data, question)
        while True:
            for piece in _shown(data, question):
                yield piece
            if question.is_answered:
                return
            is_whole = cuts == output.cuts
            data, at, cuts = output.read(at, cuts)
            if data or not is_whole:
                continue
            if output.is_finished:
                return
            await output.changed()


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _tail(data: bytes, question: Question) -> bytes:
    return data if question.tail is None else data[tail_start(data, question.tail) :]


def _shown(data: bytes, question: Question) -> "list[bytes]":
    """Pieces of a size that a client can take."""
    pieces, piece = [], bytearray()
    for record in data.split(b"\n")[:-1]:
        piece += question.answer(record)
        if len(piece) >= BLOCK or question.is_answered:
            pieces.append(bytes(piece))
            piece.clear()
        if question.is_answered:
            return pieces
    return [*pieces, bytes(piece)] if piece else pieces


async def _played(
    worker: PodWorker, container: Container, question: Question, output: Output | None
) -> AsyncGenerator[bytes, None]:
    """A stand-in prints nothing: say what it is instead."""
    state = worker.record.containers[container.name].state
    started = state.started_at if isinstance(state, Running | Terminated) else 0.0
    ports = ", ".join(f"{x['port']}/{x['protocol']}" for x in listeners(worker.pod, container))
    text = (
        f"kubewire stand-in for image {container.image}: answers on {ports or 'no port'}; "
        "no image was pulled"
    )
    record = moment(int(started * 1e9)) + b" stdout F " + text.encode() + b"\n"
    for piece in _shown(record if question.tail != 0 else b"", question):
        yield piece
    while output is not None and not output.is_finished:
        await output.changed()
