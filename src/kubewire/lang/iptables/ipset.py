"""Sets of addresses, networks and ports as values; ``ipset`` holds them, rules ask them.

Elements are texts in ipset's own canonical form (``10.0.0.1,tcp:80,10.1.0.0/16``): sets are large,
and a text costs nothing to compare or write. ``has`` looks a packet up as the kernel does: of
several networks that hold it, the narrowest decides, and a ``nomatch`` one says no.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from kubewire.lang.iptables.text import words
from kubewire.lang.packet import Packet

DEFAULT_SIZE = 65536
_VOLATILE = ("hashsize", "bucketsize", "initval")
"""What the kernel chooses by itself."""


class Options(NamedTuple):
    """What an element says beside its key."""

    nomatch: bool = False
    timeout: int | None = None
    comment: str = ""


PLAIN = Options()


@dataclass(frozen=True, slots=True)
class IpSet:
    """One set."""

    name: str
    type: str
    """``hash:ip,port,net`` ..., ``bitmap:port``."""
    elements: Mapping[str, Options] = field(default_factory=dict)
    family: int = 4
    max_elements: int = DEFAULT_SIZE
    timeout: int | None = None
    """Default of its elements, in seconds; None: they stay."""
    comments: bool = False
    range: str = "0-65535"
    """Of a bitmap."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What an element is made of: ip, net, port, iface."""
        return tuple(self.type.partition(":")[2].split(","))

    def create_line(self) -> str:
        """As ``ipset restore`` reads it."""
        if self.type.startswith("bitmap:"):
            head = f"create {self.name} {self.type} range {self.range}"
        else:
            family = "inet" if self.family == 4 else "inet6"
            head = f"create {self.name} {self.type} family {family} maxelem {self.max_elements}"
        timeout = f" timeout {self.timeout}" if self.timeout is not None else ""
        return f"{head}{timeout}{' comment' if self.comments else ''}"

    def add_line(self, element: str) -> str:
        """As ``ipset restore`` reads it."""
        options = self.elements[element]
        if options is PLAIN:
            return f"add {self.name} {element}"
        timeout = f" timeout {options.timeout}" if options.timeout is not None else ""
        nomatch = " nomatch" if options.nomatch else ""
        comment = f" comment {_in_quotes(options.comment)}" if options.comment else ""
        return f"add {self.name} {element}{timeout}{nomatch}{comment}"

    def lines(self) -> Iterator[str]:
        """The whole set."""
        yield self.create_line()
        yield from map(self.add_line, self.elements)

    def render(self) -> str:
        """`lines` as one text."""
        return "\n".join(self.lines()) + "\n"

    # -- look-up ----------------------------------------------------------------------------------

    def has(self, packet: Packet, directions: Sequence[str]) -> bool:
        """Tell whether the packet's fields are in the set (missing directions are dst)."""
        kinds = self.dimensions
        if "set" in kinds or "mark" in kinds or "mac" in kinds:
            raise ValueError(f"sets of type {self.type} cannot be asked about a packet")
        if packet.version != self.family and not self.type.startswith("bitmap:"):
            return False
        sides = [*directions, *["dst"] * len(kinds)]
        own = [_field(k, s, packet) for k, s in zip(kinds, sides, strict=False)]
        if None in own:
            return False
        if self.type == "bitmap:port":
            own = [f.partition(":")[2] for f in own if f]
        if "net" not in kinds and "iface" not in kinds:
            found = self.elements.get(",".join(f for f in own if f))
            return found is not None and not found.nomatch
        return self._narrowest([f for f in own if f])

    def _narrowest(self, own: list[str]) -> bool:
        best: tuple[tuple[int, ...], Options] | None = None
        for element, options in self.elements.items():
            width = _covers(element, tuple(self.dimensions), own)
            if width is not None and (best is None or width > best[0]):
                best = (width, options)
        return best is not None and not best[1].nomatch


def _in_quotes(text: str) -> str:
    return f'"{text}"'


