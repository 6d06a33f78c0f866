"""The process: signals, reloads under load, errors at the start."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
Bytes = Callable[..., bytes]

HEALTH = "health 127.0.0.1:8080 {\n lameduck 1s\n }"


def corefile(address: str, *lines: str, ttl: int = 60) -> str:
    extra = "\n".join(lines)
    return f""".:53 {{
    {extra}
    prometheus 127.0.0.1:9153
    hosts {{
        {address} web.example.org
        ttl {ttl}
    }}
}}
"""


class Running:
    """The process and its output."""

    def __init__(self, process: asyncio.subprocess.Process, file: Path) -> None:
        self.process = process
        self.file = file
        self.lines: list[str] = []

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def said(self, pattern: str) -> str:
        """Wait for a line."""
        assert self.process.stdout
        while True:
            for line in self.lines:
                if re.search(pattern, line):
                    return line
            line = (await asyncio.wait_for(self.process.stdout.readline(), 30)).decode()
            assert line, self.lines
            self.lines.append(line)


@asynccontextmanager
async def running(file: Path, text: str) -> AsyncIterator[Running]:
    await asyncio.to_thread(file.write_text, text)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kubewire", "dns", "--conf", str(file),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        found = Running(process, file)
        await found.said(r"^\.:53")
        yield found
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Client(asyncio.DatagramProtocol):
    """Asks and matches answers by id."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._next = 0
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._waiting.pop(int.from_bytes(data[:2], "big")).set_result(data)

    async def ask(self, question: bytes) -> bytes:
        self._next = (self._next + 1) & 0xFFFF
        future = self._waiting[self._next] = asyncio.get_running_loop().create_future()
        self.transport.sendto(self._next.to_bytes(2, "big") + question[2:])
        return await asyncio.wait_for(future, 20)


@asynccontextmanager
async def client() -> AsyncIterator[Client]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        Client, remote_addr=("127.0.0.1", 53)
    )
    try:
        yield protocol
    finally:
        transport.close()


async def test_no_question_is_lost_while_the_file_changes(tmp_path: Path, ask_bytes: Bytes) -> None:
    """Asked without a pause over six reloads, known and new names alike."""
    known = ask_bytes("web.example.org.")
    async with running(tmp_path / "Corefile", corefile("10.0.0.0")) as dns, client() as asker:
        stop, last = asyncio.Event(), asyncio.Event()
        answers = [await asker.ask(known)]

        async def ask_on(number: int) -> None:
            while not stop.is_set():
                answers.append(await asker.ask(known))
                if answers[-1][-1] == 6:
                    last.set()
                await asker.ask(ask_bytes(f"n{number}-{len(answers)}.example.org."))

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(ask_on(number))
            for i in range(1, 7):
                dns.file.write_text(corefile(f"10.0.0.{i}"))
                dns.signal(signal.SIGUSR1)
                await dns.said("Reloading complete")
                dns.lines.clear()
            # Whoever asks on is answered by the last file, too.
            await last.wait()
            stop.set()
        assert (await asker.ask(known)).endswith(bytes((10, 0, 0, 6)))
        assert {0, 6} <= {a[-1] for a in answers} <= set(range(7))
        assert await _metric("coredns_dns_requests_total") >= len(answers)


