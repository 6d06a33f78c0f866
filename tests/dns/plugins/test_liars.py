"""Upstreams that lie or stammer: what reaches the client, and that no wrong answer is kept."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest

from kubewire.lang.dns import codes
from kubewire.lang.dns.message import parse

pytestmark = pytest.mark.kernel

COREFILE = """.:0 {
    cache
    forward . 127.0.0.1:1053 {
        max_fails 0
        max_connect_attempts 1
        read_timeout 50ms
    }
}
"""
NAME = b"\1a\4test\0"
OTHER = b"\6victim\4test\0"
A = 1


def record(
    rdata: bytes, name: bytes = b"\xc0\x0c", rtype: int = A, rclass: int = 1, ttl: int = 60
) -> bytes:
    return name + struct.pack("!HHIH", rtype, rclass, ttl, len(rdata)) + rdata


def said(
    *records: bytes, flags: int = 0x8180, question: bytes = NAME + b"\0\1\0\1", extra: bytes = b""
) -> Callable[[bytes], bytes]:
    counts = struct.pack("!HHHHH", flags, 1, len(records), 0, bool(extra))
    return lambda asked: asked[:2] + counts + question + b"".join(records) + extra


GOOD = record(b"\1\2\3\4")
EXTENDED = b"\0" + struct.pack("!HHIH", 41, 1232, 0x01000000, 0)
"""An OPT that makes NOERROR a BADVERS."""
ROWS: list[tuple[str, Callable[[bytes], bytes], str, int, bool]] = [
    # what it says: rcode and number of answers for the client, whether the second one is kept
    ("the truth", said(GOOD), "NOERROR", 1, True),
    ("a question", said(GOOD, flags=0x0180), "SERVFAIL", 0, False),
    ("another operation", said(GOOD, flags=0xA980), "SERVFAIL", 0, False),
    ("an answer to another question", said(GOOD, question=OTHER + b"\0\1\0\1"), "SERVFAIL", 0, False),
    ("an answer to another type", said(GOOD, question=NAME + b"\0\x1c\0\1"), "SERVFAIL", 0, False),
    ("about somebody else only", said(record(b"\6\6\6\6", OTHER)), "NOERROR", 1, False),
    ("of another type only", said(record(b"x", rtype=65280)), "NOERROR", 1, False),
    ("of another class only", said(record(b"\6\6\6\6", rclass=3)), "NOERROR", 1, False),
    ("a link to nowhere", said(record(OTHER, rtype=5)), "NOERROR", 1, False),
    ("a link to itself", said(record(b"\xc0\x0c", rtype=5)), "NOERROR", 1, False),
    ("a link and its target", said(record(OTHER, rtype=5), record(b"\1\2\3\4", OTHER)), "NOERROR", 2, True),
    ("an address that is too short", said(record(b"\1\2\3")), "SERVFAIL", 0, False),
    ("an address that is too long", said(record(b"\1\2\3\4\5")), "SERVFAIL", 0, False),
    ("no address", said(record(b"")), "SERVFAIL", 0, False),
    ("a text that ends too early", said(record(b"\x09abc", rtype=16)), "SERVFAIL", 0, False),
    ("a name that points to itself", said(record(b"\1\2\3\4", b"\xc0\x18")), "SERVFAIL", 0, False),
    ("a name that points behind the end", said(record(b"\xc0\xff", rtype=5)), "SERVFAIL", 0, False),
    ("fewer records than it counts", lambda q: said(GOOD, GOOD)(q)[:-16], "SERVFAIL", 0, False),
    ("a code that needs EDNS", said(extra=EXTENDED), "SERVFAIL", 0, True),
    ("half of it", said(GOOD, flags=0x8380), "NOERROR", 1, False),
    ("a denial without SOA", said(flags=0x8183), "NXDOMAIN", 0, False),
    ("nothing at all", lambda q: b"", "SERVFAIL", 0, False),
    ("noise", lambda q: q[:2] + b"\x81\x80" + b"\xff" * 40, "SERVFAIL", 0, False),
    ("REFUSED", said(flags=0x8185), "REFUSED", 0, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("says", "rcode", "count", "kept"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
async def test_what_comes_of_it(
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    says: Callable[[bytes], bytes],
    rcode: str,
    count: int,
    kept: bool,
) -> None:
    asked: list[bytes] = []

    class Liar(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            asked.append(data)
            self.transport.sendto(says(data), addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Liar, local_addr=("127.0.0.1", 1053))
    question = bytes.fromhex("002a01000001000000000000") + NAME + b"\0\1\0\1"
    async with serve(COREFILE) as dns:
        for _ in range(2):
            data = await dns.raw(question)
            answer = parse(data)
            assert codes.rcode_name(answer.rcode) == rcode
            assert len(answer.answer) == count
        assert len(asked) == (1 if kept else 2)
    transport.close()
    assert not [r for r in caplog.records if r.exc_info]
