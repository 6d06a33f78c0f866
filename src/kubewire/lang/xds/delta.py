"""Delta xDS over one aggregated stream, without I/O: what an Envoy has, and what it must be told.

The server holds resources by type and name. One is put into bytes when an Envoy asks for it, which
most never are, and has a version that follows from its content. A stream knows which version of
each the other side has. Every response carries a nonce; its answer
takes it (ACK) or refuses it (NACK): what was refused is named, and not sent again until it changes.
A stream that was broken begins with what the Envoy has, so nothing is sent twice.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kubewire.lang.xds import protobuf
from kubewire.lang.xds.model import CLUSTER, LISTENER

WHOLE = (CLUSTER, LISTENER)
"""Types of which an Envoy may want everything."""
WILDCARD = "*"


class Resource(NamedTuple):
    """One resource as it is sent."""

    version: str
    body: bytes


class Request(NamedTuple):
    """A DeltaDiscoveryRequest."""

    kind: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial: tuple[tuple[str, str], ...] = ()
    nonce: str = ""
    error: str = ""


class Resources:
    """What is to be told."""

    def __init__(self, encode: Callable[[Any], bytes] = protobuf.resource) -> None:
        self._encode = encode
        self._values: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        self._encoded: defaultdict[str, dict[str, Resource]] = defaultdict(dict)
        self.changed: defaultdict[str, set[str]] = defaultdict(set)
        """Names whose resource is not what streams may have, until they were asked."""

    def put(self, kind: str, name: str, value: Any) -> bool:
        """Add or change one; True if it is not what it was."""
        if self._values[kind].get(name) == value:
            return False
        self._values[kind][name] = value
        self._encoded[kind].pop(name, None)
        self.changed[kind].add(name)
        return True

    def drop(self, kind: str, name: str) -> None:
        """Take one away."""
        if self._values[kind].pop(name, None) is not None:
            self._encoded[kind].pop(name, None)
            self.changed[kind].add(name)

    def names(self, kind: str) -> set[str]:
        """Everything of a type."""
        return set(self._values[kind])

    def get(self, kind: str, name: str) -> Resource | None:
        """One as it is sent."""
        known = self._encoded[kind].get(name)
        if known is None and name in self._values[kind]:
            body = self._encode(self._values[kind][name])
            known = Resource(hashlib.blake2b(body, digest_size=8).hexdigest(), body)
            self._encoded[kind][name] = known
        return known


@dataclass(slots=True)
class _Subscription:
    names: set[str] = field(default_factory=set)
    everything: bool = False
    sent: dict[str, str] = field(default_factory=dict)
    """Name -> version that the Envoy was sent."""
    waiting: dict[str, list[str]] = field(default_factory=dict)
    """Nonce -> names that are not taken yet."""

    def wants(self, name: str) -> bool:
        return self.everything or name in self.names


class Stream:
    """One Envoy's end."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._of: dict[str, _Subscription] = {}
        self._nonce = 0

    def receive(self, request: Request) -> tuple[list[bytes], str]:
        """Responses to one request, and a remark for the log."""
        known = self._of.get(request.kind)
        begins = known is None
        if known is None:
            known = self._of[request.kind] = _Subscription(sent=dict(request.initial))
            known.everything = request.kind in WHOLE and not request.subscribe
        remark = self._answered(known, request)
        asked = set(request.subscribe)
        if WILDCARD in asked:
            known.everything = True
        fresh = asked - known.names - {WILDCARD}
        known.names |= fresh
        for name in request.unsubscribe:
            known.names.discard(name)
            known.sent.pop(name, None)
        if known.everything and not request.nonce:
            fresh = self._resources.names(request.kind) | set(known.sent)
        # Who asks for everything waits until it is told, also that there is nothing.
        absent = fresh if not known.everything else ()
        even_nothing = begins and known.everything
        return self._told(
            request.kind, known, fresh, absent=absent, even_nothing=even_nothing
        ), remark

    def news(self) -> list[bytes]:
        """Responses for what has changed."""
        found = []
        for kind, changed in self._resources.changed.items():
            if known := self._of.get(kind):
                names = (n for n in changed if known.wants(n) or n in known.sent)
                found += self._told(kind, known, names)
        return found

    def settled(self) -> bool:
        """The Envoy has everything that it has asked for, and has said so."""
        return not any(s.waiting for s in self._of.values())

    def _answered(self, known: _Subscription, request: Request) -> str:
        names = known.waiting.pop(request.nonce, None) if request.nonce else None
        if not names or not request.error:
            return ""
        kind = request.kind.rpartition(".")[2]
        return f"Envoy refuses {kind} {', '.join(names)}: {request.error}"

    def _told(
        self,
        kind: str,
        known: _Subscription,
        names: Iterable[str],
        *,
        absent: Iterable[str] = (),
        even_nothing: bool = False,
    ) -> list[bytes]:
        """``absent`` names are told to be absent if they are: somebody waits for the answer."""
        changed, removed = [], []
        for name in sorted(set(names)):
            resource = self._resources.get(kind, name)
            if resource is None:
                if known.sent.pop(name, None) or name in absent:
                    removed.append(name)
            elif known.sent.get(name) != resource.version:
                known.sent[name] = resource.version
                changed.append((name, resource))
        if not changed and not removed and not even_nothing:
            return []
        self._nonce += 1
        known.waiting[str(self._nonce)] = [*(n for n, _ in changed), *removed]
        return [_response(kind, str(self._nonce), changed, removed)]


def _response(
    kind: str, nonce: str, changed: Iterable[tuple[str, Resource]], removed: Iterable[str]
) -> bytes:
    text = kind.encode()
    found = [
        protobuf.field(
            2,
            protobuf.field(1, one.version.encode())
            + protobuf.field(2, protobuf.any_(kind, one.body))
            + protobuf.field(3, name.encode()),
        )
        for name, one in changed
    ]
    found += [protobuf.field(4, text), protobuf.field(5, nonce.encode())]
    found += [protobuf.field(6, name.encode()) for name in removed]
    return b"".join(found)


def parse(data: bytes) -> Request:
    """Read a DeltaDiscoveryRequest; ValueError if it is none."""
    found = list(protobuf.fields(data))
    kinds, nonces = protobuf.texts(found, 2), protobuf.texts(found, 6)
    return Request(
        kinds[0] if kinds else "",
        protobuf.texts(found, 3),
        protobuf.texts(found, 4),
        tuple(_pairs(found)),
        nonces[0] if nonces else "",
        next((_message(v) for n, v in found if n == 7 and isinstance(v, bytes)), ""),
    )


def _pairs(found: Iterable[tuple[int, int | bytes]]) -> Iterator[tuple[str, str]]:
    for number, value in found:
        if number == 5 and isinstance(value, bytes):
            entry = list(protobuf.fields(value))
            key, version = protobuf.texts(entry, 1), protobuf.texts(entry, 2)
            yield key[0] if key else "", version[0] if version else ""


def _message(status: bytes) -> str:
    """The text of a google.rpc.Status."""
    found = protobuf.texts(list(protobuf.fields(status)), 2)
    return found[0] if found else "no reason given"