async def _metric(name: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", 9153)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    page = (await reader.read()).decode()
    writer.close()
    return sum(int(float(x.split()[-1])) for x in page.splitlines() if x.startswith(name + "{"))


async def test_a_bad_file_leaves_the_old_one_running(tmp_path: Path, ask_bytes: Bytes) -> None:
    question = ask_bytes("web.example.org.")
    async with running(tmp_path / "Corefile", corefile("10.0.0.1")) as dns, client() as asker:
        for bad, why in (
            (corefile("10.0.0.2", "nonsense"), r"Corefile:2 - .*Unknown directive 'nonsense'"),
            (corefile("10.0.0.2", "cache x y z {\n bad\n }"), "plugin/cache"),
            (".:53 {\n whoami\n}\ntls://.:853 {\n whoami\n}\n", "the tls plugin is missing"),
        ):
            dns.file.write_text(bad)
            dns.signal(signal.SIGUSR1)
            line = await dns.said("reload failed")
            assert re.search(why, line), line
            dns.lines.clear()
            assert (await asker.ask(question)).endswith(bytes((10, 0, 0, 1)))
        dns.file.write_text(corefile("10.0.0.3"))
        dns.signal(signal.SIGUSR1)
        await dns.said("Reloading complete")
        assert (await asker.ask(question)).endswith(bytes((10, 0, 0, 3)))


async def test_the_reload_plugin_notices_by_itself(tmp_path: Path, ask_bytes: Bytes) -> None:
    question = ask_bytes("web.example.org.")
    text = corefile("10.0.0.1", "reload 2s 1s")
    async with running(tmp_path / "Corefile", text) as dns, client() as asker:
        assert (await asker.ask(question)).endswith(bytes((10, 0, 0, 1)))
        dns.file.write_text(corefile("10.0.0.2", "reload 2s 1s"))
        await dns.said("Reloading complete")
        assert (await asker.ask(question)).endswith(bytes((10, 0, 0, 2)))


async def test_the_lame_duck_answers_until_its_time_is_over(
    tmp_path: Path, ask_bytes: Bytes
) -> None:
    question = ask_bytes("web.example.org.")
    async with running(tmp_path / "Corefile", corefile("10.0.0.1", HEALTH)) as dns:
        async with client() as asker:
            assert await asker.ask(question)
            dns.signal(signal.SIGTERM)
            await dns.said("SIGTERM: Shutting down servers then terminating")
            await dns.said("plugin/health: Going into lameduck mode for 1s")
            began = time.monotonic()
            answered = 0
            while time.monotonic() - began < 0.5:
                assert await asker.ask(question)
                answered += 1
            assert answered
        assert await asyncio.wait_for(dns.process.wait(), 30) == 0
        assert time.monotonic() - began >= 1


async def test_a_bad_file_is_told_once(tmp_path: Path) -> None:
    text = corefile("10.0.0.1", "reload 2s 0s")
    async with running(tmp_path / "Corefile", text) as dns:
        dns.file.write_text(corefile("10.0.0.2", "nonsense"))
        await dns.said("reload failed.*nonsense")
        # The second one is seen by a later look at the file; the first was looked at again until then.
        dns.file.write_text(corefile("10.0.0.2", "rubbish"))
        await dns.said("reload failed.*rubbish")
        dns.file.write_text(corefile("10.0.0.3", "reload 2s 0s"))
        await dns.said("Reloading complete")
        assert len([x for x in dns.lines if "reload failed" in x]) == 2


async def test_a_loop_ends_the_process(tmp_path: Path) -> None:
    text = ".:53 {\n loop\n forward . 127.0.0.1:53\n}\n"
    async with running(tmp_path / "Corefile", text) as dns:
        line = await dns.said("plugin/loop")
        assert re.match(
            r'\[FATAL\] plugin/loop: Loop \(127\.0\.0\.1:\d+ -> :53\) detected for zone "\.", see ',
            line,
        )
        assert await asyncio.wait_for(dns.process.wait(), 30) == 1


async def test_hangup_is_ignored_and_quit_is_at_once(tmp_path: Path, ask_bytes: Bytes) -> None:
    async with running(tmp_path / "Corefile", corefile("10.0.0.1", HEALTH)) as dns:
        dns.signal(signal.SIGHUP)
        async with client() as asker:
            assert await asker.ask(ask_bytes("web.example.org."))
        dns.signal(signal.SIGQUIT)
        assert await asyncio.wait_for(dns.process.wait(), 30) == 0


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (".:53 {\n nonsense\n}", r"^\S*Corefile:2 - Error during parsing: Unknown directive 'nonsense'$"),
        (".:53 {\n kubernetes cluster.local {\n  bad\n }\n}", r"^plugin/kubernetes: \S*Corefile:3 - Error during parsing: unknown property 'bad'$"),
        (".:53 {\n tls a.pem b.pem\n}", r"^plugin/tls: could not load TLS cert: "),
    ],
)  # fmt: skip
async def test_errors_name_file_line_and_plugin(tmp_path: Path, text: str, pattern: str) -> None:
    file = tmp_path / "Corefile"
    file.write_text(text)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kubewire", "dns", "--conf", str(file),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert re.search(pattern, err.decode(), re.MULTILINE), err.decode()
