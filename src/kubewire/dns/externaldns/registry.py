"""Who owns a record: a TXT record beside it, as external-dns writes them.

``a-www.example.org TXT "heritage=external-dns,external-dns/owner=ID,external-dns/resource=..."``
belongs to the A record of www.example.org. Records without one are somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kubewire.api.errors import InputError
from kubewire.dns.externaldns.record import Record, RecordKey, normal

HERITAGE = "external-dns"
TYPES = ("A", "AAAA", "CNAME", "SRV", "NS", "MX", "PTR")
_MARK = "%{record_type}"


@dataclass(frozen=True, slots=True)
class Registry:
    """How ownership is written."""

    owner: str = "default"
    prefix: str = ""
    suffix: str = ""
    wildcard: str = ""
    """What stands for ``*`` in the name of a TXT record."""

    def __post_init__(self) -> None:
        if self.prefix and self.suffix:
            raise InputError("--txt-prefix and --txt-suffix are mutually exclusive")

    def name_of(self, key: RecordKey) -> str:
        """The TXT record that tells the owner of a record."""
        kind, (label, dot, rest) = key.type.lower(), key.name.partition(".")
        if label == "*" and self.wildcard:
            label = self.wildcard
        if not (_MARK in self.prefix or _MARK in self.suffix):
            label = f"{kind}-{label}"
            if self.prefix:
                # A prefix may end in a dot: the type then leads the name below it.
                return normal(f"{self.prefix}{label}{dot}{rest}")
        prefix, suffix = (x.replace(_MARK, kind) for x in (self.prefix, self.suffix))
        return normal(f"{prefix}{label}{suffix}{dot}{rest}")

    def text_of(self, record: Record) -> str:
        """What it says."""
        text = f"heritage={HERITAGE},external-dns/owner={self.owner}"
        return f"{text},external-dns/resource={record.resource}" if record.resource else text

    def owned(self, found: Iterable[Record], texts: Mapping[str, Iterable[str]]) -> list[Record]:
        """The records of a zone with owner and resource as their TXT records say."""
        result = []
        for record in found:
            labels = next(
                filter(None, map(parse, texts.get(self.name_of(record.key), ()))), None
            )  # fmt: skip
            if labels is not None:
                record = replace(  # noqa: PLW2901
                    record, owner=labels.get("owner", ""), resource=labels.get("resource", "")
                )
            result.append(record)
        return result


def parse(text: str) -> dict[str, str] | None:
    """The labels of a TXT record; None if it is no ownership record."""
    labels: dict[str, str] = {}
    for part in text.strip().strip('"').split(","):
        name, equals, value = part.partition("=")
        if not equals:
            return None
        labels[name] = value
    if labels.pop("heritage", "") != HERITAGE:
        return None
    return {name.removeprefix("external-dns/"): value for name, value in labels.items()}
