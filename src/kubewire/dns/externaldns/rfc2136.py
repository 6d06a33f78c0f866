"""A DNS server that takes dynamic updates (RFC 2136), signed with TSIG (RFC 8945); blocking.

The zones are read whole by AXFR: a server cannot be asked for "what did I publish" otherwise.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update
import dns.xfr
import dns.zone

from kubewire.api.errors import InputError
from kubewire.dns.externaldns.plan import Changes
from kubewire.dns.externaldns.record import Record, RecordKey, normal
from kubewire.dns.externaldns.registry import TYPES, Registry

log = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds for one exchange."""

T = TypeVar("T")
Step = Callable[[dns.update.UpdateMessage], None]
"""Adds one change to a message."""


class ProviderError(Exception):
    """The DNS server did not do what it was asked; the text names zone and reason."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the zones are and how to sign."""

    hosts: tuple[str, ...]
    zones: tuple[str, ...]
    port: int = 53
    key_name: str = ""
    secret: str = ""
    """Base64; "" means unsigned (``--rfc2136-insecure``)."""
    algorithm: str = "hmac-sha256"
    min_ttl: int = 0
    batch: int = 50

    def __post_init__(self) -> None:
        for value, flag in ((self.hosts, "--rfc2136-host"), (self.zones, "--rfc2136-zone")):
            if not value:
                raise InputError(f"{flag}: is required with --provider rfc2136")
        _ = self.key

    @property
    def key(self) -> dns.tsig.Key | None:
        """The TSIG key; InputError if the secret is no base64."""
        if not self.secret:
            return None
        try:
            secret = base64.b64decode(self.secret, validate=True)
        except ValueError as error:
            raise InputError(f"--rfc2136-tsig-secret: not base64: {error}") from error
        return dns.tsig.Key(self.key_name, secret, dns.name.from_text(self.algorithm))


class Zones:
    """The zones of one server: read, compared with what is ours, changed."""

    def __init__(self, server: Server, registry: Registry | None) -> None:
        self._server = server
        self._registry = registry
        self._names = {normal(z): dns.name.from_text(z) for z in server.zones}

    def records(self) -> list[Record]:
        """Every record of the zones that could be ours, with its owner."""
        found: dict[RecordKey, tuple[int, list[str]]] = {}
        texts: dict[str, list[str]] = {}
        for name, ttl, rdata in (x for zone in self._names for x in self._transfer(zone)):
            kind = dns.rdatatype.to_text(rdata.rdtype)
            if kind == "TXT":
                texts.setdefault(name, []).append(b"".join(rdata.strings).decode(errors="replace"))
            elif kind in TYPES:
                target = rdata.to_text()
                # A host name as a target of ours has no last dot; an SRV has one inside.
                found.setdefault(RecordKey(name, kind), (ttl, []))[1].append(
                    normal(target) if kind == "CNAME" else target
                )
        result = [Record(k.name, k.type, tuple(sorted(t)), ttl) for k, (ttl, t) in found.items()]
        return self._registry.owned(result, texts) if self._registry else result

    def apply(self, changes: Changes) -> None:
        """Send the changes, zone by zone, in batches."""
        steps: dict[str, list[Step]] = {}
        for name, step in self._steps(changes):
            zone = self._zone_of(name)
            if zone is None:
                log.warning("%s is in none of the zones %s", name, ", ".join(self._names))
            else:
                steps.setdefault(zone, []).append(step)
        for zone, todo in steps.items():
            for start in range(0, len(todo), self._server.batch):
                self._update(zone, todo[start : start + self._server.batch])

    def _steps(self, changes: Changes) -> Iterator[tuple[str, Step]]:
        """Deletions first: a CNAME may follow an A record of the same name."""
        for record in changes.delete:
            yield record.name, partial(self._remove, record)
        for old, new in changes.update:
            yield new.name, partial(self._replace, old, new)
        for record in changes.create:
            yield record.name, partial(self._add, record)

    def _replace(self, old: Record, new: Record, message: dns.update.UpdateMessage) -> None:
        self._remove(old, message)
        self._add(new, message)

    def _remove(self, record: Record, message: dns.update.UpdateMessage) -> None:
        message.delete(_owner(record.name), record.type)
        if self._registry:
            name = self._registry.name_of(record.key)
            message.delete(_owner(name), "TXT", _quoted(self._registry.text_of(record)))

    def _add(self, record: Record, message: dns.update.UpdateMessage) -> None:
        ttl = max(record.ttl or 0, self._server.min_ttl)
        for target in record.targets:
            absolute = f"{target}." if record.type == "CNAME" else target
            message.add(_owner(record.name), ttl, record.type, absolute)
        if self._registry:
            name = self._registry.name_of(record.key)
            message.add(_owner(name), ttl, "TXT", _quoted(self._registry.text_of(record)))

    def _zone_of(self, name: str) -> str | None:
        within = [z for z in self._names if name == z or name.endswith(f".{z}")]
        return max(within, key=len, default=None)

    def _transfer(self, zone: str) -> list[tuple[str, int, Any]]:
        copy = dns.zone.Zone(self._names[zone], relativize=False)

        def ask(host: str) -> None:
            query, _ = dns.xfr.make_query(copy, **self._signed())
            dns.query.inbound_xfr(
                host, copy, query, port=self._server.port, lifetime=TIMEOUT, timeout=TIMEOUT
            )

        self._of_any(ask, f"zone {zone}: cannot be transferred")
        return [(normal(n.to_text()), ttl, rdata) for n, ttl, rdata in copy.iterate_rdatas()]

    def _update(self, zone: str, steps: Sequence[Step]) -> None:
        message = dns.update.UpdateMessage(self._names[zone])
        if key := self._server.key:
            message.use_tsig(key)
        for step in steps:
            step(message)

        def ask(host: str) -> dns.message.Message:
            return dns.query.tcp(message, host, port=self._server.port, timeout=TIMEOUT)

        answer = self._of_any(ask, f"zone {zone}: cannot be updated")
        if answer.rcode() != dns.rcode.NOERROR:
            code = dns.rcode.to_text(answer.rcode())
            raise ProviderError(f"zone {zone}: the server refused the update: {code}")

    def _of_any(self, ask: Callable[[str], T], what: str) -> T:
        """The answer of the first host that gives one."""
        failures = []
        for host in self._server.hosts:
            try:
                return ask(host)
            except (dns.exception.DNSException, OSError, EOFError) as error:
                failures.append(f"{host}: {error or type(error).__name__}")
        raise ProviderError(f"{what}: {'; '.join(failures)}")

    def _signed(self) -> dict[str, Any]:
        key = self._server.key
        return {"keyring": {key.name: key}, "keyname": key.name} if key else {}


def _owner(name: str) -> dns.name.Name:
    return dns.name.from_text(name)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
