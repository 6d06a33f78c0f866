"""DNS over TLS, HTTPS, QUIC, HTTP/3 and gRPC, with foreign clients and by hand."""

import asyncio
import base64
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dnsclients import doq_client, h2_client, h3_client, trusting
from kubewire.dns.transport import doh, grpc
from kubewire.dns.transport.quic import acceptable
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Edns, Message, Question, encode, parse

Serve = Any
Bytes = Callable[..., bytes]

HOSTS = """hosts {
        10.0.0.7 web.example.org
        ttl 60
        fallthrough
    }
    template IN A nothing.example.org {
        rcode NXDOMAIN
        authority "example.org. 90 IN SOA ns.example.org. h.example.org. 1 60 60 60 33"
    }
    erratic slow.example.org {
        drop 0
        delay 1 100ms
    }"""
NAME = "web.example.org."


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    monkeypatch.chdir(tmp_path)
    return make_keys(tmp_path, "dns.example.org", ec, x509, hashes, serialization, NameOID)


def make_keys(
    folder: Path, name: str, ec: Any, x509: Any, hashes: Any, serialization: Any, oid: Any
) -> Path:
    import datetime

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(oid.COMMON_NAME, name)])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


def corefile(scheme: str, extra: str = "", port: int = 0) -> str:
    return f"{scheme}://.:{port} {{\n tls cert.pem key.pem\n {extra}\n {HOSTS}\n}}\n"


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *messages: bytes
) -> list[Message]:
    writer.write(b"".join(struct.pack("!H", len(m)) + m for m in messages))
    found = []
    for _ in messages:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        found.append(parse(await reader.readexactly(length)))
    return found


# DNS over TLS


async def test_tls_is_pipelined_and_out_of_order(
    serve: Serve, keys: Path, ask_bytes: Bytes
) -> None:
    async with serve(corefile("tls"), []) as dns:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", dns.port, ssl=trusting(keys, "dot"), server_hostname="dns.example.org"
        )
        slow = [ask_bytes("slow.example.org.", id=i) for i in (1, 2)]
        found = await exchange(reader, writer, *slow, ask_bytes(NAME, id=3))
        assert found[0].id == 3
        assert {m.id for m in found} == {1, 2, 3}
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "dot"
        writer.close()


@pytest.mark.parametrize("scheme", ["tls", "quic", "https3"])
async def test_no_certificate_no_listener(serve: Serve, scheme: str) -> None:
    with pytest.raises(OSError, match="tls plugin is missing"):
        async with serve(f"{scheme}://.:0 {{\n whoami\n}}", []):
            pass


async def test_a_reload_takes_the_new_certificate(
    serve: Serve, keys: Path, ask_bytes: Bytes
) -> None:
    async with serve(corefile("tls"), []) as dns:
        port = dns.port
        old = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting(keys), server_hostname="dns.example.org"
        )
        _renew(keys)
        await dns.server.load(dns.build(corefile("tls", "errors")))
        assert dns.port == port
        new = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting(keys), server_hostname="new.example.org"
        )
        for reader, writer in (old, new):
            assert (await exchange(reader, writer, ask_bytes(NAME)))[0].answer
            writer.close()


def _renew(folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    make_keys(folder, "new.example.org", ec, x509, hashes, serialization, NameOID)


# DNS over HTTPS: the rules


def test_get_and_post_mean_the_same(ask_bytes: Bytes) -> None:
    data = ask_bytes(NAME)
    text = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert doh.message_of("GET", f"/dns-query?dns={text}", b"") == data
    assert doh.message_of("GET", f"/dns-query?x=1&dns={text}", b"") == data
    assert doh.message_of("POST", "/dns-query", data) == data


@pytest.mark.parametrize(
    ("method", "path", "body", "why"),
    [
        ("GET", "/dns-query", b"", "no 'dns' query parameter found"),
        ("GET", "/dns-query?dns=AA&dns=AA", b"", "multiple 'dns' query values found"),
        ("GET", "/dns-query?dns=%", b"", "illegal base64 data"),
        ("GET", "/dns-query?dns=AAAA", b"", "message is shorter than its header"),
        ("POST", "/dns-query", b"", "message is shorter than its header"),
        ("PUT", "/dns-query", b"", "method not allowed: PUT"),
    ],
)
def test_what_doh_refuses(method: str, path: str, body: bytes, why: str) -> None:
    with pytest.raises(doh.NotAQuestionError) as caught:
        doh.message_of(method, path, body)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("name", "status", "age"),
    [(NAME, codes.NOERROR, 60), ("nothing.example.org.", codes.NXDOMAIN, 33)],
)
async def test_doh_over_http_2(
    serve: Serve, keys: Path, ask_bytes: Bytes, name: str, status: int, age: int
) -> None:
    async with serve(corefile("https"), []) as dns, h2_client(dns.port, keys) as ask:
        headers, body, _ = await ask("POST", "/dns-query", ask_bytes(name))
        assert headers[":status"] == "200"
        assert headers["content-type"] == "application/dns-message"
        assert headers["cache-control"] == f"max-age={age}"
        assert headers["content-length"] == str(len(body))
        assert parse(body).rcode == status
        text = base64.urlsafe_b64encode(ask_bytes(name)).rstrip(b"=").decode()
        again, _, _ = await ask("GET", f"/dns-query?dns={text}", b"")
        assert again[":status"] == "200"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/other", b"", 404),
        ("GET", "/dns-query", b"", 400),
        ("DELETE", "/dns-query", b"", 400),
        ("POST", "/dns-query", b"\0" * 12 + b"\xff", 200),
        ("POST", "/dns-query", b"\0\0\x80" + b"\0" * 9, 500),
        ("POST", "/dns-query", b"\0" * 11, 400),
    ],
)
async def test_doh_status(
    serve: Serve, keys: Path, method: str, path: str, body: bytes, status: int
) -> None:
    async with serve(corefile("https"), []) as dns:
        async with h2_client(dns.port, keys) as ask:
            assert (await ask(method, path, body))[0][":status"] == str(status)
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, f"https://127.0.0.1:{dns.port}{path}", data=body, ssl=trusting(keys),
                server_hostname="dns.example.org",
            ) as answer,
        ):  # fmt: skip
            assert answer.status == status


