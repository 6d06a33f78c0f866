"""Requests about traffic control: tbf and htb to limit bandwidth, ingress redirection to shape it.

A device's queue only shapes what leaves it. What enters a device is therefore sent through the
queue of an ``ifb`` device (see the reference bandwidth plugin) or, for a veth, shaped by the queue
of its other end.
"""

import struct

from kubewire.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Message,
    attr,
    attributes,
    nest,
    text,
)

NEWQDISC, DELQDISC, GETQDISC = 36, 37, 38
NEWTCLASS, DELTCLASS = 40, 41

ROOT = 0xFFFFFFFF

_TICKS_PER_SECOND = 15_625_000
"""Of the kernel's packet scheduler clock: 64 ns per tick, fixed since Linux 2.6.31."""

_TC = struct.Struct("=BxxxiIII")
_RATE = struct.Struct("=BBHhHI")
_PUT = NLM_F_CREATE | NLM_F_REPLACE
_LINKLAYER_ETHERNET = 1


def _message(
    kind: int, index: int, body: bytes, what: str, *, handle: int = 0, parent: int = ROOT
) -> Message:
    flags = 0 if kind == DELQDISC else _PUT
    return Message(kind, flags, _TC.pack(0, index, handle, parent, 0) + body, what)


def _ticks(size: int, bytes_per_second: int) -> int:
    return min(size * _TICKS_PER_SECOND // max(bytes_per_second, 1), 0xFFFFFFFF)


def _rate(bytes_per_second: int) -> bytes:
    # The cell size is unused since the kernel computes times itself, but must be non-zero.
    return _RATE.pack(8, _LINKLAYER_ETHERNET, 0, -1, 0, min(bytes_per_second, 0xFFFFFFFF))


def _rate_table(bytes_per_second: int) -> bytes:
    return struct.pack("=256I", *(_ticks((i + 1) << 8, bytes_per_second) for i in range(256)))


def put_tbf(
    index: int, *, bits_per_second: int, burst_bytes: int = 0, latency_ms: int = 25
) -> Message:
    """Limit what leaves a device; the burst defaults to 100 ms at that rate, at least 64 KiB."""
    rate = max(bits_per_second // 8, 1)
    burst = min(burst_bytes or max(rate // 10, 65536), 0xFFFFFFFF)
    limit = min(rate * latency_ms // 1000 + burst, 0xFFFFFFFF)
    parameters = _rate(rate) + bytes(12) + struct.pack("=III", limit, _ticks(burst, rate), 0)
    options = [attr(1, parameters), attr(2, _rate_table(rate)), attr(6, struct.pack("=I", burst))]
    if rate > 0xFFFFFFFF:
        options.append(attr(4, struct.pack("=Q", rate)))
    body = text(1, "tbf") + nest(2, *options)
    return _message(NEWQDISC, index, body, f"tbf on interface {index}", handle=0x10000)


def put_htb(index: int, *, default: int = 1) -> Message:
    """A tree of classes as a device's queue; unclassified traffic goes to ``default``."""
    glob = struct.pack("=IIIII", 3, 10, default, 0, 0)
    body = text(1, "htb") + nest(2, attr(2, glob))
    return _message(NEWQDISC, index, body, f"htb on interface {index}", handle=0x10000)


def put_htb_class(index: int, number: int, *, bits_per_second: int, ceiling: int = 0) -> Message:
    """A class of an htb queue: guaranteed rate and ceiling in bits per second."""
    rate = max(bits_per_second // 8, 1)
    top = max(ceiling // 8, rate)
    buffers = struct.pack(
        "=III", _ticks(max(rate // 100, 4096), rate), _ticks(max(top // 100, 4096), top), 0
    )
    parameters = _rate(rate) + _rate(top) + buffers + struct.pack("=II", 0, 0)
    options = nest(2, attr(1, parameters), attr(3, _rate_table(top)), attr(4, _rate_table(rate)))
    return _message(
        NEWTCLASS, index, text(1, "htb") + options, f"htb class {number} on interface {index}",
        handle=0x10000 | number, parent=0x10000,
    )  # fmt: skip


def delete_root_qdisc(index: int) -> Message:
    """Give a device its default queue back."""
    return _message(DELQDISC, index, b"", f"delete qdisc of interface {index}")


def all_qdiscs() -> bytes:
    """Body of a dump of the queues of all devices."""
    return _TC.pack(0, 0, 0, 0, 0)


def parse_qdisc(body: bytes) -> tuple[int, int, str]:
    """Read a NEWQDISC message: index of the device, parent, kind."""
    _, index, _, parent, _ = _TC.unpack_from(body)
    kind = dict(attributes(body, _TC.size)).get(1, b"")
    return index, parent, kind.rstrip(b"\0").decode()
