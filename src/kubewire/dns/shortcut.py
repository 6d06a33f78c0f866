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
from kubewire.lang.dns.name import to_wire, within

if TYPE_CHECKING:
    from kubewire.dns.config import Block

log = logging.getLogger(__name__)

Kept = tuple[bytes, tuple[Hashable, ...], Labels]
"""An answer, what it was made of and what it counts as."""

_COUNTS, _COUNTS_OPT = b"\0\1\0\0\0\0\0\0", b"\0\1\0\0\0\0\0\1"
_IN = b"\0\1"
_NAME, _OPT = 12, 11
"""Where the name begins; octets of an OPT record without options."""
_OPT_HEAD, _OPT_TAILS = b"\0\0\x29", frozenset({bytes(6), b"\0\0\x80\0\0\0"})
"""Around the size in an OPT record of version 0, without and with DO."""
MAX_WIRE, MAX_LABEL = 255, 63


class _Zone(NamedTuple):
    """A zone and how questions for names below it are answered."""

    wire: bytes
    """Lower-case labels, without the root's."""
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
        if not self._zones or data[2] & 0xF8:
            return None
        end = data.find(0, _NAME)
        after = end + 5
        opt = data[after:]
        if opt:
            if data[4:12] != _COUNTS_OPT or len(opt) != _OPT or opt[5:] not in _OPT_TAILS:
                return None
            if not opt.startswith(_OPT_HEAD):
                return None
        elif data[4:12] != _COUNTS:
            return None
        if end < 0 or len(data) < after or data[end + 3 : after] != _IN or end - _NAME >= MAX_WIRE:
            return None
        name = data[_NAME:end].lower()
        for zone in self._zones:
            if name.endswith(zone.wire):
                break
        else:
            return None
        stop = len(name) - len(zone.wire)
        if (labels := _labels(name, stop)) is None:
            return None
        qtype = data[end + 1] << 8 | data[end + 2]
        pointer = (0xC000 | _NAME + stop).to_bytes(2, "big")
        try:
            plain = zone.shortcut.answer(labels, pointer, qtype)
        except Exception:
            # What a plugin cannot cope with here, the general way reports.
            log.exception("question %r", data)
            return None
        if plain is None:
            return None
        rcode, answers, authorities, body, deps = plain
        head = bytes(
            (
                0x84 | data[2] & 1,
                data[3] & 16 | rcode,
                0,
                1,
                0,
                answers,
                0,
                authorities,
                0,
                opt != b"",
            )
        )
        found = b"".join((data[:2], head, data[_NAME:after], body, opt))
        do = len(opt) > 0 and opt[7] != 0
        shortcut = zone.shortcut
        counts_as = labels_of(
            zone.name, zone.view, "udp", family, qtype, rcode, shortcut.plugin, len(data), len(found),
            do, shortcut.counted,
        )  # fmt: skip
        return found, deps, counts_as


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
                found.append(_Zone(wire, shortcut, block.zones[0], block.view_name))
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
