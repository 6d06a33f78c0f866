"""EDNS options that hold too little, too much, or one thing in several spellings."""

import pytest

from kubewire.lang.dns.options import OptionError, canonical

LLQ, LEASE, NSID, SUBNET, EXPIRE, COOKIE, KEEPALIVE, ERROR, REPORTING, VERSION = (
    1, 2, 3, 8, 9, 10, 11, 15, 18, 19,
)  # fmt: skip
V4, V6 = b"\0\1", b"\0\2"


@pytest.mark.parametrize(
    ("code", "data", "expected"),
    [
        (NSID, b"", b""),
        (NSID, b"name", b"name"),
        (COOKIE, b"x" * 3, b"x" * 3),
        (65001, b"anything", b"anything"),
        (LLQ, bytes(18), bytes(18)),
        (LEASE, bytes(4), bytes(4)),
        (LEASE, bytes(8), bytes(8)),
        (EXPIRE, b"", b""),
        (EXPIRE, b"\0\0\0\7", b"\0\0\0\7"),
        (EXPIRE, b"\0\0\0\7more", b"\0\0\0\7"),
        (KEEPALIVE, b"", b""),
        (KEEPALIVE, b"\0\0", b""),
        (KEEPALIVE, b"\0\7", b"\0\7"),
        (ERROR, b"\0\7why", b"\0\7why"),
        (REPORTING, b"\1a\0", b"\1a\0"),
        (REPORTING, b"\1a\0more", b"\1a\0"),
        (REPORTING, b"\0", b"\0"),
        (VERSION, b"\1\0", b"\1\0"),
        (SUBNET, b"\0\0\0\0", b"\0\0\0\0"),
        (SUBNET, b"\0\0\0\7\1\2", b"\0\0\0\7"),
        (SUBNET, V4 + b"\x18\0\xc0\0\2", V4 + b"\x18\0\xc0\0\2"),
        (SUBNET, V4 + b"\x18\0\xc0\0\2\7", V4 + b"\x18\0\xc0\0\2"),
        (SUBNET, V4 + b"\x14\0\xc0\0\xff", V4 + b"\x14\0\xc0\0\xf0"),
        (SUBNET, V4 + b"\x18\0\xc0", V4 + b"\x18\0\xc0\0\0"),
        (SUBNET, V4 + b"\0\x20", V4 + b"\0\x20"),
        (SUBNET, V6 + b"\x30\0\x20\1\x0d\xb8\0\1", V6 + b"\x30\0\x20\1\x0d\xb8\0\1"),
        (SUBNET, V6 + b"\x80\x80" + b"\7" * 20, V6 + b"\x80\x80" + b"\7" * 16),
    ],
)
def test_what_goes_on(code: int, data: bytes, expected: bytes) -> None:
    assert canonical(code, data) == expected


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (LLQ, bytes(17)),
        (LEASE, b""),
        (LEASE, bytes(5)),
        (EXPIRE, b"\0\0\7"),
        (KEEPALIVE, b"\0"),
        (KEEPALIVE, bytes(3)),
        (KEEPALIVE, b"\0\7\0"),
        (ERROR, b"\0"),
        (REPORTING, b""),
        (REPORTING, b"\3ab"),
        (REPORTING, b"\xc0\0"),
        (REPORTING, (b"\x3f" + b"a" * 63) * 4 + b"\0"),
        (VERSION, b"\1"),
        (SUBNET, b""),
        (SUBNET, V4 + b"\x18"),
        (SUBNET, b"\0\0\1\0"),
        (SUBNET, b"\0\3\0\0"),
        (SUBNET, V4 + b"\x21\0\1\2\3\4\5"),
        (SUBNET, V4 + b"\x18\x21\1\2\3"),
        (SUBNET, V6 + b"\x81\0" + bytes(17)),
    ],
)
def test_what_is_malformed(code: int, data: bytes) -> None:
    with pytest.raises(OptionError):
        canonical(code, data)
