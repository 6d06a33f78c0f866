"""SPDY frames as spdystream (the library of kubectl) sends and takes them."""

import hashlib
import zlib

import pytest

from kubewire.lang import spdy
from tests.lang.spdy_client import SpdyClient, frame

HEADERS = {"streamtype": "data", "port": "80", "requestid": "0"}


def test_the_dictionary_is_the_drafts() -> None:
    assert len(spdy.DICTIONARY) == 1423
    known = "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02"
    assert hashlib.sha256(spdy.DICTIONARY).hexdigest() == known


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (SpdyClient().open(1, HEADERS), [spdy.Opened(1, HEADERS)]),
        (b"\x00\x00\x00\x01\x00\x00\x00\x02hi", [spdy.Data(1, b"hi")]),
        (b"\x00\x00\x00\x01\x01\x00\x00\x02hi", [spdy.Data(1, b"hi"), spdy.Finished(1)]),
        (b"\x00\x00\x00\x03\x01\x00\x00\x00", [spdy.Finished(3)]),
        (frame(spdy.RST_STREAM, b"\x00\x00\x00\x03\x00\x00\x00\x05"), [spdy.Reset(3)]),
        (frame(spdy.PING, b"\x00\x00\x00\x01"), [spdy.Pinged(frame(spdy.PING, b"\x00\x00\x00\x01"))]),
        (frame(spdy.PING, b"\x00\x00\x00\x02"), []),
        (frame(spdy.GOAWAY, bytes(8)), [spdy.Leaving()]),
        (frame(spdy.SETTINGS, bytes(4)), []),
        (frame(9, bytes(8)), []),
    ],
)  # fmt: skip
def test_frames_whole_and_in_pieces(data: bytes, events: list[spdy.Event]) -> None:
    assert spdy.Connection().feed(data) == events
    found = spdy.Connection()
    assert [e for byte in data for e in found.feed(bytes((byte,)))] == events


def test_answers() -> None:
    found = spdy.Connection()
    reply = found.reply(1, {"a": "b"})
    inflate = zlib.decompressobj(zdict=spdy.DICTIONARY)
    assert reply[:4] == b"\x80\x03\x00\x02"
    assert inflate.decompress(reply[12:]) == b"\0\0\0\x01\0\0\0\x01a\0\0\0\x01b"
    # The second block goes on in the same compressed stream.
    assert inflate.decompress(found.reply(3)[12:]) == bytes(4)
    assert found.send(1, b"x") == b"\0\0\0\x01\0\0\0\x01x"
    large = found.send(1, bytes(spdy.LARGEST + 1))
    assert len(large) == spdy.LARGEST + 1 + 16
    assert found.finish(1) == b"\0\0\0\x01\x01\0\0\0"
    assert spdy.Connection().feed(found.reset(1)) == [spdy.Reset(1)]
    assert spdy.Connection().feed(found.leave()) == [spdy.Leaving()]


@pytest.mark.parametrize(
    "data",
    [
        frame(spdy.SYN_STREAM, bytes(10) + b"no zlib"),
        frame(spdy.RST_STREAM, b"\x00"),
        b"\x80\x02\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01",
    ],
)
def test_nonsense_is_said(data: bytes) -> None:
    with pytest.raises(spdy.ProtocolError):
        spdy.Connection().feed(data)
