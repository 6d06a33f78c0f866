"""forward: real questions to real upstreams (the other tests of the plugins stay offline)."""

import asyncio
import base64
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp import web

from kubewire.dns.config import Environment, build
from kubewire.dns.plugins.forward.upstream import KEPT, OPENED
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import QR, Edns, Message, encode, parse
from kubewire.lang.dns.record import address, rdata_text

pytestmark = pytest.mark.kernel
Serve = Callable[..., AbstractAsyncContextManager[Any]]

UPSTREAM = """.:1053 {
    template IN A a.test {
        answer "{{ .Name }} 60 IN A 192.0.2.1"
    }
    template IN ANY gone.test {
        rcode NXDOMAIN
    }
    template IN ANY refused.test {
        rcode REFUSED
    }
    template IN TXT long.test {
        answer "{{ .Name }} 60 IN TXT \\"%s\\" \\"%s\\" \\"%s\\""
    }
    template IN A nodata.test {
        rcode NOERROR
    }
}
""" % (("x" * 250,) * 3)
SECOND = """.:1054 {
    template IN A . {
        answer "{{ .Name }} 60 IN A 192.0.2.2"
    }
}
"""
DEAD = "127.0.0.1:1"


def answer(message: Message) -> str:
    return f"{codes.rcode_name(message.rcode)} {' '.join(map(rdata_text, message.answer))}".strip()


PLAIN = [
    ("", "a.test.", "NOERROR 192.0.2.1"),
    ("", "x.gone.test.", "NXDOMAIN"),
    ("force_tcp", "a.test.", "NOERROR 192.0.2.1"),
    ("prefer_udp", "a.test.", "NOERROR 192.0.2.1"),
    ("read_timeout 500ms", "a.test.", "NOERROR 192.0.2.1"),
    ("source_address 127.0.0.7", "a.test.", "NOERROR 192.0.2.1"),
    ("source_address 127.0.0.7\n force_tcp", "a.test.", "NOERROR 192.0.2.1"),
    ("except a.test", "a.test.", "SERVFAIL"),
    ("max_concurrent 1", "a.test.", "NOERROR 192.0.2.1"),
]


@pytest.mark.parametrize(("options", "name", "expected"), PLAIN)
async def test_an_upstream_is_asked(serve: Serve, options: str, name: str, expected: str) -> None:
    async with serve(UPSTREAM) as upstream:
        text = f".:1055 {{\n forward . 127.0.0.1:{upstream.port} {{\n {options}\n }}\n}}"
        async with serve(text) as running:
            assert answer(await running.ask(name)) == expected


async def test_what_is_cut_by_udp_comes_whole_by_tcp(serve: Serve, ask_bytes: Any) -> None:
    forward = ".:1055 {\n forward . 127.0.0.1:1053\n}"
    async with serve(UPSTREAM), serve(forward) as running:
        cut = await running.ask("long.test.", "TXT")
        assert cut.flags & 0x0200
        [whole] = await running.tcp(ask_bytes("long.test.", "TXT"))
        assert not whole.flags & 0x0200
        assert len(whole.answer) == 1


MORE = [
    ("policy sequential", "a.test.", "NOERROR 192.0.2.1"),
    ("policy sequential\n failover NXDOMAIN", "x.gone.test.", "NOERROR 192.0.2.2"),
    ("policy sequential\n failover REFUSED", "x.gone.test.", "NXDOMAIN"),
]


@pytest.mark.parametrize(("options", "name", "expected"), MORE)
async def test_policies(serve: Serve, options: str, name: str, expected: str) -> None:
    async with serve(UPSTREAM) as one, serve(SECOND) as two:
        to = f"127.0.0.1:{one.port} 127.0.0.1:{two.port}"
        async with serve(f".:1055 {{\n forward . {to} {{\n {options}\n }}\n}}") as running:
            assert answer(await running.ask(name)) == expected


