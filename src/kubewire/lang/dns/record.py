"""Resource records: one immutable struct, rdata as a tuple of octets and names."""

import socket
import struct

import msgspec

from kubewire.lang.dns import codes
from kubewire.lang.dns.name import to_wire

Rdata = tuple[bytes | str, ...]


class RR(msgspec.Struct, frozen=True, gc=False):
    """A record; names inside rdata are ``str`` so that they can be compressed and rewritten."""

    name: str
    type: int
    ttl: int
    rdata: Rdata
    rclass: int = codes.IN

    def renamed(self, name: str) -> "RR":
        """The same record under another owner."""
        return RR(name, self.type, self.ttl, self.rdata, self.rclass)

    def aged(self, ttl: int) -> "RR":
        """The same record with another TTL."""
        return RR(self.name, self.type, ttl, self.rdata, self.rclass)

    @property
    def target(self) -> str:
        """The first name inside the rdata; "" if there is none."""
        return next((p for p in self.rdata if isinstance(p, str)), "")


# What stands before, between and after the names of a type: an octet count, or "n" for a name.
# Names of the types in COMPRESSED may be pointers (RFC 3597, section 4).
_LAYOUT: dict[int, tuple[int | str, ...]] = {
    codes.NS: ("n",),
    codes.CNAME: ("n",),
    codes.PTR: ("n",),
    codes.DNAME: ("n",),
    codes.SOA: ("n", "n", 20),
    codes.MX: (2, "n"),
    codes.SRV: (6, "n"),
    codes.TYPES["RP"]: ("n", "n"),
    codes.TYPES["AFSDB"]: (2, "n"),
    codes.TYPES["MINFO"]: ("n", "n"),
}
_FIXED = {codes.A: 4, codes.AAAA: 16}
_STRINGS = frozenset({codes.TXT, codes.HINFO, codes.TYPES["SPF"]})
COMPRESSED = frozenset({codes.NS, codes.CNAME, codes.PTR, codes.SOA, codes.MX})


def layout(rtype: int) -> tuple[int | str, ...] | None:
    """Where a type's rdata holds names; None: nowhere."""
    return _LAYOUT.get(rtype)


def address(name: str, ttl: int, ip: str) -> RR:
    """An A or AAAA record, by the address's family. Raises OSError on a wrong address."""
    if ":" in ip:
        return RR(name, codes.AAAA, ttl, (socket.inet_pton(socket.AF_INET6, ip),))
    return RR(name, codes.A, ttl, (socket.inet_pton(socket.AF_INET, ip),))


def cname(name: str, ttl: int, target: str) -> RR:
    """A CNAME record."""
    return RR(name, codes.CNAME, ttl, (target,))


def ptr(name: str, ttl: int, target: str) -> RR:
    """A PTR record."""
    return RR(name, codes.PTR, ttl, (target,))


def ns(name: str, ttl: int, target: str) -> RR:
    """An NS record."""
    return RR(name, codes.NS, ttl, (target,))


def mx(name: str, ttl: int, preference: int, target: str) -> RR:
    """An MX record."""
    return RR(name, codes.MX, ttl, (struct.pack("!H", preference), target))


def srv(name: str, ttl: int, priority: int, weight: int, port: int, target: str) -> RR:
    """An SRV record."""
    return RR(name, codes.SRV, ttl, (struct.pack("!HHH", priority, weight, port), target))


def txt(name: str, ttl: int, *strings: str, rclass: int = codes.IN) -> RR:
    """A TXT record; every string is cut into pieces of 255 octets."""
    raw = [s.encode() for s in strings]
    pieces = [r[i : i + 255] for r in raw for i in range(0, max(len(r), 1), 255)]
    body = b"".join(bytes((len(p),)) + p for p in pieces)
    return RR(name, codes.TXT, ttl, (body,), rclass)


def hinfo(name: str, ttl: int, cpu: str, os: str) -> RR:
    """A HINFO record."""
    raw = b"".join(bytes((len(s),)) + s.encode() for s in (cpu, os))
    return RR(name, codes.HINFO, ttl, (raw,))


def soa(
    name: str,
    ttl: int,
    mname: str,
    rname: str,
    serial: int,
    *,
    refresh: int = 7200,
    retry: int = 1800,
    expire: int = 86400,
    minimum: int = 0,
) -> RR:
    """An SOA record."""
    numbers = struct.pack("!5I", serial & 0xFFFFFFFF, refresh, retry, expire, minimum)
    return RR(name, codes.SOA, ttl, (mname, rname, numbers))