async def test_doh_without_a_certificate_is_plain_http(serve: Serve, ask_bytes: Bytes) -> None:
    async with (
        serve(f"https://.:0 {{\n {HOSTS}\n}}", []) as dns,
        aiohttp.ClientSession() as session,
    ):
        for _ in range(2):
            url = f"http://127.0.0.1:{dns.port}/dns-query"
            async with session.post(url, data=ask_bytes(NAME)) as answer:
                assert parse(await answer.read()).answer
                assert answer.headers["cache-control"] == "max-age=60"


async def test_many_streams_and_a_large_answer(serve: Serve, keys: Path, ask_bytes: Bytes) -> None:
    rows = "\n".join(f"10.1.{i >> 8}.{i & 255} big.example.org" for i in range(3000))
    text = f"https://.:0 {{\n tls cert.pem key.pem\n hosts {{\n {rows}\n }}\n}}"
    async with serve(text, []) as dns, h2_client(dns.port, keys) as ask:
        question = ask_bytes("big.example.org.")
        found = await asyncio.gather(*(ask("POST", "/dns-query", question) for _ in range(20)))
        assert [len(parse(body).answer) for _, body, _ in found] == [3000] * 20


async def test_one_connection_too_many_is_closed(serve: Serve, keys: Path) -> None:
    text = corefile("https", "https {\n max_connections 1\n }")
    async with serve(text, []) as dns, h2_client(dns.port, keys) as ask:
        with pytest.raises((ConnectionError, EOFError, asyncio.IncompleteReadError)):
            async with h2_client(dns.port, keys) as other:
                await other("GET", "/", b"")
        assert (await ask("GET", "/", b""))[0][":status"] == "404"


# gRPC


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 65535])
def test_grpc_frames(size: int) -> None:
    data = bytes(size)
    assert grpc.unwrap(grpc.wrap(data)) == data


@pytest.mark.parametrize(
    "frame",
    [b"", b"\0\0\0\0\1", b"\1\0\0\0\0", b"\0\0\0\0\2\x0a\5", b"\0\0\0\0\1\x08", b"\0\0\0\0\0"],
)
def test_grpc_refuses(frame: bytes) -> None:
    with pytest.raises(grpc.BadFrameError):
        grpc.unwrap(frame)


async def test_grpc_call(serve: Serve, keys: Path, ask_bytes: Bytes) -> None:
    async with serve(corefile("grpc"), []) as dns, h2_client(dns.port, keys) as ask:
        headers, body, trailers = await ask("POST", grpc.PATH, grpc.wrap(ask_bytes(NAME)))
        assert (headers["content-type"], trailers["grpc-status"]) == ("application/grpc", "0")
        assert parse(grpc.unwrap(body)).answer
        headers, _, _ = await ask("POST", "/other/Call", grpc.wrap(b""))
        assert headers["grpc-status"] == "12"
        headers, _, _ = await ask("POST", grpc.PATH, b"x")
        assert headers["grpc-status"] == "3"


# QUIC


@pytest.mark.parametrize(
    ("message", "ok"),
    [
        (Message(0, 0x0100, Question(NAME, 1)), True),
        (Message(1, 0x0100, Question(NAME, 1)), False),
        (Message(0, 0x8100, Question(NAME, 1)), False),
        (Message(0, 0x0100, Question(NAME, 1), edns=Edns(1232, options=((11, b""),))), False),
    ],
)
def test_what_doq_accepts(message: Message, ok: bool) -> None:
    assert acceptable(encode(message)) is ok
    assert not acceptable(b"\0" * 5)