@pytest.mark.parametrize(
    ("option", "name", "expected"),
    [
        ("next NXDOMAIN", "x.gone.test.", "NOERROR 192.0.2.2"),
        ("next REFUSED", "x.gone.test.", "NXDOMAIN"),
        ("next_on_nodata", "nodata.test.", "NOERROR 192.0.2.2"),
    ],
)
async def test_the_next_stanza(serve: Serve, option: str, name: str, expected: str) -> None:
    async with serve(UPSTREAM) as one, serve(SECOND) as two:
        text = (
            f".:1055 {{\n forward . 127.0.0.1:{one.port} {{\n {option}\n }}\n"
            f" forward . 127.0.0.1:{two.port}\n}}"
        )
        async with serve(text) as running:
            assert answer(await running.ask(name)) == expected


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A certificate of dns.test in a folder."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "3650", "-subj", "/CN=dns.test", "-keyout", "key.pem"]
    command += ["-out", "cert.pem", "-addext", "subjectAltName=DNS:dns.test"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


ENCRYPTED = [
    ("tls", "", "tcp-tls"),
    ("https", "", "https"),
    ("https", "doh_method GET", "https"),
]


@pytest.mark.tool("openssl")
@pytest.mark.parametrize(("scheme", "option", "proto"), ENCRYPTED)
async def test_encrypted_upstreams_are_asked_over_one_connection(
    serve: Serve, keys: Path, scheme: str, option: str, proto: str
) -> None:
    upstream = f"{scheme}://.:1853 {{\n tls {keys}/cert.pem {keys}/key.pem\n{UPSTREAM.partition(chr(10))[2]}"
    text = f""".:1055 {{
        forward . {scheme}://127.0.0.1:1853 {{
            tls {keys}/cert.pem
            tls_servername dns.test
            {option}
        }}
    }}"""
    async with serve(upstream), serve(text) as running:
        for name, expected in (("a.test.", "NOERROR 192.0.2.1"), ("x.gone.test.", "NXDOMAIN")):
            for _ in range(2):
                assert answer(await running.ask(name)) == expected
        labels = ("forward", "127.0.0.1:1853", proto)
        book = running.env.metrics
        assert (book.get(OPENED, *labels), book.get(KEPT, *labels)) == (1, 3)


@pytest.fixture
async def http1(keys: Path) -> AsyncIterator[list[tuple[str, str]]]:
    """A server of DNS over HTTP/1.1 only, at port 1853; methods and media types of its requests."""
    seen: list[tuple[str, str]] = []

    async def serve_one(request: web.BaseRequest) -> web.Response:
        seen.append((request.method, request.headers.get("accept", "")))
        text = request.url.query.get("dns", "")
        asked = await request.read() or base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if b"gone" in asked:
            return web.Response(status=503)
        reply = parse(asked)
        assert reply.question is not None
        reply.flags |= QR
        reply.answer = [address(reply.question.name, 60, "192.0.2.1")]
        return web.Response(body=encode(reply), content_type="application/dns-message")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "cert.pem", keys / "key.pem")
    context.set_alpn_protocols(["http/1.1"])
    runner = web.ServerRunner(web.Server(serve_one))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 1853, ssl_context=context).start()
    yield seen
    await runner.cleanup()


@pytest.mark.tool("openssl")
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_an_upstream_without_http2(
    serve: Serve, keys: Path, http1: list[tuple[str, str]], method: str
) -> None:
    text = f""".:1055 {{
        forward . https://127.0.0.1:1853 {{
            tls {keys}/cert.pem
            tls_servername dns.test
            doh_method {method}
            max_connect_attempts 1
        }}
    }}"""
    async with serve(text) as running:
        for _ in range(3):
            assert answer(await running.ask("a.test.")) == "NOERROR 192.0.2.1"
        labels = ("forward", "127.0.0.1:1853", "https")
        book = running.env.metrics
        assert (book.get(OPENED, *labels), book.get(KEPT, *labels)) == (1, 2)
        assert http1 == [(method, "application/dns-message")] * 3
        assert answer(await running.ask("gone.test.")) == "SERVFAIL"


@pytest.mark.tool("openssl")
@pytest.mark.parametrize("scheme", ["tls", "https"])
async def test_a_certificate_of_another_name_is_refused(
    serve: Serve, keys: Path, scheme: str
) -> None:
    upstream = f"{scheme}://.:1853 {{\n tls {keys}/cert.pem {keys}/key.pem\n{UPSTREAM.partition(chr(10))[2]}"
    to = f"{scheme}://127.0.0.1:1853 {{\n tls {keys}/cert.pem\n tls_servername other.test\n }}"
    async with serve(upstream), serve(f".:1055 {{\n forward . {to}\n}}") as running:
        assert answer(await running.ask("a.test.")) == "SERVFAIL"


class _Fickle(asyncio.Protocol):
    """Answers two questions by TCP, each twice, and hangs up at the third one."""

    connections: ClassVar[int] = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        _Fickle.connections += 1
        self.left = 3

    def data_received(self, data: bytes) -> None:
        self.left -= 1
        if not self.left:
            self.transport.close()
            return
        self.transport.write((data[:4] + bytes([data[4] | 0x80]) + data[5:]) * 2)


