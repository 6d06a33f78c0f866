"""SPDY/3.1 without I/O: the server's end of a connection that carries streams in both directions.

kubectl port-forward speaks it (inside a WebSocket, or bare), older ones also for exec. Only what the
Kubernetes clients use is here: no push, no flow control (their library has none either), settings
are passed over. Names, numbers and the dictionary are those of the SPDY draft 3.1.

    SYN_STREAM  a stream begins; its headers say what it is for
    DATA, FIN   bytes; an end of one direction
    RST_STREAM, GOAWAY, PING
"""

import struct
import zlib
from dataclasses import dataclass

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS = 1, 2, 3, 4, 6, 7, 8
FIN = 1
CANCEL = 5
"""Status of a RST_STREAM: nobody wants the stream any more."""
LARGEST = 1 << 16
"""Bytes in one DATA frame that is sent."""

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base content-encoding "
    "content-language content-length content-location content-md5 content-range content-type date "
    "etag expect expires from host if-match if-modified-since if-none-match if-range "
    "if-unmodified-since last-modified location max-forwards pragma proxy-authenticate "
    "proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url "
    "public set-cookie keep-alive origin"
)
_REST = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
    "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age="
    "gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = (
    b"".join(
        struct.pack("!I", len(word)) + word.replace("_", " ").encode() for word in _WORDS.split()
    )
    + _REST.encode()
)
"""What both ends' compressors know beforehand."""


class ProtocolError(Exception):
    """The peer does not speak SPDY/3.1."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream has begun; names of headers are lower case."""

    stream: int
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The peer sends no more on a stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class Reset:
    """A stream was broken off."""

    stream: int


@dataclass(frozen=True, slots=True)
class Pinged:
    """To be answered with the bytes."""

    answer: bytes


@dataclass(frozen=True, slots=True)
class Leaving:
    """The peer begins no more streams."""


Event = Opened | Data | Finished | Reset | Pinged | Leaving


class Connection:
    """Frames in, events out; what is to be sent comes back as bytes."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes of the peer."""
        self._received += data
        events: list[Event] = []
        while len(self._received) >= 8:
            length = int.from_bytes(self._received[5:8])
            if len(self._received) < 8 + length:
                break
            head, body = bytes(self._received[:8]), bytes(self._received[8 : 8 + length])
            del self._received[: 8 + length]
            events += self._frame(head, body)
        return events

    def reply(self, stream: int, headers: dict[str, str] | None = None) -> bytes:
        """Accept a stream."""
        block = self._deflate.compress(_block(headers or {}))
        block += self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _control(SYN_REPLY, struct.pack("!I", stream) + block)

    def send(self, stream: int, data: bytes) -> bytes:
        """Bytes on a stream."""
        parts = (data[i : i + LARGEST] for i in range(0, len(data), LARGEST))
        return b"".join(_data(stream, part, 0) for part in parts)

    def finish(self, stream: int) -> bytes:
        """The end of our direction."""
        return _data(stream, b"", FIN)

    def reset(self, stream: int, status: int = CANCEL) -> bytes:
        """Break a stream off."""
        return _control(RST_STREAM, struct.pack("!II", stream, status))

    def leave(self) -> bytes:
        """No new streams, please."""
        return _control(GOAWAY, struct.pack("!II", 0, 0))

    def _frame(self, head: bytes, body: bytes) -> list[Event]:
        flags = head[4]
        if not head[0] & 0x80:
            stream = int.from_bytes(head[:4])
            found: list[Event] = [Data(stream, body)] if body else []
            return [*found, Finished(stream)] if flags & FIN else found
        version, kind = struct.unpack("!HH", head[:4])
        if version & 0x7FFF != VERSION:
            raise ProtocolError(f"version {version & 0x7FFF}")
        try:
            return self._controlled(kind, flags, body)
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise ProtocolError(str(error)) from error

    def _controlled(self, kind: int, flags: int, body: bytes) -> list[Event]:
        if kind == SYN_STREAM:
            stream, _, _ = struct.unpack("!IIH", body[:10])
            opened = Opened(stream, self._headers(body[10:]))
            return [opened, Finished(stream)] if flags & FIN else [opened]
        if kind in (SYN_REPLY, HEADERS):
            # Nobody needs them, but the decompressor must see them.
            self._headers(body[4:])
            (stream,) = struct.unpack("!I", body[:4])
            return [Finished(stream)] if flags & FIN else []
        if kind == RST_STREAM:
            return [Reset(struct.unpack("!II", body)[0])]
        if kind == PING:
            (number,) = struct.unpack("!I", body)
            # A client's pings have odd numbers; the others are answers.
            return [Pinged(_control(PING, body))] if number % 2 else []
        return [Leaving()] if kind == GOAWAY else []

    def _headers(self, block: bytes) -> dict[str, str]:
        text = self._inflate.decompress(block)
        (count,) = struct.unpack_from("!I", text)
        at, words = 4, []
        for _ in range(2 * count):
            (length,) = struct.unpack_from("!I", text, at)
            words.append(text[at + 4 : at + 4 + length].decode())
            at += 4 + length
        return dict(zip(words[::2], words[1::2], strict=True))


def _block(headers: dict[str, str]) -> bytes:
    words = [word.encode() for pair in headers.items() for word in pair]
    return struct.pack("!I", len(headers)) + b"".join(struct.pack("!I", len(w)) + w for w in words)


def _control(kind: int, body: bytes) -> bytes:
    return struct.pack("!HHI", 0x8000 | VERSION, kind, len(body)) + body


def _data(stream: int, body: bytes, flags: int) -> bytes:
    return struct.pack("!I", stream) + bytes((flags,)) + len(body).to_bytes(3) + body
