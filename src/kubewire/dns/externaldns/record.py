"""What is published: one name and type with all its targets, and whose it is."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple


class RecordKey(NamedTuple):
    """A record set."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Record:
    """One record set; names are lower case, without the last dot."""

    name: str
    type: str
    """A, AAAA, CNAME or SRV."""
    targets: tuple[str, ...]
    ttl: int | None = None
    """Seconds; None: the provider's least."""
    resource: str = ""
    """``service/ns/name``: the object that asks for it."""
    owner: str = ""
    """``--txt-owner-id`` of whoever published it; "" if nobody says so."""

    @property
    def key(self) -> RecordKey:
        """Name and type."""
        return RecordKey(self.name, self.type)


def normal(name: str) -> str:
    """A host name as records hold it."""
    return name.strip().rstrip(".").lower()


def type_of(target: str) -> str:
    """A for an IPv4 address, AAAA for an IPv6 address, CNAME for a name."""
    try:
        return "A" if ipaddress.ip_address(target).version == 4 else "AAAA"
    except ValueError:
        return "CNAME"


def records(name: str, targets: Iterable[str], ttl: int | None, resource: str) -> list[Record]:
    """One record set per type of target."""
    by_type: dict[str, list[str]] = {}
    for target in targets:
        kind = type_of(target)
        by_type.setdefault(kind, []).append(normal(target) if kind == "CNAME" else target)
    return [
        Record(normal(name), kind, tuple(sorted(set(found))), ttl, resource)
        for kind, found in by_type.items()
    ]


def merged(found: Iterable[Record]) -> dict[RecordKey, Record]:
    """Equal names and types become one record set with the targets of all.

    A name cannot have a CNAME beside anything else (RFC 1034, 3.6.2): addresses win. Of several
    CNAMEs one can hold: the object that comes first by name.
    """
    result: dict[RecordKey, Record] = {}
    for record in sorted(found, key=lambda r: (r.resource, r.name, r.type)):
        known = result.get(record.key)
        if known is None:
            result[record.key] = record
        elif record.type != "CNAME":
            targets = tuple(sorted({*known.targets, *record.targets}))
            ttl = known.ttl if known.ttl is not None else record.ttl
            result[record.key] = replace(known, targets=targets, ttl=ttl)
    for name in {r.name for r in result.values() if r.type in ("A", "AAAA")}:
        result.pop(RecordKey(name, "CNAME"), None)
    return {
        key: replace(r, targets=r.targets[:1]) if r.type == "CNAME" else r
        for key, r in result.items()
    }
