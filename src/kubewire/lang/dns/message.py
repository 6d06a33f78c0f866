"""Messages: parse what came in, encode an answer within a size."""

import struct

import msgspec

from kubewire.lang.dns import codes
from kubewire.lang.dns.name import MAX_NAME, is_plain, join_labels, label_bytes, split, to_wire
from kubewire.lang.dns.options import canonical
from kubewire.lang.dns.record import COMPRESSED, RR, split_rdata

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
MAX_MESSAGE = 65535

_UNSPLIT = ""
"""Key in a table of offsets: those of the question's name are not all there yet."""

_HEADER = struct.Struct("!6H")
_RR_HEAD = struct.Struct("!HHIH")
_TWO = struct.Struct("!HH")


class WireError(ValueError):
    """Octets that are no DNS message."""


class Question(msgspec.Struct, frozen=True, gc=False):
    """What is asked; the name keeps the client's spelling."""

    name: str
    type: int
    rclass: int = codes.IN
    wire: bytes = b""
    """As it came in, if its name is plain: it goes back without being written anew."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Question):
            return NotImplemented
        return (self.name, self.type, self.rclass) == (other.name, other.type, other.rclass)

    def __hash__(self) -> int:
        return hash((self.name, self.type, self.rclass))


class Edns(msgspec.Struct, frozen=True):
    """The OPT record (RFC 6891)."""

    size: int = 1232
    do: bool = False
    version: int = 0
    rcode: int = 0
    """Upper eight bits of the extended rcode."""
    options: tuple[tuple[int, bytes], ...] = ()


class Message(msgspec.Struct):
    """A message; ``flags`` holds the second header word, opcode and rcode included."""

    id: int = 0
    flags: int = 0
    question: Question | None = None
    answer: list[RR] = []
    authority: list[RR] = []
    additional: list[RR] = []
    edns: Edns | None = None
    tsig: RR | None = None

    @property
    def rcode(self) -> int:
        """The rcode, extended bits included."""
        return (self.flags & 15) | (self.edns.rcode << 4 if self.edns else 0)

    @property
    def opcode(self) -> int:
        """The opcode."""
        return (self.flags >> 11) & 15


def read_name(data: bytes, at: int) -> tuple[str, int]:
    """A name at an offset, and the offset after it. Raises WireError."""
    return _plain_name(data, at) or _any_name(data, at)


def _plain_name(data: bytes, at: int) -> tuple[str, int] | None:
    """The name if it is uncompressed and needs no escapes, as nearly every one is."""
    out = bytearray(data[at : at + MAX_NAME])
    end = dots = 0
    try:
        while length := out[end]:
            if length > 63:
                return None
            out[end] = 46
            end += length + 1
            dots += 1
    except IndexError:
        return None
    text = out[1:end]
    if not is_plain(text) or text.count(b".") != dots - 1:
        return None
    return text.decode("ascii") + ".", at + end + 1


def _any_name(data: bytes, at: int) -> tuple[str, int]:
    labels: list[bytes] = []
    after, total, limit = -1, 0, at
    try:
        while length := data[at]:
            if length < 64:
                labels.append(data[at + 1 : at + 1 + length])
                at += 1 + length
                total += 1 + length
                if total > 254 or at > len(data):
                    raise WireError("name is too long or cut short")
            elif length >= 192:
                target = (length & 63) << 8 | data[at + 1]
                if after < 0:
                    after = at + 2
                if target >= limit:
                    raise WireError("compression pointer does not point backwards")
                at = limit = target
            else:
                raise WireError("label type is unknown")
    except IndexError:
        raise WireError("name is cut short") from None
    return join_labels(labels), at + 1 if after < 0 else after


def parse(data: bytes) -> Message:
    """Read a whole message. Raises WireError."""
    if len(data) < 12:
        raise WireError("message is shorter than its header")
    ident, flags, questions, *counts = _HEADER.unpack_from(data)
    message = Message(id=ident, flags=flags)
    at = 12
    try:
        for number in range(questions):
            plain = _plain_name(data, at)
            name, end = plain or _any_name(data, at)
            rtype, rclass = _TWO.unpack_from(data, end)
            if number == 0:
                wire = data[at : end + 4] if plain else b""
                message.question = Question(name, rtype, rclass, wire)
            at = end + 4
        if not any(counts):
            return message
        for section, count in zip(
            (message.answer, message.authority, message.additional), counts, strict=True
        ):
            for _ in range(count):
                at = _read_record(data, at, message, section)
    except struct.error:
        raise WireError("record is cut short") from None
    except WireError:
        raise
    except ValueError as error:
        raise WireError(str(error)) from None
    return message


def _read_record(data: bytes, at: int, message: Message, section: list[RR]) -> int:
    name, at = read_name(data, at)
    rtype, rclass, ttl, length = _RR_HEAD.unpack_from(data, at)
    start: int = at + 10
    end: int = start + length
    if end > len(data):
        raise WireError("rdata is cut short")
    if rtype == codes.OPT:
        if name != "." or message.edns or section is not message.additional:
            raise WireError("OPT record is misplaced")
        message.edns = Edns(
            rclass, bool(ttl & 0x8000), ttl >> 16 & 255, ttl >> 24, _options(data[start:end])
        )
    elif rtype == codes.TSIG:
        _check_signature(data, start, end)
        message.tsig = RR(name, rtype, ttl, (data[start:end],), rclass)
    elif length == 0 and rclass != codes.IN:
        # Conditions of an update say with an empty rdata that they are about any.
        section.append(RR(name, rtype, ttl, (), rclass))
    else:
        section.append(RR(name, rtype, ttl, split_rdata(data, start, end, rtype), rclass))
    return end


def _check_signature(data: bytes, start: int, end: int) -> None:
    """Rdata of a TSIG record: algorithm, time and fudge, MAC, id and error, other data."""
    _, at = read_name(data, start)
    for fixed in (8, 4):
        (length,) = struct.unpack_from("!H", data, at + fixed)
        at += fixed + 2 + length
    if at != end:
        raise WireError("TSIG record is cut short")


def _options(raw: bytes) -> tuple[tuple[int, bytes], ...]:
    options, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise WireError("EDNS option is cut short")
        code, length = _TWO.unpack_from(raw, at)
        at += 4 + length
        if at > len(raw):
            raise WireError("EDNS option is cut short")
        options.append((code, canonical(code, raw[at - length : at])))
    return tuple(options)


def encode(message: Message, limit: int = MAX_MESSAGE) -> bytes:
    """Octets of a message, at most ``limit``: records are cut from the end, then TC is set.

    Raises BadNameError if a name is no domain name.
    """
    out = bytearray(12)
    offsets: dict[str, int] = {}
    flags = message.flags
    if question := message.question:
        if question.wire:
            out += question.wire
            offsets[question.name] = 12
            offsets[_UNSPLIT] = 0
        else:
            _put_name(out, offsets, question.name, compress=True)
            out += _TWO.pack(question.type, question.rclass)
    tail = _opt(message.edns)
    room = limit - len(tail)
    counts = [0, 0, 0]
    for index, section in enumerate((message.answer, message.authority, message.additional)):
        for record in section:
            before = len(out)
            _put_record(out, offsets, record)
            if len(out) > room:
                del out[before:]
                flags |= TC
                break
            counts[index] += 1
        else:
            continue
        break
    if tail:
        out += tail
        counts[2] += 1
    _HEADER.pack_into(out, 0, message.id, flags, 1 if question else 0, *counts)
    return bytes(out)


def _opt(edns: Edns | None) -> bytes:
    if edns is None:
        return b""
    body = b"".join(_TWO.pack(code, len(data)) + data for code, data in edns.options)
    ttl = edns.rcode << 24 | edns.version << 16 | (0x8000 if edns.do else 0)
    return b"\0" + _RR_HEAD.pack(codes.OPT, edns.size, ttl, len(body)) + body


def _put_record(out: bytearray, offsets: dict[str, int], record: RR) -> None:
    _put_name(out, offsets, record.name, compress=True)
    rdata = record.rdata
    rtype = record.type
    if len(rdata) == 1 and isinstance(rdata[0], bytes):
        raw = rdata[0]
        out += _RR_HEAD.pack(rtype, record.rclass, record.ttl, len(raw))
        out += raw
        return
    out += _RR_HEAD.pack(rtype, record.rclass, record.ttl, 0)
    start = len(out)
    compress = rtype in COMPRESSED
    for part in rdata:
        if isinstance(part, str):
            _put_name(out, offsets, part, compress=compress)
        else:
            out += part
    out[start - 2 : start] = (len(out) - start).to_bytes(2, "big")


def _put_name(out: bytearray, offsets: dict[str, int], name: str, *, compress: bool) -> None:
    offset = offsets.get(name)
    if offset is not None and compress:
        out += (0xC000 | offset).to_bytes(2, "big")
        return
    if len(name) >= MAX_NAME:
        to_wire(name)
    if _UNSPLIT in offsets:
        _split_question(offsets)
    escaped = "\\" in name
    while name != ".":
        offset = offsets.get(name)
        if offset is not None and compress:
            out += (0xC000 | offset).to_bytes(2, "big")
            return
        if offset is None and len(out) < 0x4000:
            offsets[name] = len(out)
        if escaped:
            first = split(name)[0]
            rest = name[len(first) + 1 :]
            raw = label_bytes(first)
        else:
            first, _, rest = name.partition(".")
            raw = first.encode()
            if not 0 < len(raw) < 64:
                raw = label_bytes(first)
        out.append(len(raw))
        out += raw
        name = rest or "."
    out.append(0)


def _split_question(offsets: dict[str, int]) -> None:
    """Offsets of the names that the question's name ends in: most answers need none of them."""
    del offsets[_UNSPLIT]
    name, at = next(iter(offsets)), 12
    while name != ".":
        offsets[name] = at
        label, _, rest = name.partition(".")
        at += 1 + len(label)
        name = rest or "."
