"""What EDNS options may hold, and how they are written on.

Only options with a form of their own are looked at. Where a client may write one thing in several
ways, servers behind us see one of them: an address of a subnet is cut to its prefix.
"""

from collections.abc import Callable

LLQ, LEASE, SUBNET, EXPIRE, KEEPALIVE, ERROR, REPORTING, VERSION = 1, 2, 8, 9, 11, 15, 18, 19


class OptionError(ValueError):
    """An option that does not hold what its code says."""


def canonical(code: int, data: bytes) -> bytes:
    """The contents as they go on. Raises OptionError."""
    read = _FORMS.get(code)
    return read(data) if read else data


def _sized(*lengths: int) -> Callable[[bytes], bytes]:
    def read(data: bytes) -> bytes:
        if len(data) not in lengths:
            raise OptionError("EDNS option has a wrong length")
        return data

    return read


def _at_least(length: int) -> Callable[[bytes], bytes]:
    def read(data: bytes) -> bytes:
        if len(data) < length:
            raise OptionError("EDNS option is cut short")
        return data

    return read


def _expire(data: bytes) -> bytes:
    if 0 < len(data) < 4:
        raise OptionError("EDNS option is cut short")
    return data[:4]


def _keepalive(data: bytes) -> bytes:
    """No time and a time of 0 are one thing."""
    return _sized(0, 2)(data) if any(data) else _sized(0, 2)(data)[:0]


def _reporting(data: bytes) -> bytes:
    at = 0
    while at < len(data) and (length := data[at]):
        if length > 63:
            raise OptionError("agent domain is no name")
        at += 1 + length
    if at >= len(data) or at > 254:
        raise OptionError("agent domain is cut short or too long")
    return data[: at + 1]


def _subnet(data: bytes) -> bytes:
    family, prefix, scope = int.from_bytes(_at_least(4)(data)[:2], "big"), data[2], data[3]
    bits = {0: 0, 1: 32, 2: 128}.get(family)
    if bits is None:
        raise OptionError("family of a client subnet is unknown")
    if prefix > bits or (bits and scope > bits):
        raise OptionError("prefix of a client subnet is too long")
    kept = -(-prefix // 8)
    address = int.from_bytes(data[4 : 4 + kept].ljust(bits // 8, b"\0"), "big")
    cut = address >> (bits - prefix) << (bits - prefix)
    return data[:4] + cut.to_bytes(bits // 8, "big")[:kept]


_FORMS: dict[int, Callable[[bytes], bytes]] = {
    LLQ: _at_least(18),
    LEASE: _sized(4, 8),
    SUBNET: _subnet,
    EXPIRE: _expire,
    KEEPALIVE: _keepalive,
    ERROR: _at_least(2),
    REPORTING: _reporting,
    VERSION: _at_least(2),
}
