"""Whatever octets come: no exception reaches a log, no answer is longer than asked for."""

import asyncio
import inspect
import logging
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kubewire.dns.config import Environment, build
from kubewire.dns.dispatch import Dispatcher
from kubewire.dns.transport import doh, grpc, quic
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Edns, Message, Question, WireError, encode, parse
from kubewire.lang.dns.name import BadNameError

OBJECTS: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "big", "namespace": "default"}, "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "out", "namespace": "default"}, "spec": {"type": "ExternalName", "externalName": "out.default.svc.cluster.local"}},
    {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": {"name": "big-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "big"}}, "endpoints": [{"addresses": [f"10.244.0.{i}"]} for i in range(1, 120)], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
]  # fmt: skip
COREFILE = """.:53 {
    errors
    log
    prometheus
    nsid
    any
    chaos
    local
    loadbalance
    cache
    rewrite name suffix .old.local. .cluster.local. answer auto
    header {
        response set ra
    }
    template ANY ANY example. {
        answer "{{ .Name }} 60 IN TXT \\"{{ .Name }}\\""
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
    }
    whoami
}
"""
NAMES = (
    "web.default.svc.cluster.local.", "big.default.svc.cluster.local.", "cluster.local.", ".",
    "_http._tcp.big.default.svc.cluster.local.", "7.0.96.10.in-addr.arpa.", "localhost.",
    "a.example.", "web.default.svc.old.local.", "version.bind.", "1-2-3-4.default.pod.cluster.local.",
    "out.default.svc.cluster.local.", "\\000\\255\\..example.", f"{'a' * 63}.{'b' * 63}.example.",
)  # fmt: skip


def _dispatcher() -> Dispatcher:
    [(at, blocks)] = build(COREFILE, "Corefile", Environment(objects=OBJECTS)).listeners().items()
    return Dispatcher(at, blocks)


DNS = _dispatcher()
MANY = settings(
    max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)

numbers = st.integers(0, 65535)
options = st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=40)), max_size=4)
names = st.sampled_from(NAMES) | st.sampled_from(NAMES).map(str.swapcase)
wanted = st.sampled_from([1, 2, 5, 6, 12, 15, 16, 28, 33, 41, 64, 65, 250, 251, 252, 255, 0, 65535])


@st.composite
def questions(draw: st.DrawFn) -> bytes:
    edns = None
    if draw(st.booleans()):
        edns = Edns(draw(numbers), draw(st.booleans()), draw(st.integers(0, 2)), 0, tuple(draw(options)))  # fmt: skip
    question = Question(draw(names), draw(wanted), draw(st.sampled_from([1, 1, 1, 3, 254, 255, 0])))
    return encode(Message(draw(numbers), draw(numbers) & 0x7FFF, question, edns=edns))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(questions()))
    for _ in range(draw(st.integers(1, 6))):
        match draw(st.integers(0, 3)):
            case 0 if data:
                data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
            case 1:
                del data[draw(st.integers(0, len(data))) :]
            case 2:
                at = draw(st.integers(0, len(data)))
                data[at:at] = draw(st.binary(max_size=12))
            case 3:
                at = draw(st.integers(0, len(data)))
                data[at : at + 2] = (0xC000 | draw(st.integers(0, 80))).to_bytes(2, "big")
    return bytes(data)


headers = st.builds(
    lambda flags, counts, rest: struct.pack("!6H", 7, flags & 0x7FFF, *counts) + rest,
    numbers,
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.binary(max_size=120),
)
LOOPS = (
    b"\xc0\x0c", b"\xc0\x0e\xc0\x0c", b"\x01a\xc0\x0c", b"\xc0\xff", b"\xff\xff", b"\x80\x01",
    (b"\x3f" + b"a" * 63) * 4 + b"\0", b"\x01a" * 127 + b"\0", b"\x01a" * 128 + b"\0",
)  # fmt: skip


async def _answer(data: bytes, proto: str) -> Any:
    found = DNS.receive(data, ("10.0.0.1", 4000), ("10.0.0.2", 53), proto)
    return await found if inspect.isawaitable(found) else found


def _check(data: bytes, proto: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "kubewire"):
        answer = asyncio.run(_answer(data, proto))
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
    if answer is None:
        assert len(data) < 12 or data[2] & 0x80
        return
    for message in [answer] if isinstance(answer, bytes) else answer:
        assert message[:2] == data[:2]
        assert message[2] & 0x80
        assert len(message) <= _room(data, proto)
        parse(message)


def _room(data: bytes, proto: str) -> int:
    if proto != "udp":
        return 65535
    try:
        edns = parse(data).edns
    except WireError:
        return 512
    return max(512, edns.size) if edns else 512


@MANY
@given(questions() | damaged() | headers | st.binary(max_size=64), st.sampled_from(["udp", "tcp"]))
def test_anything(caplog: pytest.LogCaptureFixture, data: bytes, proto: str) -> None:
    _check(data, proto, caplog)


@pytest.mark.parametrize("name", LOOPS, ids=range(len(LOOPS)))
@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_compression_loops_and_long_names(
    caplog: pytest.LogCaptureFixture, name: bytes, proto: str
) -> None:
    _check(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + name + b"\0\1\0\1", proto, caplog)


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_a_name_of_65_535_octets(caplog: pytest.LogCaptureFixture, proto: str) -> None:
    name = (b"\x3f" + b"a" * 63) * 1023
    _check(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + name + b"\0\0\1\0\1", proto, caplog)


@pytest.mark.parametrize("opcode", range(16))
@pytest.mark.parametrize("qclass", [0, 1, 2, 3, 4, 254, 255, 4711])
def test_every_opcode_and_class(caplog: pytest.LogCaptureFixture, opcode: int, qclass: int) -> None:
    data = encode(Message(7, opcode << 11, Question("web.default.svc.cluster.local.", 1, qclass)))
    _check(data, "udp", caplog)
    found = parse(asyncio.run(_answer(data, "udp")))
    assert (found.rcode == codes.NOTIMP) == (opcode not in (codes.QUERY, codes.NOTIFY))


@MANY
@given(damaged() | headers | st.binary(max_size=64))
@example(b"\0" * 12 + b"\0\0\1\0\1")
def test_what_is_parsed_can_be_written(data: bytes) -> None:
    try:
        message = parse(data)
    except WireError:
        return
    try:
        again = encode(message)
    except BadNameError:
        return
    assert parse(again).question == message.question


@MANY
@given(st.text(max_size=8), st.text(max_size=40), damaged() | st.binary(max_size=64))
def test_encrypted_transports_judge_and_never_raise(method: str, path: str, body: bytes) -> None:
    for verb in (method, "GET", "POST"):
        try:
            doh.message_of(verb, path, body)
        except doh.NotAQuestionError:
            continue
    quic.acceptable(body)
    try:
        assert grpc.unwrap(body) in body
    except grpc.BadFrameError:
        return
