"""From keys to records, as CoreDNS' back ends of services do it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from kubewire.dns.plugin import Response
from kubewire.dns.plugins.etcd.store import Item, NoKeyError, Store
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import absolute, split, within
from kubewire.lang.dns.record import RR, address, cname, mx, ns, ptr, srv, txt

LONGEST_CHAIN = 10

LookUp = Callable[[str, int], Awaitable[Response]]


@dataclass
class Found:
    """What a question is answered with."""

    answer: list[RR] = field(default_factory=list)
    additional: list[RR] = field(default_factory=list)


class Answers:
    """Answers within one zone. NoKeyError if there is no such name, else the store's failures."""

    def __init__(self, store: Store, zone: str, look_up: LookUp) -> None:
        self._store, self._zone, self._look_up = store, zone, look_up

    async def find(self, qname: str, qtype: int) -> Found:
        """Answer a question."""
        name = qname.lower()
        match qtype:
            case codes.A | codes.AAAA:
                return Found(_unique(await self._follow(qname, qtype, ())))
            case codes.TXT:
                return Found(_unique(await self._follow(qname, qtype, ())))
            case codes.SRV:
                return await self._services(qname)
            case codes.MX:
                return await self._mail(qname)
            case codes.NS if name == self._zone:
                return await self._name_servers(qname)
            case codes.CNAME:
                items = await self._exactly(name)
                return Found(
                    [cname(qname, i.ttl, absolute(i.host)) for i in items[:1] if _named(i)]
                )
            case codes.PTR:
                items = await self._exactly(name)
                return Found(
                    _unique([ptr(qname, i.ttl, absolute(i.host)) for i in items if _named(i)])
                )
        if name != self._zone:
            await self._items(name, qtype)
        return Found()

    async def _items(self, name: str, qtype: int, *, exact: bool = False) -> list[Item]:
        items = await self._store.items(name, exact=exact)
        return [i for i in items if i.host or (qtype == codes.TXT and i.text)]

    async def _exactly(self, name: str) -> list[Item]:
        """What is at a name; nothing if there is something below it only."""
        try:
            return await self._items(name, codes.A, exact=True)
        except NoKeyError:
            if name != self._zone:
                await self._items(name, codes.A)
            return []

    async def _or_apex(self, name: str, qtype: int) -> list[Item]:
        """The zone's own addresses stand at ``apex.dns``."""
        if name == self._zone and qtype != codes.TXT:
            try:
                return await self._items(f"apex.dns.{self._zone}", qtype)
            except NoKeyError:
                pass
        return await self._items(name, qtype)

    async def _follow(self, qname: str, qtype: int, chain: tuple[RR, ...]) -> list[RR]:
        records: list[RR] = []
        for item in await self._or_apex(qname.lower(), qtype):
            if item.version:
                if qtype == {4: codes.A, 6: codes.AAAA}[item.version]:
                    records.append(address(qname, item.ttl, item.host))
            elif item.text:
                if qtype == codes.TXT:
                    records.append(txt(qname, item.ttl, item.text))
            else:
                records += await self._link(qname, qtype, item, chain)
        return records

    async def _link(self, qname: str, qtype: int, item: Item, chain: tuple[RR, ...]) -> list[RR]:
        """A CNAME and what it leads to; nothing if it leads back or nowhere."""
        target = absolute(item.host)
        link = cname(qname, item.ttl, target)
        known = any(link.name.lower() == r.name.lower() for r in chain)
        if within(target.lower(), qname.lower()) or known or len(chain) > LONGEST_CHAIN:
            return []
        if not within(target.lower(), self._zone):
            found = await self._look_up(target, qtype)
            return [link, *found.answer] if found.written else []
        try:
            more = await self._follow(target, qtype, (*chain, link))
        except NoKeyError:
            return []
        return [link, *more] if more else []

    async def _services(self, qname: str) -> Found:
        items = await self._items(qname.lower(), codes.SRV)
        total: dict[int, int] = {}
        for item in items:
            total[item.priority] = total.get(item.priority, 0) + (item.weight or 100)
        found = Found()
        for item in (i for i in items if i.port != -1):
            weight = max(1, int(100.0 * (item.weight or 100) / total[item.priority]))
            target = await self._target(item, found)
            record = srv(qname, item.ttl, item.priority & 0xFFFF, weight, item.port, target)
            same = any(
                (r.target, r.rdata[0][4:]) == (target, record.rdata[0][4:]) for r in found.answer
            )
            if not (same and item.version):
                found.answer.append(record)
        return found

    async def _mail(self, qname: str) -> Found:
        found = Found()
        for item in await self._items(qname.lower(), codes.MX):
            if item.mail:
                target = await self._target(item, found)
                found.answer.append(mx(qname, item.ttl, item.priority & 0xFFFF, target))
        found.answer = _unique(found.answer)
        return found

    async def _name_servers(self, qname: str) -> Found:
        found = Found()
        for item in await self._items(f"ns.dns.{self._zone}", codes.NS):
            if not item.version:
                raise ValueError(f"NS record must be an IP address: {item.host}")
            target = await self._target(item, found)
            found.answer.append(ns(qname, item.ttl, target))
        found.answer = _unique(found.answer)
        return found

    async def _target(self, item: Item, found: Found) -> str:
        """The name that a record leads to; its addresses become additional records."""
        name = self._store.domain(item.key) if item.version else absolute(item.host)
        name = _stripped(name, item.strip)
        if item.version:
            more = [address(name, item.ttl, item.host)]
        elif within(name.lower(), self._zone):
            more = []
            for kind in (codes.A, codes.AAAA):
                try:
                    more += await self._follow(name, kind, ())
                except NoKeyError:
                    break
        else:
            more = []
            for kind in (codes.A, codes.AAAA):
                more += (await self._look_up(name, kind)).answer
        found.additional = _unique([*found.additional, *more])
        return name


def _named(item: Item) -> bool:
    return bool(item.host) and not item.version


def _stripped(name: str, count: int) -> str:
    labels = split(name)
    return ".".join(labels[count:]) + "." if 0 < count < len(labels) else name


def _unique(records: list[RR]) -> list[RR]:
    return list(dict.fromkeys(records))
