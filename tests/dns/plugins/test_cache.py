"""cache: answers that are too old, while what is behind it answers, fails or says nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kubewire.dns.plugins.cache import Cache
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import AA, QR, Message, encode, parse
from kubewire.lang.dns.record import address

pytestmark = pytest.mark.kernel

COREFILE = """.:0 {
    cache {
        OPTIONS
    }
    forward . 127.0.0.1:1053 {
        max_fails 0
        max_connect_attempts 1
        read_timeout READ
    }
}
"""


class Upstream(asyncio.DatagramProtocol):
    """Answers with its address, fails, or says nothing."""

    says: str = "192.0.2.1"
    asked: int = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked += 1
        message = parse(data)
        assert message.question is not None
        answer = Message(message.id, QR | AA, message.question)
        if self.says in codes.RCODES:
            answer.flags |= codes.RCODES[self.says]
        elif self.says:
            answer.answer = [address(message.question.name, 60, self.says)]
        if self.says:
            self.transport.sendto(encode(answer), addr)


class World:
    """A server, what is behind it, and its clock."""

    def __init__(self, dns: Any, upstream: Upstream) -> None:
        self.dns, self.upstream = dns, upstream
        self.now = 1000.0
        [cache] = [p for p in dns.server.configuration.plugins if isinstance(p, Cache)]
        cache.clock = lambda: self.now

    async def ask(self) -> str:
        """Rcode, TTL and address. The table would answer by a clock of its own."""
        for dispatcher in self.dns.server.configuration.dispatchers:
            dispatcher.tables["udp"].clear()
        found = await self.dns.ask("a.test.")
        rows = [f" {r.ttl} {'.'.join(map(str, r.rdata[0]))}" for r in found.answer]
        return codes.rcode_name(found.rcode) + "".join(rows)


@asynccontextmanager
async def world(serve: Any, options: str, read: str = "2s") -> AsyncIterator[World]:
    loop = asyncio.get_running_loop()
    transport, upstream = await loop.create_datagram_endpoint(
        Upstream, local_addr=("127.0.0.1", 1053)
    )
    async with serve(COREFILE.replace("OPTIONS", options).replace("READ", read)) as dns:
        yield World(dns, upstream)
    transport.close()


OLD, NEW = "NOERROR 60 192.0.2.1", "NOERROR 60 192.0.2.2"
ROWS = [
    # options, what the upstream says later, the answer then
    ("", "192.0.2.2", NEW),
    ("", "SERVFAIL", "SERVFAIL"),
    ("serve_stale", "192.0.2.2", "NOERROR 0 192.0.2.1"),
    ("serve_stale 1h immediate 30s", "192.0.2.2", "NOERROR 30 192.0.2.1"),
    ("serve_stale 10s", "SERVFAIL", "SERVFAIL"),
    ("serve_stale 1h verify", "192.0.2.2", NEW),
    ("serve_stale 1h verify", "SERVFAIL", "NOERROR 0 192.0.2.1"),
    ("serve_stale 1h verify", "NXDOMAIN", "NXDOMAIN"),
    ("serve_stale 1h verify 0 30s", "REFUSED", "NOERROR 30 192.0.2.1"),
    ("serve_stale 1h verify 50ms 30s", "", "NOERROR 30 192.0.2.1"),
]


@pytest.mark.parametrize(("options", "later", "expected"), ROWS)
async def test_too_old(serve: Any, options: str, later: str, expected: str) -> None:
    async with world(serve, options) as w:
        assert await w.ask() == OLD
        w.now += 61
        w.upstream.says = later
        if options != "serve_stale 10s":
            assert await w.ask() == expected
            return
        w.now += 10
        assert await w.ask() == expected


async def test_a_failure_does_not_hide_an_answer(serve: Any) -> None:
    """Neither while it is stale nor after a SERVFAIL was kept."""
    async with world(serve, "serve_stale") as w:
        await w.ask()
        w.now += 61
        w.upstream.says = "SERVFAIL"
        for _ in range(3):
            assert await w.ask() == "NOERROR 0 192.0.2.1"


async def test_what_failed_is_asked_again_later(serve: Any) -> None:
    async with world(serve, "serve_stale 1h verify 0 30s 10s") as w:
        await w.ask()
        w.now += 61
        w.upstream.says = "REFUSED"
        for _ in range(3):
            assert await w.ask() == "NOERROR 30 192.0.2.1"
        assert w.upstream.asked == 2
        w.now += 11
        w.upstream.says = "192.0.2.2"
        assert await w.ask() == NEW


async def test_a_late_answer_is_for_the_next(serve: Any) -> None:
    async with world(serve, "serve_stale 1h verify 20ms", read="200ms") as w:
        await w.ask()
        w.now += 61
        w.upstream.says = ""
        assert await w.ask() == "NOERROR 0 192.0.2.1"
        w.upstream.says = "192.0.2.2"
        while await w.ask() != NEW:
            pass
