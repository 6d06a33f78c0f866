"""Black lies: what a server that signs on the fly says of what is not there.

An NSEC record is made up for the one name that was asked for. It says that every type may exist
there but the one that does not, because resolvers believe it about the other types, too (RFC 8198).
"""

from __future__ import annotations

from collections.abc import Iterable

from kubewire.lang.dns import codes
from kubewire.lang.dns.name import split, to_wire
from kubewire.lang.dns.record import RR, soa_numbers

_ANYWHERE = frozenset({1, 13, 16, 28, 29, 33, 37, 44, 46, 47, 52, 55, 61, 99})
"""A, HINFO, TXT, AAAA, LOC, SRV, CERT, SSHFP, RRSIG, NSEC, TLSA, HIP, OPENPGPKEY, SPF."""
_APEX = _ANYWHERE | {codes.NS, codes.SOA, codes.MX, codes.DNSKEY}
_CUT = frozenset({codes.NS, codes.RRSIG, codes.NSEC})


def missing(response_authority: list[RR], answer: list[RR], qtype: int) -> bool:
    """Tell whether an answer says that something is not there, itself or behind its aliases."""
    if not any(r.type == codes.SOA for r in response_authority):
        return False
    return not answer or (answer[-1].type == codes.CNAME and qtype != codes.CNAME)


def denial(name: str, qtype: int, zone: str, authority: list[RR]) -> RR:
    """There is no such type at this name."""
    [apex, *_] = [r for r in authority if r.type == codes.SOA]
    types = (_APEX if name.lower() == zone else _ANYWHERE) - {qtype}
    if qtype == codes.NSEC:
        types |= {codes.NSEC}
    ttl = min(apex.ttl, soa_numbers(apex)[4])
    return _nsec(name, ttl, b"\x01\0" + to_wire(name), types)


def cut(response_authority: list[RR], answer: list[RR], zone: str) -> list[RR]:
    """The NS records of a referral; none if it is another answer."""
    if answer or any(r.type == codes.SOA for r in response_authority):
        return []
    return [r for r in response_authority if r.type == codes.NS and r.name.lower() != zone]


def unsigned(servers: list[RR]) -> RR:
    """The zone below a cut has no DS record; names below the cut are its own."""
    name = servers[0].name
    first, *rest = split(name)
    return _nsec(name, servers[0].ttl, to_wire(".".join((first + "\\000", *rest)) + "."), _CUT)


def _nsec(name: str, ttl: int, following: bytes, types: Iterable[int]) -> RR:
    bits = bytearray(max(types) // 8 + 1)
    for number in types:
        bits[number // 8] |= 0x80 >> number % 8
    return RR(name, codes.NSEC, ttl, (following + bytes((0, len(bits))) + bytes(bits),))
