"""The client's end of SPDY, as far as tests open streams."""

import struct
import zlib

from kubewire.lang.spdy import DICTIONARY, SYN_STREAM


def frame(kind: int, body: bytes, flags: int = 0) -> bytes:
    """A control frame."""
    return struct.pack("!HHI", 0x8003, kind, flags << 24 | len(body)) + body


class SpdyClient:
    """Compresses the headers of all its streams in one go, as the protocol wants it."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def open(self, stream: int, headers: dict[str, str], flags: int = 0) -> bytes:
        """Begin a stream."""
        words = [word.encode() for pair in headers.items() for word in pair]
        text = b"".join(struct.pack("!I", len(word)) + word for word in words)
        block = self._deflate.compress(struct.pack("!I", len(headers)) + text)
        block += self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return frame(SYN_STREAM, struct.pack("!IIH", stream, 0, 0) + block, flags)


def data(stream: int, body: bytes, *, last: bool = False) -> bytes:
    """A data frame."""
    return struct.pack("!II", stream, int(last) << 24 | len(body)) + body