def soa_numbers(record: RR) -> tuple[int, int, int, int, int]:
    """serial, refresh, retry, expire, minimum of an SOA record."""
    raw = record.rdata[2]
    assert isinstance(raw, bytes)
    serial, refresh, retry, expire, minimum = struct.unpack("!5I", raw)
    return serial, refresh, retry, expire, minimum


def rdata_wire(record: RR) -> bytes:
    """Rdata uncompressed."""
    return b"".join(to_wire(p) if isinstance(p, str) else p for p in record.rdata)


def address_text(record: RR) -> str:
    """The address of an A or AAAA record."""
    raw = record.rdata[0]
    assert isinstance(raw, bytes)
    return socket.inet_ntop(socket.AF_INET if record.type == codes.A else socket.AF_INET6, raw)


def rdata_text(record: RR) -> str:
    """Rdata as a zone file would have it."""
    match record.type:
        case codes.A | codes.AAAA:
            return address_text(record)
        case codes.CNAME | codes.PTR | codes.NS | codes.DNAME:
            return record.target
        case codes.SOA:
            return " ".join((*_names(record), *map(str, soa_numbers(record))))
        case codes.SRV | codes.MX:
            raw = record.rdata[0]
            assert isinstance(raw, bytes)
            numbers = struct.unpack(f"!{len(raw) // 2}H", raw)
            return " ".join((*map(str, numbers), record.target))
        case codes.TXT | codes.HINFO:
            return " ".join(_strings(rdata_wire(record)))
    return _generic_text(record)


def _names(record: RR) -> list[str]:
    return [p for p in record.rdata if isinstance(p, str)]


def _strings(raw: bytes) -> list[str]:
    found, i = [], 0
    while i < len(raw):
        piece = raw[i + 1 : i + 1 + raw[i]]
        i += 1 + raw[i]
        found.append('"' + "".join(_quoted(b) for b in piece) + '"')
    return found


def _quoted(byte: int) -> str:
    if byte in b'"\\':
        return "\\" + chr(byte)
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03d}"


def _generic_text(record: RR) -> str:
    import dns.exception
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype

    raw = rdata_wire(record)
    try:
        return str(
            dns.rdata.from_wire(
                dns.rdataclass.RdataClass.make(record.rclass),
                dns.rdatatype.RdataType.make(record.type),
                raw,
                0,
                len(raw),
            )
        )
    except (dns.exception.DNSException, ValueError):
        return f"\\# {len(raw)} {raw.hex()}".rstrip()


def from_text(
    name: str, ttl: int, rtype: int, text: str, origin: str = ".", rclass: int = codes.IN
) -> RR:
    """Read rdata of any type as a zone file has it. Raises ValueError."""
    import dns.exception
    import dns.name
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype

    try:
        parsed = dns.rdata.from_text(
            dns.rdataclass.RdataClass.make(rclass),
            dns.rdatatype.RdataType.make(rtype),
            text,
            origin=dns.name.from_text(origin),
            relativize=False,
        )
    except dns.exception.DNSException as error:
        raise ValueError(str(error) or type(error).__name__) from error
    wire = parsed.to_wire()
    assert wire is not None
    return RR(name, rtype, ttl, split_rdata(wire, 0, len(wire), rtype), rclass)


def split_rdata(data: bytes, start: int, end: int, rtype: int) -> Rdata:
    """Cut rdata within a message into octets and (decompressed) names. Raises ValueError."""
    from kubewire.lang.dns.message import read_name

    shape = _LAYOUT.get(rtype)
    if shape is None:
        if rtype in _STRINGS:
            _check_strings(data[start:end])
        elif end - start != _FIXED.get(rtype, end - start):
            raise ValueError("rdata has another length than its type")
        return (data[start:end],)
    parts: list[bytes | str] = []
    at = start
    for step in shape:
        if isinstance(step, int):
            if at + step > end:
                raise ValueError("rdata is cut short")
            parts.append(data[at : at + step])
            at += step
        else:
            name, at = read_name(data, at)
            parts.append(name)
    if at != end:
        raise ValueError("rdata has another length than its fields")
    return tuple(parts)


def _check_strings(raw: bytes) -> None:
    at = 0
    while at < len(raw):
        at += 1 + raw[at]
    if at != len(raw) or not raw:
        raise ValueError("strings have another length than the rdata")
