"""The REST form of xDS, without I/O: a request and what is known in, an answer and remarks out.

An Envoy repeats its question (``POST /v3/discovery:clusters``) with the version that it took last.

- the version that is current: an ACK; there is nothing new (304), or the answer waits for news
- another one, though the current version was sent: a NACK, Envoy refused it. It is not sent again
  until something changes, and the objects that it does not have are named
- anything else: the current version is sent

There is no nonce in REST: one question is in flight at a time on one connection, so an answer can
not be mistaken for another's; the version says which one is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubewire.lang.xds.model import JSON
from kubewire.lang.xds.snapshot import KINDS, Named, Snapshot, version

HOLD = "kubewire.dev/hold"
"""In node.metadata: seconds that an answer may wait for news."""
LONGEST = 50.0

Subscription = tuple[str, str, tuple[str, ...]]
"""(node, type, names)."""


class RequestError(ValueError):
    """It is no DiscoveryRequest."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an Envoy asks."""

    kind: str
    node: str
    version: str = ""
    names: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    zone: str = ""

    @property
    def hold(self) -> float:
        """Seconds that it would wait for news."""
        asked = self.metadata.get(HOLD, 0)
        known = isinstance(asked, int | float) and not isinstance(asked, bool)
        return min(max(float(asked), 0.0), LONGEST) if known else 0.0


def parse(plural: str, body: object) -> Request:
    """Read a DiscoveryRequest; RequestError says what is wrong with it."""
    if plural not in KINDS:
        raise RequestError(f"nobody tells {plural}; there are {', '.join(KINDS)}")
    if not isinstance(body, dict):
        raise RequestError("a DiscoveryRequest is expected")
    node = body.get("node") or {}
    if not isinstance(node, dict) or not node.get("id"):
        raise RequestError("node.id: Required value")
    names = _field(body, "resource_names", "resourceNames") or []
    locality = node.get("locality") or {}
    return Request(
        KINDS[plural],
        str(node["id"]),
        str(_field(body, "version_info", "versionInfo") or ""),
        tuple(map(str, names)),
        node.get("metadata") or {},
        str(locality.get("zone") or ""),
    )


def _field(body: Mapping[str, Any], *spellings: str) -> Any:
    """A field as protobuf or as JSON spells it."""
    return next((body[s] for s in spellings if s in body), None)


@dataclass(slots=True)
class _Sent:
    """What one subscription has."""

    version: str
    """Sent last."""
    resources: Named
    taken: Named = field(default_factory=dict)
    """Of the version that was taken last."""
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A DiscoveryResponse, or None: nothing new."""

    response: JSON | None
    remark: str = ""
    """For the log."""


class Discovery:
    """What every Envoy was told."""

    def __init__(self) -> None:
        self._sent: dict[Subscription, _Sent] = {}

    def answer(self, asked: Request, snapshot: Snapshot) -> Answer:
        """Answer one question by what is to be told now."""
        subscription = (asked.node, asked.kind, asked.names)
        resources = snapshot.of(asked.kind, asked.names)
        current = version(resources)
        sent = self._sent.get(subscription)
        if sent is not None and asked.version == sent.version:
            sent.taken, sent.refused = sent.resources, False
        if asked.version == current:
            if sent is None:
                self._sent[subscription] = _Sent(current, resources, resources)
            return Answer(None)
        if sent is not None and sent.version == current and asked.version:
            remark = "" if sent.refused else _refusal(asked, sent)
            sent.refused = True
            return Answer(None, remark)
        again = sent is not None and sent.version == current
        self._sent[subscription] = _Sent(current, resources, sent.taken if sent else {})
        remark = ""
        if again and sent is not None and not sent.refused:
            # Nothing was ever taken: a restart looks the same, so it is sent once more.
            remark = f"{_refusal(asked, sent)} (or it was started again)"
            self._sent[subscription].refused = True
        return Answer(_response(asked.kind, current, resources), remark)


def _refusal(asked: Request, sent: _Sent) -> str:
    changed = [n for n, one in sent.resources.items() if sent.taken.get(n) != one]
    gone = [n for n in sent.taken if n not in sent.resources]
    objects = ", ".join([*changed, *(f"without {n}" for n in gone)]) or "nothing"
    kind = asked.kind.rpartition(".")[2]
    return f"Envoy {asked.node} refuses {kind} version {sent.version}: {objects}"


def _response(kind: str, current: str, resources: Named) -> JSON:
    return {"version_info": current, "type_url": kind, "resources": list(resources.values())}
