"""Whatever octets come: no exception reaches a log, no answer is longer than asked for."""

import asyncio
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.dns.target import answer, check_codec, check_server

from kubewire.dns.transport import doh, grpc, quic
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Edns, Message, Question, encode, parse

NAMES = (
    "web.default.svc.cluster.local.", "big.default.svc.cluster.local.", "cluster.local.", ".",
    "_http._tcp.big.default.svc.cluster.local.", "7.0.96.10.in-addr.arpa.", "localhost.",
    "a.example.", "web.default.svc.old.local.", "version.bind.", "1-2-3-4.default.pod.cluster.local.",
    "out.default.svc.cluster.local.", "\\000\\255\\..example.", f"{'a' * 63}.{'b' * 63}.example.",
)  # fmt: skip


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


@MANY
@given(questions() | damaged() | headers | st.binary(max_size=64), st.sampled_from(["udp", "tcp"]))
def test_anything(data: bytes, proto: str) -> None:
    check_server(data, proto)


@pytest.mark.parametrize("name", LOOPS, ids=range(len(LOOPS)))
@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_compression_loops_and_long_names(name: bytes, proto: str) -> None:
    check_server(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + name + b"\0\1\0\1", proto)


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_a_name_of_65_535_octets(proto: str) -> None:
    name = (b"\x3f" + b"a" * 63) * 1023
    check_server(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + name + b"\0\0\1\0\1", proto)


@pytest.mark.parametrize("opcode", range(16))
@pytest.mark.parametrize("qclass", [0, 1, 2, 3, 4, 254, 255, 4711])
def test_every_opcode_and_class(opcode: int, qclass: int) -> None:
    data = encode(Message(7, opcode << 11, Question("web.default.svc.cluster.local.", 1, qclass)))
    check_server(data, "udp")
    found = parse(asyncio.run(answer(data, "udp")))
    assert (found.rcode == codes.NOTIMP) == (opcode not in (codes.QUERY, codes.NOTIFY))


@MANY
@given(damaged() | headers | st.binary(max_size=64))
@example(b"\0" * 12 + b"\0\0\1\0\1")
def test_what_is_parsed_can_be_written(data: bytes) -> None:
    check_codec(data)


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


def test_coverage_guided() -> None:
    """A short run of ``make fuzz``, which goes on for a minute."""
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    script = Path(__file__).with_name("fuzz.py")
    root = script.parents[2]
    done = subprocess.run(
        [
            sys.executable,
            script,
            "-runs=8000",
            "-seed=6",
            "-artifact_prefix=/dev/null",
            "-close_fd_mask=0",
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
