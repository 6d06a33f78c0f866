"""The server's own rules, over real sockets."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest

from kubewire.lang.dns import codes
from kubewire.lang.dns.message import QR, TC, Edns, parse

Serve = Any
Bytes = Callable[..., bytes]

WEB = {
    "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
    "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]},
}  # fmt: skip
HEADLESS = {
    "apiVersion": "v1", "kind": "Service", "metadata": {"name": "big", "namespace": "default"},
    "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]},
}  # fmt: skip
SLICE = {
    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
    "metadata": {"name": "big-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "big"}},
    "endpoints": [{"addresses": [f"10.244.0.{i}"]} for i in range(1, 101)],
    "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
}  # fmt: skip
OBJECTS = [WEB, HEADLESS, SLICE]
COREFILE = ".:0 {\n kubernetes cluster.local\n}\n"
NAME = "web.default.svc.cluster.local."
BIG = "big.default.svc.cluster.local."


async def test_udp_and_tcp_answer_alike(serve: Serve, ask_bytes: Bytes) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        first, second = await dns.ask(NAME), await dns.ask(NAME, id=99)
        [third] = await dns.tcp(ask_bytes(NAME, id=5))
        assert first.answer == second.answer == third.answer
        assert (first.id, second.id, third.id) == (1234, 99, 5)
        assert first.flags == 0x8500
        assert first.edns is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
async def test_the_answer_comes_from_the_address_that_was_asked(
    serve: Serve, ask_bytes: Bytes, host: str
) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        # A connected socket takes nothing from another address.
        for _ in range(2):
            assert parse(await dns.raw(ask_bytes(NAME), host)).answer


async def test_spelling_and_id_of_replayed_answers(serve: Serve) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        for spelled in (
            NAME,
            "WEB.default.SVC.cluster.local.",
            NAME,
            "WEB.default.SVC.cluster.local.",
        ):
            found = await dns.ask(spelled, id=7)
            assert found.question and found.question.name == spelled
            assert found.answer[0].name == spelled


@pytest.mark.parametrize(
    ("size", "limit"), [(None, 512), (100, 512), (512, 512), (1232, 1232), (4096, 4096)]
)
async def test_truncation(serve: Serve, ask_bytes: Bytes, size: int | None, limit: int) -> None:
    edns = None if size is None else Edns(size, True)
    async with serve(COREFILE, OBJECTS) as dns:
        for _ in range(2):
            data = await dns.raw(ask_bytes(BIG, edns=edns))
            found = parse(data)
            assert len(data) <= limit
            assert bool(found.flags & TC) == (len(found.answer) < 100)
            assert (found.edns is None) == (size is None)
            if found.edns:
                assert (found.edns.size, found.edns.do) == (size, True)
        [whole] = await dns.tcp(ask_bytes(BIG))
        assert len(whole.answer) == 100


async def test_options_that_come_back(serve: Serve, ask_bytes: Bytes) -> None:
    options = ((10, b"12345678"), (8, b"\0\1\x18\0\1\2\3"), (3, b""), (65001, b"x"), (12, b"\0"))
    async with serve(COREFILE, OBJECTS) as dns:
        found = parse(await dns.raw(ask_bytes(NAME, edns=Edns(1232, options=options))))
        assert found.edns and found.edns.options == ((10, b"12345678"), (3, b""), (12, b"\0"))
        found = parse(await dns.raw(ask_bytes(NAME, edns=Edns(1232, version=1))))
        assert found.rcode == codes.BADVERS


def _header(flags: int = 0x0100, *counts: int) -> bytes:
    return struct.pack("!6H", 77, flags, *(counts or (1, 0, 0, 0)))


BODY = b"\x01a\0\0\1\0\1"
OPT = b"\0\0\x29\4\xd0\0\0\0\0"
SIGNATURE = b"\1k\0\0\xfa\0\xff\0\0\0\0\0\3abc"


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (_header(0x0100, 0, 0, 0, 0), codes.FORMERR),
        (_header(0x0100, 2, 0, 0, 0) + BODY * 2, codes.FORMERR),
        (_header(0x0100, 1, 2, 0, 0) + BODY, codes.FORMERR),
        (_header(0x0100, 1, 0, 2, 0) + BODY, codes.FORMERR),
        (_header(0x0100, 1, 0, 0, 3) + BODY, codes.FORMERR),
        (_header(), codes.FORMERR),
        (_header() + b"\xc0\x0c\0\1\0\1", codes.FORMERR),
        (_header() + b"\x3f" + b"a" * 10, codes.FORMERR),
        (_header(0x1000) + BODY, codes.NOTIMP),
        (_header(0x2800) + BODY, codes.NOTIMP),
        (_header(0x7800) + BODY, codes.NOTIMP),
        (_header() + b"\x01a\0\0\1\0\3", codes.REFUSED),
    ],
)
async def test_what_is_refused(serve: Serve, data: bytes, rcode: int) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        found = parse(await dns.raw(data))
        assert (found.id, found.rcode, found.flags & QR) == (77, rcode, QR)


@pytest.mark.parametrize(
    ("data", "flags", "question"),
    [
        # The question comes back if it can be read, other flags than AA too, an OPT record does not.
        (_header(0x0130, 1, 0, 0, 1) + BODY + OPT + b"\0\5\0\x09\0\1\0", 0x8131, BODY),
        (_header(0x2400, 1, 0, 0, 1) + BODY + OPT + b"\0\5\0\x0b\0\1\0", 0x8001, BODY),
        (_header(0x0100, 1, 0, 0, 1) + BODY + SIGNATURE, 0x8101, BODY),
        (_header(0x0100, 1, 0, 0, 0) + BODY[:-1], 0x8101, b""),
        (_header(0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", 0x8101, b""),
        (_header(0x2D30, 1, 0, 0, 0) + BODY, 0xA934, b""),
    ],
)  # fmt: skip
async def test_what_refusals_hold(serve: Serve, data: bytes, flags: int, question: bytes) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        count = 1 if question else 0
        assert await dns.raw(data) == struct.pack("!6H", 77, flags, count, 0, 0, 0) + question


@pytest.mark.parametrize("option", [(9, bytes(3)), (11, bytes(1)), (11, bytes(3))])
async def test_malformed_options_are_seen_behind_kept_answers(
    serve: Serve, ask_bytes: Bytes, option: tuple[int, bytes]
) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        for options, rcode in (((), codes.NOERROR), ((option,), codes.FORMERR)) * 2:
            asked = ask_bytes(NAME, edns=Edns(1232, options=options))
            assert parse(await dns.raw(asked)).rcode == rcode


async def test_an_answer_to_notify_has_no_flags_of_queries(serve: Serve, ask_bytes: Bytes) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        asked = bytearray(ask_bytes(NAME))
        asked[2:4] = b"\x21\x10"
        assert parse(await dns.raw(bytes(asked))).flags & 0x0110 == 0


@pytest.mark.parametrize("data", [b"", b"\0" * 11, _header(0x8000) + BODY])
async def test_silence(serve: Serve, ask_bytes: Bytes, data: bytes) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        loop = asyncio.get_running_loop()
        silent = asyncio.ensure_future(dns.raw(data))
        # The server works in order: once it has answered this, it has passed over the other.
        while not (await dns.ask(NAME)).answer:
            pass
        assert not silent.done()
        silent.cancel()
        assert loop.is_running()


@pytest.mark.parametrize(
    ("text", "name", "rcode"),
    [
        ("example:0 {\n whoami\n}", "other.", codes.REFUSED),
        ("example:0 {\n}", "a.example.", codes.REFUSED),
        ("example:0 {\n cache\n}", "a.example.", codes.SERVFAIL),
        ("example:0 {\n whoami\n}", "a.example.", codes.NOERROR),
        ("example:0 {\n whoami\n}", "notexample.", codes.REFUSED),
    ],
)
async def test_choice_of_block(serve: Serve, text: str, name: str, rcode: int) -> None:
    async with serve(text, []) as dns:
        assert (await dns.ask(name)).rcode == rcode


async def test_tcp_is_pipelined_and_out_of_order(serve: Serve, ask_bytes: Bytes) -> None:
    text = """example:0 {
        erratic {
            drop 0
            delay 1 200ms
        }
    }
    cluster.local:0 {
        kubernetes cluster.local
    }"""
    async with serve(text, OBJECTS) as dns:
        slow, fast = ask_bytes("a.example.", id=1), ask_bytes(NAME, id=2)
        found = await dns.tcp(slow, fast)
        assert [m.id for m in found] == [2, 1]


async def test_tcp_message_in_pieces(serve: Serve, ask_bytes: Bytes) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        reader, writer = await asyncio.open_connection("127.0.0.1", dns.port)
        data = ask_bytes(NAME)
        for byte in struct.pack("!H", len(data)) + data:
            writer.write(bytes((byte,)))
            await writer.drain()
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        assert parse(await reader.readexactly(length)).answer
        writer.close()
        await writer.wait_closed()


async def test_tcp_idle_connections_are_closed(serve: Serve) -> None:
    text = ".:0 {\n kubernetes cluster.local\n timeouts {\n read 1s\n idle 1s\n }\n}"
    async with serve(text, OBJECTS) as dns:
        reader, writer = await asyncio.open_connection("127.0.0.1", dns.port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_reload_keeps_the_socket_and_swaps_the_answers(
    serve: Serve, ask_bytes: Bytes
) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        port = dns.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await dns.ask(NAME)).answer[0].ttl == 5
        await dns.server.load(dns.build(".:0 {\n kubernetes cluster.local {\n ttl 60\n }\n}"))
        assert dns.port == port
        assert (await dns.ask(NAME)).answer[0].ttl == 60
        data = ask_bytes(NAME)
        writer.write(struct.pack("!H", len(data)) + data)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        assert parse(await reader.readexactly(length)).answer[0].ttl == 60
        writer.close()
        await writer.wait_closed()


async def test_a_configuration_that_cannot_start_changes_nothing(serve: Serve) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        with pytest.raises(OSError, match="tls plugin is missing"):
            await dns.server.load(dns.build("quic://.:0 {\n whoami\n}"))
        assert (await dns.ask(NAME)).answer


async def test_a_plugin_that_fails_costs_one_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubewire.dns.plugins.whoami import Whoami

    async def fail(self: Whoami, request: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Whoami, "serve", fail)
    async with serve("example:0 {\n whoami\n}\ncluster.local:0 {\n kubernetes\n}", OBJECTS) as dns:
        assert (await dns.ask("a.example.")).rcode == codes.SERVFAIL
        assert (await dns.ask(NAME)).answer


async def test_hundreds_at_once(serve: Serve) -> None:
    objects = [
        {**WEB, "metadata": {"name": f"s{i}", "namespace": "default"}, "spec": {"clusterIP": f"10.97.0.{i}", "ports": []}}
        for i in range(250)
    ]  # fmt: skip
    async with serve(COREFILE, objects) as dns:
        for _ in range(2):
            found = await asyncio.gather(
                *(dns.ask(f"s{i}.default.svc.cluster.local.", id=i + 1) for i in range(250))
            )
            assert [(m.id, m.answer[0].rdata) for m in found] == [
                (i + 1, (bytes((10, 97, 0, i)),)) for i in range(250)
            ]
