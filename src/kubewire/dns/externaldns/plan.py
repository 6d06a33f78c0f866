"""What has to change: records wanted, records there -> creates, updates, deletes; pure.

A record that is not ours is never touched, and a name that has one gets no further types from us:
whoever published it answers for the whole name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from kubewire.dns.externaldns.record import Record, RecordKey

Policy = Literal["sync", "upsert-only", "create-only"]


@dataclass(frozen=True, slots=True)
class DomainFilter:
    """Which names are ours to publish; ``.example.org`` means names below it only."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def allows(self, name: str) -> bool:
        """Tell whether a name is within what is included and not excluded."""
        included = not self.include or any(_within(name, d) for d in self.include)
        return included and not any(_within(name, d) for d in self.exclude)


def _within(name: str, domain: str) -> bool:
    domain = domain.strip().lower().rstrip(".")
    if domain.startswith("."):
        return name.endswith(domain)
    return not domain or name == domain or name.endswith(f".{domain}")


@dataclass(slots=True)
class Changes:
    """What the server is to be told."""

    create: list[Record] = field(default_factory=list)
    update: list[tuple[Record, Record]] = field(default_factory=list)
    """(as it is, as it shall be)."""
    delete: list[Record] = field(default_factory=list)
    foreign: list[tuple[Record, str]] = field(default_factory=list)
    """(wanted, why it is not published)."""

    def __bool__(self) -> bool:
        return bool(self.create or self.update or self.delete)


def plan(
    wanted: Mapping[RecordKey, Record],
    current: Iterable[Record],
    *,
    owner: str | None,
    policy: Policy = "sync",
    domains: DomainFilter | None = None,
    types: Iterable[str] = ("A", "AAAA", "CNAME"),
) -> Changes:
    """Compare; ``owner`` None means that ownership is not looked at (``--registry noop``)."""
    domains, managed = domains or DomainFilter(), {*types}
    there = {r.key: r for r in current if r.type in managed and domains.allows(r.name)}
    asked = {k: r for k, r in wanted.items() if r.type in managed and domains.allows(r.name)}
    strangers = {r.name for r in there.values() if owner is not None and r.owner != owner}
    changes = Changes()
    for key, record in sorted(asked.items()):
        known = there.get(key)
        if known is None and key.name not in strangers:
            changes.create.append(record)
        elif known is None or (owner is not None and known.owner != owner):
            holder = known.owner if known else ""
            why = f"owned by {holder!r}" if holder else "not published by external-dns"
            changes.foreign.append((record, f"{key.name} is {why}"))
        elif _differs(known, record) and policy != "create-only":
            kept = record if record.ttl is not None else replace(record, ttl=known.ttl)
            changes.update.append((known, kept))
    if policy == "sync":
        gone = (r for key, r in sorted(there.items()) if key not in asked)
        changes.delete = [r for r in gone if owner is None or r.owner == owner]
    return changes


def _differs(known: Record, record: Record) -> bool:
    return (
        set(known.targets) != set(record.targets)
        or (record.ttl is not None and record.ttl != known.ttl)
        or bool(known.resource and record.resource and known.resource != record.resource)
    )
