"""From the octets of a question to those of its answer, past the chain but as the chain would.

A name is asked for the first time once, but a cluster has many names and search paths make more. The
usual questions need no message, no Request and no Response: where every plugin of a chain agrees
(``Plugin.shortcut``), the name's labels are enough. What is unusual in any way gives None and takes
the general way; a test holds both ways against each other, octet by octet.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kubewire.dns.plugin import Counted, Plain, Shortcut
from kubewire.dns.table import Labels
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import split, to_wire, within

if TYPE_CHECKING:
    from kubewire.dns.config import Block

log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """An answer that may be given again."""

    answer: bytes
    deps: tuple[Hashable, ...]
    """What it was made of."""
    labels: Labels
    """What it counts as."""
    cut: bytes = b""
    """The name (lower-case labels, uncompressed) below which nothing exists, if that is the reason."""
    depth: int = 0
    """How many labels it has."""


_COUNTS = frozenset({(b"\0\1\0\0\0\0\0\0", 0), (b"\0\1\0\0\0\0\0\1", 11)})
"""One question, and octets behind it: none, or an OPT record without options."""
_IN = b"\0\1"
_NAME = 12
"""Where the name begins."""
_OPT = frozenset({bytes(6), b"\0\0\x80\0\0\0"})
"""An OPT record of version 0 behind the size, without and with DO."""
MAX_WIRE, MAX_LABEL = 255, 63


class _Zone(NamedTuple):
    """A zone and how questions for names below it are answered."""

    wire: bytes
    """Lower-case labels, without the root's."""
    depth: int
    shortcut: Shortcut
    name: str
    view: str
    """Of the server block, for metrics."""


class Shortcuts:
    """Those of everything that listens at one address."""

    def __init__(self, zones: Mapping[str, Sequence[Block]], server: str) -> None:
        self._zones = tuple(_usable(zones, server))

    def answer(self, data: bytes, family: int) -> Kept | None:
        """Answer a message from a client of this family (1: IPv4, 2: IPv6); None: not this way."""
        end = data.find(0, _NAME)
        if not self._zones or not _usual(data, end):
            return None
        name = data[_NAME:end].lower()
        for zone in self._zones:
            if name.endswith(zone.wire):
                break
        else:
            return None
        stop = len(name) - len(zone.wire)
        labels = _labels(name, stop)
        if labels is None:
            return None
        pointer = (0xC000 | _NAME + stop).to_bytes(2, "big")
        try:
            plain = zone.shortcut.answer(labels, pointer, data[end + 1] << 8 | data[end + 2])
        except Exception:
            # What a plugin cannot cope with here, the general way reports.
            log.exception("question %r", data)
            return None
        if plain is None:
            return None
        kept = _encoded(zone, plain, data, end, family)
        if plain.cut:
            start = stop - plain.cut - sum(map(len, labels[-plain.cut :]))
            return kept._replace(cut=name[start:] + b"\0", depth=plain.cut + zone.depth)
        return kept


def _usual(data: bytes, end: int) -> bool:
    """Whether a message is a plain question; its name ends at ``end``."""
    after = end + 5
    more = len(data) - after
    return (
        end >= 0
        and (data[4:12], more) in _COUNTS
        and not data[2] & 0xF8
        and data[end + 3 : after] == _IN
        and end - _NAME < MAX_WIRE
        and (not more or (data.startswith(b"\0\0\x29", after) and data[after + 5 :] in _OPT))
    )


def _encoded(zone: _Zone, plain: Plain, data: bytes, end: int, family: int) -> Kept:
    rcode, answers, authorities, body, deps, _ = plain
    after = end + 5
    opt = data[after:]
    numbers = (0, 1, 0, answers, 0, authorities, 0, opt != b"")
    head = bytes((0x84 | data[2] & 1, data[3] & 16 | rcode, *numbers))
    answer = b"".join((data[:2], head, data[_NAME:after], body, opt))
    shortcut = zone.shortcut
    labels = labels_of(
        zone.name, zone.view, "udp", family, data[end + 1] << 8 | data[end + 2], rcode, shortcut.plugin,
        len(data), len(answer), opt != b"" and opt[7] != 0, shortcut.counted,
    )  # fmt: skip
    return Kept(answer, deps, labels)


def _labels(name: bytes, stop: int) -> list[bytes] | None:
    """The labels before an offset at which one has to begin."""
    found, at = [], 0
    while at < stop:
        length = name[at]
        at += 1 + length
        if length > MAX_LABEL:
            return None
        found.append(name[at - length : at])
    return found if at == stop else None


def _usable(zones: Mapping[str, Sequence[Block]], server: str) -> list[_Zone]:
    """Shortcuts of the blocks that take every question for their zone, whoever asks."""
    found = []
    for blocks in zones.values():
        block = blocks[0]
        if len(blocks) > 1 or block.views or block.metadata or not block.replayable:
            continue
        shortcut = _of_block(block, server)
        for zone in shortcut.zones if shortcut else ():
            if _takes(zones, zone) is block and shortcut:
                wire = to_wire(zone)[:-1].lower()
                depth = len(split(zone))
                found.append(_Zone(wire, depth, shortcut, block.zones[0], block.view_name))
    return found


def _of_block(block: Block, server: str) -> Shortcut | None:
    found: Shortcut | None = None
    for plugin in reversed([p for p in block.plugins.values() if p.handles]):
        found = plugin.shortcut(found, server, block.view_name)
    return found


def _takes(zones: Mapping[str, Sequence[Block]], zone: str) -> Block | None:
    """The block of every name below a zone; None: not all belong to one."""
    if any(other != zone and within(other, zone) for other in zones):
        return None
    holding = max((z for z in zones if within(zone, z)), key=len, default="")
    return zones[holding][0] if holding else None


@functools.lru_cache(4096)
def labels_of(
    zone: str, view: str, network: str, family: int, qtype: int, rcode: int, plugin: str,
    asked: int, said: int, do: bool, counted: tuple[Counted, ...],
) -> Labels:  # fmt: skip
    """What a hit counts as; one object for all answers that count alike."""
    names = (str(family), codes.type_name(qtype), codes.rcode_name(rcode))
    return Labels((zone, view, network, *names, plugin), asked, said, do, counted)


__all__ = ["Kept", "Plain", "Shortcuts", "labels_of"]