async def test_doq(serve: Serve, keys: Path, ask_bytes: Bytes) -> None:
    async with serve(corefile("quic"), []) as dns, doq_client(dns.port, keys) as client:
        found = await asyncio.gather(*(client.ask(ask_bytes(NAME, id=0)) for _ in range(20)))
        assert all(m.answer and m.id == 0 for m in map(parse, found))
        await dns.server.load(dns.build(corefile("quic", "errors")))
        assert parse(await client.ask(ask_bytes(NAME, id=0))).answer


@pytest.mark.parametrize("data", [b"\0\x0c" + b"\0\1" + b"\0" * 10, b"\0\5abc", b"\0\1abc", b""])
async def test_doq_protocol_error(serve: Serve, keys: Path, data: bytes) -> None:
    async with serve(corefile("quic"), []) as dns, doq_client(dns.port, keys) as client:
        client.send(data)
        assert await asyncio.wait_for(client.ended, 10) == 2


async def test_doq_takes_up_a_session_again(serve: Serve, keys: Path, ask_bytes: Bytes) -> None:
    """RFC 9250, 4.5: questions may come in the first flight, what changes anything may not."""
    tickets: asyncio.Queue[Any] = asyncio.Queue()
    update = encode(Message(0, 5 << 11, Question(NAME, 6), edns=Edns(1232)))
    async with serve(corefile("quic"), []) as dns:
        async with doq_client(dns.port, keys, tickets=tickets) as client:
            assert parse(await client.ask(ask_bytes(NAME, id=0))).answer
            late = parse(await client.ask(update))
            assert late.rcode == codes.NOTIMP
            ticket = await asyncio.wait_for(tickets.get(), 10)
        async with doq_client(dns.port, keys, ticket=ticket) as client:
            early, refused = await asyncio.gather(
                client.ask(ask_bytes(NAME, id=0)), client.ask(update)
            )
            done = await asyncio.wait_for(client.completed, 10)
        assert (done.session_resumed, done.early_data_accepted) == (True, True)
        assert parse(early).answer
        assert parse(refused).rcode == codes.REFUSED
        assert parse(refused).edns == Edns(1232, options=((15, b"\0\x1a"),))
        # A ticket is good for one session: whoever records the first flight gets nothing by it.
        async with doq_client(dns.port, keys, ticket=ticket) as client:
            assert parse(await client.ask(ask_bytes(NAME, id=0))).answer
            done = await asyncio.wait_for(client.completed, 10)
        assert not done.early_data_accepted


async def test_doh_over_http_3(serve: Serve, keys: Path, ask_bytes: Bytes) -> None:
    async with serve(corefile("https3"), []) as dns, h3_client(dns.port, keys) as client:
        status, body = await client.ask("POST", "/dns-query", ask_bytes(NAME))
        assert status == b"200"
        assert parse(body).answer
        assert (await client.ask("POST", "/else", b""))[0] == b"404"


# Foreign clients


@pytest.mark.tool("kdig")
@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("dns", []),
        ("dns", ["+tcp"]),
        ("dns", ["+tcp", "+keepopen", "+edns=0", "+dnssec"]),
        ("tls", ["+tls-ca=cert.pem", "+tls-hostname=dns.example.org"]),
        ("https", ["+https=/dns-query", "+tls-ca=cert.pem", "+tls-hostname=dns.example.org"]),
        ("https", ["+https", "+https-get", "+tls-ca=cert.pem", "+tls-hostname=dns.example.org"]),
        ("quic", ["+tls-ca=cert.pem", "+tls-hostname=dns.example.org", "+quic"]),
    ],
)
async def test_kdig(serve: Serve, keys: Path, scheme: str, options: list[str]) -> None:
    async with serve(corefile(scheme), []) as dns:
        code, out = await run("kdig", "@127.0.0.1", "-p", str(dns.port), *options, NAME, NAME)
        if scheme == "quic" and "not supported" in out:
            pytest.skip("this kdig was built without QUIC")
        assert code == 0, out
        assert out.count("10.0.0.7") == 2, out
        assert "WARNING" not in out


@pytest.mark.tool("dig")
@pytest.mark.parametrize(
    "options",
    [[], ["+tcp"], ["+cookie"], ["+noedns"], ["+bufsize=512"], ["+subnet=10.0.0.0/8"], ["+dnssec"]],
)
async def test_dig(serve: Serve, keys: Path, options: list[str]) -> None:
    async with serve(corefile("dns"), []) as dns:
        for _ in range(2):
            code, out = await run("dig", "@127.0.0.1", "-p", str(dns.port), *options, NAME)
            assert code == 0, out
            assert "10.0.0.7" in out
            assert ";; Warning" not in out
            assert "mismatch" not in out


async def run(program: str, *args: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        shutil.which(program) or program, *args,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode, out.decode()
