"""Catalog zones (RFC 9432): which zones a catalog lists, and what a change of it means. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubewire.lang.dns import codes
from kubewire.lang.dns.name import normalize, relative, within
from kubewire.lang.dns.record import RR, rdata_text


class CatalogError(ValueError):
    """A zone that is no (valid) catalog; the one before stays in force."""


@dataclass(frozen=True)
class Member:
    """A zone that a catalog lists, and under which label."""

    label: str
    zone: str
    heir: str = ""
    """The catalog that may take the zone over (property ``coo``)."""


@dataclass(frozen=True)
class Owned:
    """A zone that is served because a catalog lists it."""

    catalog: str
    label: str


@dataclass(frozen=True)
class Change:
    """A zone that comes, starts anew, or goes to another catalog; ``keep``: with what it holds."""

    zone: str
    owned: Owned
    keep: bool = False


def parse(origin: str, records: Iterable[RR]) -> dict[str, Member]:
    """Members by zone. Raises CatalogError."""
    apex: set[int] = set()
    versions: list[str] = []
    pointers: dict[str, list[str]] = defaultdict(list)
    heirs: dict[str, list[str]] = defaultdict(list)
    for record in records:
        owner = normalize(record.name)
        inner = relative(owner, origin).split(".") if within(owner, origin) else []
        match record.type, inner:
            case codes.SOA | codes.NS, [""]:
                apex.add(record.type)
            case codes.TXT, ["version"]:
                versions.append(rdata_text(record).strip('"'))
            case codes.PTR, [label, "zones"]:
                pointers[label].append(normalize(record.target))
            case codes.PTR, ["coo", label, "zones"]:
                heirs[label].append(normalize(record.target))
    for kind, name in ((codes.SOA, "SOA"), (codes.NS, "NS")):
        if kind not in apex:
            raise CatalogError(f"catalog zone {origin} has no {name} record")
    if len(versions) != 1:
        raise CatalogError(f"catalog zone {origin} must have exactly one version TXT record")
    if versions[0] != "2":
        raise CatalogError(f'catalog zone {origin} has unsupported version "{versions[0]}"')
    return _members(origin, pointers, heirs)


def _members(
    origin: str, pointers: Mapping[str, list[str]], heirs: Mapping[str, list[str]]
) -> dict[str, Member]:
    found: dict[str, Member] = {}
    for label, zones in pointers.items():
        if len(zones) != 1:
            raise CatalogError(
                f"catalog member {label}.zones.{origin} must have exactly one PTR record"
            )
        if len(heirs.get(label, ())) > 1:
            raise CatalogError(f"catalog member {label} has more than one coo PTR record")
        [zone] = zones
        if zone in found:
            raise CatalogError(
                f"catalog member zone {zone} is listed by both {found[zone].label} and {label}"
            )
        found[zone] = Member(label, zone, next(iter(heirs.get(label, ())), ""))
    return found


def changes(
    origin: str,
    catalogs: Mapping[str, Mapping[str, Member]],
    owned: Mapping[str, Owned],
    configured: Iterable[str],
    allowed: Iterable[str],
) -> tuple[list[Change], list[str], list[str]]:
    """What the catalog ``origin`` (one of ``catalogs``) asks for: comes, goes, is refused.

    A zone that the configuration or another catalog has stays theirs, unless that catalog names
    this one as heir. It keeps what it holds only if its label is the same in both.
    """
    come: list[Change] = []
    refused: list[str] = []
    limits, fixed = tuple(allowed), set(configured)
    members = catalogs[origin]
    for zone, member in sorted(members.items()):
        new, old = Owned(origin, member.label), owned.get(zone)
        if (limits and not any(within(zone, limit) for limit in limits)) or zone in fixed:
            refused.append(zone)
        elif old is None or (old.catalog == origin and old.label != member.label):
            come.append(Change(zone, new))
        elif old.catalog != origin:
            source = catalogs.get(old.catalog, {}).get(zone)
            if source is None or source.heir != origin:
                refused.append(zone)
            else:
                come.append(Change(zone, new, keep=old.label == source.label == member.label))
    admitted = set(members) - set(refused)
    gone = [z for z, o in sorted(owned.items()) if o.catalog == origin and z not in admitted]
    return come, gone, refused