async def test_a_kept_connection_that_was_closed_is_no_failure(serve: Serve) -> None:
    _Fickle.connections = 0
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Fickle, "127.0.0.1", 1053)
    text = ".:1055 {\n forward . 127.0.0.1:1053 {\n force_tcp\n max_connect_attempts 1\n }\n}"
    async with server, serve(text) as running:
        for _ in range(4):
            assert answer(await running.ask("a.test.")) == "NOERROR"
        assert _Fickle.connections == 2


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("", "read udp 127.0.0.1:1: read: connection refused"),
        ("force_tcp", "dial tcp 127.0.0.1:1: connect: connection refused"),
    ],
)
async def test_errors_are_worded_as_consolidate_looks_for_them(
    serve: Serve, caplog: pytest.LogCaptureFixture, option: str, error: str
) -> None:
    text = f".:1055 {{\n errors\n forward . {DEAD} {{\n max_connect_attempts 1\n {option}\n }}\n}}"
    async with serve(text) as running:
        assert answer(await running.ask("a.test.")) == "SERVFAIL"
    assert f"plugin/errors: 2 a.test. A: {error}" in caplog.text


class _WithOptions(asyncio.DatagramProtocol):
    """Answers with options of its own."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        reply = parse(data)
        reply.flags |= QR
        reply.edns = Edns(options=((8, b"\0\1\x18\x14\xc0\0\2"), (15, b"\0\3"), (10, b"a" * 24)))
        self.transport.sendto(encode(reply), addr)


@pytest.mark.parametrize(("before", "codes_of_options"), [("", [10, 8, 15]), ("cache 30", [10])])
async def test_options_of_upstreams_go_on(
    serve: Serve, before: str, codes_of_options: list[int]
) -> None:
    loop = asyncio.get_running_loop()
    upstream, _ = await loop.create_datagram_endpoint(_WithOptions, ("127.0.0.1", 1053))
    try:
        async with serve(f".:1055 {{\n {before}\n forward . 127.0.0.1:1053\n}}") as running:
            asked = Edns(options=((8, b"\0\1\x18\0\xc0\0\2"), (10, b"c" * 8)))
            for _ in range(2):
                found = (await running.ask("a.test.", edns=asked)).edns
                assert [code for code, _ in found.options] == codes_of_options
                assert dict(found.options)[10] == b"c" * 8
            assert (await running.ask("b.test.")).edns is None
    finally:
        upstream.close()


async def test_upstreams_by_name_are_looked_up_at_the_start(serve: Serve) -> None:
    names = ".:1056 {\n hosts {\n 127.0.0.1 dns.test\n }\n}"
    text = ".:1055 {\n forward . dns.test:1053 {\n resolver 127.0.0.1:1056\n }\n}"
    async with serve(UPSTREAM), serve(names) as resolver:
        environment = Environment()
        configuration = await asyncio.to_thread(build, text, "Corefile", environment)
        assert resolver.port == 1056
        assert [str(u) for u in configuration.plugins[0].stanzas[0].upstreams] == ["127.0.0.1:1053"]  # type: ignore[attr-defined]


async def test_attempts_are_counted(serve: Serve) -> None:
    asked: list[bytes] = []

    class Silent(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            asked.append(data)

    loop = asyncio.get_running_loop()
    silent, _ = await loop.create_datagram_endpoint(Silent, local_addr=("127.0.0.1", 1053))
    for option, count in (("max_connect_attempts 3", 3), ("", 2)):
        asked.clear()
        text = f".:1055 {{\n forward . 127.0.0.1:1053 {{\n read_timeout 50ms\n max_fails 0\n {option}\n }}\n}}"
        async with serve(text) as running:
            assert answer(await running.ask("a.test.")) == "SERVFAIL"
            assert len(asked) == count
    silent.close()


async def test_a_dead_upstream_is_passed_over(serve: Serve) -> None:
    async with serve(UPSTREAM) as upstream:
        to = f"{DEAD} 127.0.0.1:{upstream.port}"
        async with serve(f".:1055 {{\n forward . {to} {{\n policy sequential\n }}\n}}") as running:
            for _ in range(5):
                assert answer(await running.ask("a.test.")) == "NOERROR 192.0.2.1"


class _Liar(asyncio.DatagramProtocol):
    """Answers with a wrong id, then another question, then the truth."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        truth = bytearray(data)
        truth[2] |= 0x80
        truth[3] |= codes.NXDOMAIN
        wrong = bytes([data[0] ^ 1]) + bytes(truth[1:])
        other = bytes(truth).replace(b"\x01a\x04test", b"\x01b\x04test")
        for lie in (wrong, other, truth[:7], b"", bytes(truth)):
            self.transport.sendto(bytes(lie), addr)


async def test_lies_are_dropped(serve: Serve) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_Liar, local_addr=("127.0.0.1", 0))
    try:
        port = transport.get_extra_info("sockname")[1]
        async with serve(f".:1055 {{\n forward . 127.0.0.1:{port}\n}}") as running:
            found = parse(await running.raw(_question()))
            assert found.question is not None
            assert (found.question.name, found.rcode) == ("a.test.", codes.NXDOMAIN)
    finally:
        transport.close()


def _question() -> bytes:
    return bytes.fromhex("002a01000001000000000000") + b"\x01a\x04test\0\0\1\0\1"
