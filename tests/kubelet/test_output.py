"""What a program prints, through pipes and a terminal, into its log."""

import asyncio
import os
from pathlib import Path

import pytest

from kubewire.kernel import process, terminal
from kubewire.kubelet.logs import Question
from kubewire.kubelet.output import Output, previous
from kubewire.kubelet.serving.logs import following, records


async def run(output: Output, script: str) -> int:
    """A shell script that prints there."""
    with output.pipes() as (fed, out, err):
        child = process.spawn(["sh", "-c", script], stdin=fed, stdout=out, stderr=err)
    code = await child.wait()
    output.finish()
    return code


def lines(path: Path) -> list[bytes]:
    return [line.partition(b" ")[2] for line in path.read_bytes().splitlines()]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def shown(path: Path) -> bytes:
    return b"".join([piece async for piece in records(path, Question())])


async def followed(output: Output) -> bytes:
    return b"".join([piece async for piece in following(output, Question())])


async def test_both_streams_and_the_end_without_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "c.log"
    assert await run(Output(path), "echo out; echo err >&2; printf end; exit 3") == 3
    assert sorted(lines(path)) == [b"stderr F err", b"stdout F out", b"stdout P end"]


async def test_the_run_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    for number in range(3):
        await run(Output(path), f"echo {number}")
    assert (await shown(path), await shown(previous(path))) == (b"2\n", b"1\n")


async def test_what_cannot_start_leaves_nothing_open(tmp_path: Path) -> None:
    output = Output(tmp_path / "c.log")
    before = open_files()
    with pytest.raises(OSError, match="no"), output.pipes(stdin=True):
        raise OSError("no")
    assert open_files() == before
    assert output.is_finished


async def test_following_goes_on_over_cuts(tmp_path: Path) -> None:
    output = Output(tmp_path / "c.log", most=2000)
    with output.pipes() as (_, out, _):
        printing = os.dup(out)
    following = asyncio.create_task(followed(output))
    for number in range(200):
        os.write(printing, b"line %d\n" % number)
        await output.changed()
    os.close(printing)
    output.finish()
    assert await following == b"".join(b"line %d\n" % number for number in range(200))
    assert output.cuts > 1
    assert output.path.stat().st_size <= 2000


async def test_following_ends_with_the_run_though_the_next_one_takes_its_file(
    tmp_path: Path,
) -> None:
    output = Output(tmp_path / "c.log")
    with output.pipes() as (_, out, _):
        printing = os.dup(out)
    await asyncio.sleep(0)
    reading = asyncio.create_task(followed(output))
    await asyncio.sleep(0)
    os.write(printing, b"last words\n")
    os.close(printing)
    output.finish()
    again = Output(output.path)
    with again.pipes() as (_, out, _):
        os.write(out, b"another run\n")
    again.finish()
    assert await reading == b"last words\n"
    assert (await shown(output.path), await shown(previous(output.path))) == (
        b"another run\n",
        b"last words\n",
    )


async def test_a_terminal_shows_and_takes_what_is_typed(tmp_path: Path) -> None:
    output = Output(tmp_path / "c.log")
    with output.pipes(stdin=True, tty=True) as (fed, out, err):
        child = process.spawn(
            ["sh", "-c", "read size; stty size; test -t 1 && echo tty"],
            stdin=fed, stdout=out, stderr=err, prepare=terminal.take,
        )  # fmt: skip
    output.resize(90, 30)
    writer = await output.input()
    assert writer is not None
    writer.write(b"go\r")
    assert await child.wait() == 0
    output.finish()
    assert (await shown(output.path)).replace(b"\r", b"") == b"go\n30 90\ntty\n"


async def test_listeners_hear_it_at_once(tmp_path: Path) -> None:
    output, heard = Output(tmp_path / "c.log"), []
    with output.listening(lambda stream, data: heard.append((stream, data))):
        await run(output, "printf prompt")
    assert heard == [("stdout", b"prompt")]
