from ipaddress import ip_address
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubewire.lang.dns import codes, record
from kubewire.lang.dns.message import Message, Question, encode
from kubewire.networkpolicy.answers import GRACE, LEAST, Learned, Names, Reader

ONE, TWO, SIX = ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("2001:db8::1")
RESPONSE = 0x8180


def message(name: str, *answer: record.RR, flags: int = RESPONSE) -> bytes:
    found = Message(id=7, flags=flags, question=Question(name, codes.A), answer=list(answer))
    return bytes(encode(found))


def udp4(data: bytes) -> bytes:
    return b"\x45" + bytes(8) + bytes((17,)) + bytes(10) + bytes(8) + data


def udp6(data: bytes) -> bytes:
    return b"\x60" + bytes(5) + bytes((17,)) + bytes(33) + bytes(8) + data


def segment(data: bytes, number: int = 0, flags: int = 0x10) -> bytes:
    head = b"\x45" + bytes(8) + bytes((6,)) + bytes(10) + bytes(4)
    number &= 0xFFFFFFFF
    return head + number.to_bytes(4, "big") + bytes(4) + bytes((0x80, flags)) + bytes(18) + data


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def tcp4(data: bytes) -> bytes:
    return segment(framed(data))


ADDRESS = message("www.Example.COM.", record.address("www.Example.COM.", 30, "192.0.2.1"))
CHAIN = message(
    "www.example.com.",
    record.cname("www.example.com.", 20, "edge.example.net."),
    record.cname("edge.example.net.", 300, "a.example.net."),
    record.address("a.example.net.", 60, "192.0.2.1"),
    record.address("a.example.net.", 60, "192.0.2.2"),
)


@pytest.mark.parametrize(
    ("packet", "learned"),
    [
        (udp4(ADDRESS), [("www.example.com", ONE, 30)]),
        (udp6(ADDRESS), [("www.example.com", ONE, 30)]),
        (tcp4(ADDRESS), [("www.example.com", ONE, 30)]),
        (
            udp4(message("a.b.", record.address("a.b.", 5, "2001:db8::1"))),
            [("a.b", SIX, 5)],
        ),
        (
            udp4(CHAIN),
            [
                ("a.example.net", ONE, 60),
                ("a.example.net", TWO, 60),
                ("edge.example.net", ONE, 60),
                ("edge.example.net", TWO, 60),
                ("www.example.com", ONE, 20),
                ("www.example.com", TWO, 20),
            ],
        ),
        (udp4(message("a.b.", record.cname("a.b.", 5, "a.b."))), []),
        (udp4(message("a.b.", flags=RESPONSE | 3)), []),
        (udp4(message("a.b.", record.address("a.b.", 5, "192.0.2.1"), flags=0x0100)), []),
        (udp4(ADDRESS[:20]), []),
        (tcp4(ADDRESS)[:-1], []),
        (b"\x45", []),
        (b"", []),
    ],
)
def test_what_an_answer_says(packet: bytes, learned: list[tuple[str, object, int]]) -> None:
    assert sorted(tuple(x) for x in Reader().read(packet)) == learned


@given(st.integers(0, len(CHAIN) - 1), st.integers(0, 255), st.integers(0, len(CHAIN)))
@settings(deadline=None, max_examples=500)
def test_broken_answers_teach_at_most_something_wrong(at: int, byte: int, end: int) -> None:
    broken = bytearray(CHAIN)
    broken[at] = byte
    for wrap in (udp4, udp6, tcp4):
        Reader().read(wrap(bytes(broken)))
        Reader().read(wrap(bytes(broken[:end])))


def always(name: str) -> bool:
    return True


def test_an_address_is_kept_for_its_ttl() -> None:
    names = Names()
    assert names.learn([Learned("a", ONE, 60)], 0, always) == {"a": {ONE}}
    assert names.learn([Learned("a", ONE, 60)], 10, always) == {}
    assert names.learn([Learned("a", TWO, 0)], 10, always) == {"a": {ONE, TWO}}
    assert names.expire(10 + LEAST) == {}
    assert names.expire(10 + LEAST + GRACE) == {"a": {ONE}}
    assert names.expire(60 + GRACE) == {}, "it was seen again later"
    assert names.next(60) == 10 + GRACE
    assert names.expire(70 + GRACE) == {"a": frozenset()}
    assert names.next(100) is None


def test_names_that_no_policy_has_are_not_kept() -> None:
    names = Names()
    assert names.learn([Learned("a", ONE, 60)], 0, lambda name: name == "b") == {}
    assert names.next(0) is None


CUTS = st.lists(st.integers(1, 2 * len(CHAIN)), max_size=6)


@given(CUTS, st.randoms(use_true_random=False), st.sampled_from([0, 0xFFFFFFF0]), st.booleans())
def test_answers_in_segments_are_put_together(
    cuts: list[int], order: Random, first: int, again: bool
) -> None:
    stream = framed(CHAIN) + framed(ADDRESS)
    ends = sorted({0, len(stream), *(c for c in cuts if c < len(stream))})
    parts = [(a, stream[a:b]) for a, b in pairwise(ends)] * (1 + again)
    order.shuffle(parts)
    reader = Reader()
    assert reader.read(segment(b"", first - 1, flags=0x12)) == []
    found = [x for at, part in parts for x in reader.read(segment(part, first + at))]
    whole = Reader()
    assert sorted(found) == sorted(whole.read(udp4(CHAIN)) + whole.read(udp4(ADDRESS)))


def test_a_connection_that_the_agent_did_not_see_begin() -> None:
    reader = Reader()
    data = framed(ADDRESS)
    assert reader.read(segment(data[:9], 1000)) == []
    assert [x.address for x in reader.read(segment(data[9:], 1009))] == [ONE]