def _field(kind: str, side: str, packet: Packet) -> str | None:
    """A field of the packet as an element writes it; None if it has none."""
    source = side == "src"
    if kind in ("ip", "net"):
        return packet.saddr if source else packet.daddr
    if kind == "iface":
        return (packet.iifname if source else packet.oifname) or None
    if packet.protocol not in ("tcp", "udp", "sctp"):
        return None
    return f"{packet.protocol}:{packet.sport if source else packet.dport}"


def _covers(element: str, kinds: tuple[str, ...], own: list[str]) -> tuple[int, ...] | None:
    """The prefix lengths by which an element holds the fields; None if it does not."""
    lengths = []
    for kind, part, value in zip(kinds, element.split(","), own, strict=True):
        if kind == "net":
            network = _network(part)
            if ipaddress.ip_address(value) not in network:
                return None
            lengths.append(network.prefixlen)
        elif part != value:
            return None
    return tuple(lengths)


@lru_cache(maxsize=1 << 14)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text, strict=False)


def bitmap_port(name: str, ports: Iterable[int], span: str = "0-65535") -> IpSet:
    """A set of port numbers, whatever the protocol."""
    return IpSet(name, "bitmap:port", dict.fromkeys(map(str, ports), PLAIN), range=span)


# -- parsing --------------------------------------------------------------------------------------


def parse(text: str) -> dict[str, IpSet]:
    """What ``ipset save`` prints -> sets by name."""
    heads: dict[str, IpSet] = {}
    elements: dict[str, dict[str, Options]] = {}
    for line in text.splitlines():
        found = words(line)
        if found[:1] == ["create"]:
            heads[found[1]] = _head(found)
            elements[found[1]] = {}
        elif found[:1] == ["add"]:
            elements[found[1]][found[2]] = _element_options(found[3:])
    return {name: replace(head, elements=elements[name]) for name, head in heads.items()}


def _head(found: list[str]) -> IpSet:
    name, kind, rest = found[1], found[2], iter(found[3:])
    head = IpSet(name, kind)
    for word in rest:
        if word == "family":
            head = replace(head, family=4 if next(rest) == "inet" else 6)
        elif word == "maxelem":
            head = replace(head, max_elements=int(next(rest)))
        elif word == "timeout":
            head = replace(head, timeout=int(next(rest)))
        elif word == "range":
            head = replace(head, range=next(rest))
        elif word == "comment":
            head = replace(head, comments=True)
        elif word in _VOLATILE:
            next(rest)
    return head


def _element_options(found: list[str]) -> Options:
    if not found:
        return PLAIN
    timeout, comment = None, ""
    if "timeout" in found:
        timeout = int(found[found.index("timeout") + 1])
    if "comment" in found:
        comment = found[found.index("comment") + 1]
    return Options("nomatch" in found, timeout, comment)


# -- changes --------------------------------------------------------------------------------------


def difference(old: Mapping[str, IpSet], new: Mapping[str, IpSet]) -> Iterator[str]:
    """Lines for ``ipset restore`` that make the old sets into the new ones.

    A set whose kind changed is filled under another name and swapped in, so that rules never see it
    empty. Sets that are gone are destroyed last: nothing may use them any more by then.
    """
    for name, one in new.items():
        before = old.get(name)
        if before is None:
            yield from one.lines()
        elif _kind(before) != _kind(one):
            yield from replacement(one)
        else:
            yield from _elements(before, one)
    for name in old.keys() - new.keys():
        yield f"destroy {name}"


def _kind(one: IpSet) -> IpSet:
    return replace(one, elements={})


def _elements(old: IpSet, new: IpSet) -> Iterator[str]:
    for element, options in old.elements.items():
        if element not in new.elements or new.elements[element] != options:
            yield f"del {new.name} {element}"
    for element, options in new.elements.items():
        if old.elements.get(element) != options:
            yield new.add_line(element)


def replacement(one: IpSet) -> Iterator[str]:
    """Put a whole set in place of one that is there, at once."""
    spare = replace(one, name=spare_name(one.name))
    yield from spare.lines()
    yield f"swap {spare.name} {one.name}"
    yield f"destroy {spare.name}"


def spare_name(name: str) -> str:
    """The name under which a replacement is filled; names end at 31 bytes."""
    return re.sub(r"[^!-~]", "", name)[:27] + "-new"
