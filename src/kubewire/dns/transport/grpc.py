"""DNS over gRPC, as CoreDNS' ``grpc://`` servers and its grpc plugin speak it.

One unary call, ``/coredns.dns.DnsService/Query``; its message holds the octets of a DNS message in
field 1. That is little enough to be written by hand.
"""

from __future__ import annotations

from kubewire.dns.transport.asking import Behind, ask
from kubewire.dns.transport.http2 import STREAMS, Http2Connection, HttpAnswer, HttpRequest

PATH = "/coredns.dns.DnsService/Query"
CONNECTIONS = 200
INVALID, UNIMPLEMENTED, INTERNAL = 3, 12, 13


class BadFrameError(ValueError):
    """Not a gRPC message with a DNS message in it."""


def connection(behind: Behind, *, idle: float) -> Http2Connection:
    """A connection that answers calls."""
    limits = behind.block.limits
    most = limits.get("grpc_server.max_connections", CONNECTIONS)
    streams = limits.get("grpc_server.max_streams", STREAMS)
    return Http2Connection(
        behind, lambda request: answer(behind, request), idle=idle,
        streams=streams or 2**31 - 1, connections=most,
    )  # fmt: skip


async def answer(behind: Behind, request: HttpRequest) -> HttpAnswer:
    """Answer one call."""
    if request.path != PATH:
        return _failed(UNIMPLEMENTED, f"unknown method {request.path}")
    try:
        data = unwrap(bytes(request.body))
    except BadFrameError as error:
        return _failed(INVALID, str(error))
    found = await ask(behind, data, request.client, request.local)
    if found is None:
        return _failed(INTERNAL, "no response")
    return HttpAnswer(
        200, [("content-type", "application/grpc")], wrap(found), [("grpc-status", "0")]
    )


def _failed(status: int, text: str) -> HttpAnswer:
    fields = [
        ("content-type", "application/grpc"),
        ("grpc-status", str(status)),
        ("grpc-message", text),
    ]
    return HttpAnswer(200, fields)


def wrap(data: bytes) -> bytes:
    """A gRPC frame with a DnsPacket."""
    body = b"\x0a" + _varint(len(data)) + data
    return b"\0" + len(body).to_bytes(4, "big") + body


def unwrap(frame: bytes) -> bytes:
    """The DNS message of a gRPC frame. Raises BadFrameError."""
    if len(frame) < 5 or frame[0] or int.from_bytes(frame[1:5], "big") != len(frame) - 5:
        raise BadFrameError("not one uncompressed message")
    body, at = frame[5:], 0
    while at < len(body):
        tag, at = _read_varint(body, at)
        if tag & 7 != 2:
            raise BadFrameError("a field that DnsPacket does not have")
        length, at = _read_varint(body, at)
        if at + length > len(body):
            break
        if tag == 0x0A:
            return body[at : at + length]
        at += length
    raise BadFrameError("no DNS message in it")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        number |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return number, at
    raise BadFrameError("a number is cut short")
