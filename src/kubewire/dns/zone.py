"""A zone's records and the look-up of RFC 1034, section 4.3.2: what file, auto and secondary share.

Zone files are read by dnspython; answers are made of our own records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kubewire.lang.dns import codes
from kubewire.lang.dns.name import parent, relative, split, within
from kubewire.lang.dns.record import RR, cname, soa_numbers

MAX_LINKS = 9
Node = dict[int, list[RR]]


@dataclass
class Result:
    """What a zone says."""

    rcode: int = 0
    answer: list[RR] = field(default_factory=list)
    authority: list[RR] = field(default_factory=list)
    additional: list[RR] = field(default_factory=list)
    aa: bool = True
    outside: str = ""
    """A target that another zone must resolve."""


class Zone:
    """Records by lower-case name and type."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.nodes: dict[str, Node] = {}
        self._empty: set[str] = set()
        """Names that exist because something lives below them."""

    def add(self, record: RR) -> None:
        """Add a record of the zone."""
        name = record.name.lower()
        self.nodes.setdefault(name, {}).setdefault(record.type, []).append(record)
        above = name
        while len(above) > len(self.origin):
            above = parent(above)
            self._empty.add(above)

    @property
    def soa(self) -> RR | None:
        """The SOA record."""
        found = self.nodes.get(self.origin, {}).get(codes.SOA)
        return found[0] if found else None

    @property
    def serial(self) -> int:
        """Of the SOA record; 0 without one."""
        return soa_numbers(self.soa)[0] if self.soa else 0

    def records(self) -> Iterator[RR]:
        """Everything for a transfer: SOA, NS, the rest, SOA."""
        apex = self.soa
        assert apex is not None
        yield apex
        for name, node in self.nodes.items():
            for rtype, records in node.items():
                if not (rtype == codes.SOA and name == self.origin):
                    yield from records
        yield apex

    def lookup(self, name: str, qname: str, qtype: int, *, do: bool = False) -> Result:
        """Answer a question below the origin."""
        result = Result()
        links = 0
        while True:
            target = self._step(name, qname, qtype, result, do=do)
            if target is None:
                break
            links += 1
            if links > MAX_LINKS:
                break
            if not within(target.lower(), self.origin):
                result.outside = target
                break
            name, qname = target.lower(), target
        self._glue(result, do=do)
        apex = qtype == codes.NS and name == self.origin
        if result.answer and result.rcode == codes.NOERROR and not result.authority and not apex:
            # No glue for these: nobody asked who serves the zone.
            result.authority = list(self._apex(codes.NS, do=do))
        return result

    def _step(self, name: str, qname: str, qtype: int, result: Result, *, do: bool) -> str | None:
        """Answer one name; gives the target of an alias that has to be followed."""
        cut = self._delegation(name, qtype)
        if cut:
            self._refer(cut, result, do=do)
            return None
        if alias := self._dname(name, qname, result, do=do):
            return None if qtype == codes.CNAME else alias
        node, owner = self._node(name, qname)
        if node is None:
            # Behind an alias it is the last name that counts (RFC 6604).
            result.rcode = codes.NXDOMAIN
            self._deny(name, result, do=do, exists=False)
            return None
        if codes.CNAME in node and qtype not in (codes.CNAME, codes.ANY):
            link = node[codes.CNAME][0]
            result.answer.append(link.renamed(owner))
            result.answer += _signatures(node, codes.CNAME, owner, do=do)
            return link.target
        found = _of_type(node, qtype)
        if not found:
            self._deny(name, result, do=do, exists=True)
            return None
        result.answer += [r.renamed(owner) for r in found]
        result.answer += _signatures(node, qtype, owner, do=do)
        return None

    def _node(self, name: str, qname: str) -> tuple[Node | None, str]:
        node = self.nodes.get(name)
        if node is not None:
            return node, qname
        if name in self._empty:
            return {}, qname
        above = name
        while len(above) > len(self.origin):
            above = parent(above)
            wild = self.nodes.get("*." + above)
            if wild is not None:
                return wild, qname
            if above in self.nodes or above in self._empty:
                break
        return None, qname

    def _delegation(self, name: str, qtype: int) -> str:
        """The name of a zone cut at or above a name; "" if it is ours."""
        labels = split(relative(name, self.origin))
        current = self.origin
        for label in reversed(labels):
            current = f"{label}.{current}" if current != "." else f"{label}."
            if codes.NS in self.nodes.get(current, {}) and current != self.origin:
                return "" if current == name and qtype == codes.DS else current
        return ""

    def _refer(self, cut: str, result: Result, *, do: bool) -> None:
        node = self.nodes[cut]
        result.aa = bool(result.answer)
        result.authority = list(node[codes.NS])
        if do:
            result.authority += node.get(codes.DS, [])
            result.authority += _signatures(node, codes.DS, cut, do=do)
            if codes.DS not in node:
                result.authority += node.get(codes.NSEC, [])
                result.authority += _signatures(node, codes.NSEC, cut, do=do)

    def _dname(self, name: str, qname: str, result: Result, *, do: bool) -> str:
        above = name
        while len(above) > len(self.origin):
            above = parent(above)
            if found := self.nodes.get(above, {}).get(codes.DNAME):
                target = qname[: len(qname) - len(above)] + found[0].target
                result.answer += found
                result.answer += _signatures(self.nodes[above], codes.DNAME, found[0].name, do=do)
                result.answer.append(cname(qname, found[0].ttl, target))
                return target
        return ""

    def _deny(self, name: str, result: Result, *, do: bool, exists: bool) -> None:
        result.authority = list(self._apex(codes.SOA, do=do))
        if not do:
            return
        for owner in dict.fromkeys(self._covering(name, exists=exists)):
            node = self.nodes[owner]
            result.authority += node[codes.NSEC]
            result.authority += _signatures(node, codes.NSEC, owner, do=do)

    def _covering(self, name: str, *, exists: bool) -> Iterator[str]:
        """Owners of the NSEC records that deny a name, or a type at it."""
        names = sorted((n for n, node in self.nodes.items() if codes.NSEC in node), key=_canonical)
        if not names:
            return
        if exists and name in names:
            yield name
            return
        wanted = [name] if exists else [name, "*." + parent(name)]
        for one in wanted:
            before = [n for n in names if _canonical(n) <= _canonical(one)]
            yield before[-1] if before else names[-1]

    def _apex(self, rtype: int, *, do: bool) -> Iterator[RR]:
        node = self.nodes.get(self.origin, {})
        yield from node.get(rtype, [])
        yield from _signatures(node, rtype, self.origin, do=do)

    def denied(self, *, do: bool) -> list[RR]:
        """What says that there is nothing behind an alias."""
        return list(self._apex(codes.SOA, do=do))

    def _glue(self, result: Result, *, do: bool) -> None:
        """Addresses of the names in NS, SRV and MX records that are ours to give."""
        wanted = (codes.NS, codes.SRV, codes.MX)
        known = {(r.name.lower(), r.type) for r in result.answer}
        for record in (*result.answer, *result.authority):
            target = record.target.lower()
            if record.type not in wanted or not within(target, self.origin):
                continue
            node = self.nodes.get(target, {})
            for rtype in (codes.A, codes.AAAA):
                if (target, rtype) not in known and rtype in node:
                    known.add((target, rtype))
                    result.additional += node[rtype]
                    result.additional += _signatures(node, rtype, target, do=do)


def _of_type(node: Node, qtype: int) -> list[RR]:
    if qtype == codes.ANY:
        return [r for records in node.values() for r in records]
    return node.get(qtype, [])


def _signatures(node: Node, rtype: int, owner: str, *, do: bool) -> list[RR]:
    if not do:
        return []
    return [
        r.renamed(owner)
        for r in node.get(codes.RRSIG, [])
        if isinstance(r.rdata[0], bytes) and int.from_bytes(r.rdata[0][:2], "big") == rtype
    ]


def _canonical(name: str) -> list[str]:
    return list(reversed(split(name)))


def from_records(origin: str, records: Iterable[RR]) -> Zone:
    """A zone of transferred records; the closing SOA is left out."""
    zone = Zone(origin)
    for record in records:
        if record.type == codes.SOA and zone.soa is not None:
            continue
        zone.add(record)
    return zone
