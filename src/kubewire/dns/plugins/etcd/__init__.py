"""etcd: records as SkyDNS keeps them, from etcd's HTTP gateway."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Fallthrough, Plugin, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import absolute, is_reverse, longest_zone, split
from kubewire.lang.dns.record import RR, address, cname, mx, ns, ptr, soa, srv, txt

if TYPE_CHECKING:
    import aiohttp

DEFAULT_TTL = 300


@dataclass(frozen=True)
class Item:
    """One key."""

    key: str
    host: str = ""
    port: int = 0
    priority: int = 10
    weight: int = 100
    text: str = ""
    mail: bool = False
    ttl: int = DEFAULT_TTL
    group: str = ""

    @property
    def is_address(self) -> bool:
        """The host is an address, not a name."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


class Etcd(Plugin):
    """Reads the keys below a name's path for every question."""

    name = "etcd"
    replayable = False

    def __init__(self, zones: list[str]) -> None:
        self.zones = zones
        self.path = "skydns"
        self.endpoints = ["http://localhost:2379"]
        self.fall = Fallthrough()
        self.credentials = ("", "")
        self.tls: list[str] = []
        self.offline = False
        self._session: aiohttp.ClientSession | None = None
        self._token = ""

    @classmethod
    def setup(cls, setup: Setup) -> Etcd:
        """Read the directive."""
        plugin = cls(setup.zones(setup.once()))
        plugin.offline = setup.env.offline
        for word, args in setup.properties():
            match word, args:
                case ("stubzones", _) | ("upstream", _):
                    continue
                case "fallthrough", _:
                    plugin.fall = Fallthrough.from_args(args)
                case "path", [value]:
                    plugin.path = value.strip("/")
                case "endpoint", [_, *_]:
                    plugin.endpoints = [a if "://" in a else f"http://{a}" for a in args]
                case "credentials", [user, password]:
                    plugin.credentials = (user, password)
                case "tls", _ if len(args) <= 3:
                    plugin.tls = args
                case "credentials", _:
                    raise setup.err("credentials requires 2 arguments, username and password")
                case (("path" | "endpoint" | "tls"), _):
                    raise setup.arg_err()
                case _:
                    raise setup.err(f"unknown property '{word}'")
        if not all(plugin.endpoints):
            raise CorefileError("endpoint is empty")
        return plugin

    async def stop(self, *, final: bool) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def serve(self, request: Request) -> Response:
        """Answer names below our zones."""
        zone = longest_zone(request.name, self.zones)
        if not zone:
            return await self.next.serve(request)
        if self.offline:
            return self.fail(codes.SERVFAIL, "etcd is not asked offline")
        return await asyncio.get_running_loop().create_task(
            self._answer(request, zone), name="etcd"
        )

    async def _answer(self, request: Request, zone: str) -> Response:
        try:
            items, below = await self._items(request.name, request.qtype)
        except (OSError, ValueError, TimeoutError) as error:
            return self.fail(codes.SERVFAIL, f"etcd: {error}")
        apex = request.name == zone
        response = self.reply(reason=f"{len(items)} keys of etcd")
        if apex and request.qtype == codes.SOA:
            response.answer = [self._soa(zone)]
        elif apex and request.qtype == codes.NS:
            await self._name_servers(request, zone, response)
        else:
            await self._records(request, zone, items, response)
        if not response.answer:
            if not items and not below and not apex:
                if self.fall.through(request.name):
                    return await self.next.serve(request)
                response.rcode = codes.NXDOMAIN
            response.authority = [self._soa(zone)]
        return response

    async def _records(
        self, request: Request, zone: str, items: list[Item], response: Response
    ) -> None:
        name = request.qname
        match request.qtype:
            case codes.A | codes.AAAA:
                await self._addresses(request, zone, items, response)
            case codes.CNAME:
                response.answer = [
                    cname(name, i.ttl, absolute(i.host))
                    for i in items
                    if not i.is_address and i.host
                ][:1]
            case codes.PTR if is_reverse(request.name):
                response.answer = [ptr(name, i.ttl, absolute(i.host)) for i in items if i.host]
            case codes.TXT:
                response.answer = [txt(name, i.ttl, i.text) for i in items if i.text]
            case codes.SRV:
                self._srv(name, [i for i in items if i.host and i.port >= 0], response)
            case codes.MX:
                for item in (i for i in items if i.mail and i.host):
                    target = self._domain(item.key) if item.is_address else absolute(item.host)
                    response.answer.append(mx(name, item.ttl, item.priority, target))
                    if item.is_address:
                        response.additional.append(address(target, item.ttl, item.host))

    async def _addresses(
        self, request: Request, zone: str, items: list[Item], response: Response
    ) -> None:
        v6 = request.qtype == codes.AAAA
        for item in items:
            if item.is_address:
                if (":" in item.host) == v6:
                    response.answer.append(address(request.qname, item.ttl, item.host))
            elif item.host and request.block is not None:
                target = absolute(item.host)
                if target.lower() == request.name:
                    continue
                found = await request.block.lookup(request, target, request.qtype)
                inside = longest_zone(target.lower(), (zone,))
                if found.answer or not inside:
                    response.answer += [cname(request.qname, item.ttl, target), *found.answer]
        response.answer = list(dict.fromkeys(response.answer))

    def _srv(self, name: str, items: list[Item], response: Response) -> None:
        total: dict[int, int] = {}
        for item in items:
            total[item.priority] = total.get(item.priority, 0) + item.weight
        for item in items:
            weight = max(1, int(100.0 * item.weight / max(1, total[item.priority])))
            target = self._domain(item.key) if item.is_address else absolute(item.host)
            response.answer.append(srv(name, item.ttl, item.priority, weight, item.port, target))
            if item.is_address:
                response.additional.append(address(target, item.ttl, item.host))
        response.answer = list(dict.fromkeys(response.answer))
        response.additional = list(dict.fromkeys(response.additional))

    async def _name_servers(self, request: Request, zone: str, response: Response) -> None:
        items, _ = await self._items(f"ns.dns.{zone}", codes.NS)
        for item in (i for i in items if i.is_address):
            target = self._domain(item.key)
            response.answer.append(ns(request.qname, item.ttl, target))
            response.additional.append(address(target, item.ttl, item.host))

    def _soa(self, zone: str) -> RR:
        import time

        return soa(
            zone, DEFAULT_TTL, f"ns.dns.{zone}", f"hostmaster.{zone}", int(time.time()), minimum=30
        )

    def _domain(self, key: str) -> str:
        parts = key.strip("/").split("/")[len(self.path.split("/")) :]
        return ".".join(reversed(parts)) + "."

    async def _items(self, name: str, qtype: int) -> tuple[list[Item], bool]:
        """Keys at and below a name; whether there is anything below."""
        path = "/" + "/".join([self.path, *reversed(split(name))])
        found = await self._range(path + "/")
        exact = [i for i in await self._range(path, single=True) if i.key == path]
        items = [*exact, *found]
        groups = {i.group for i in items if i.group}
        if len(groups) > 1:
            items = [i for i in items if not i.group]
        return items, bool(found)

    async def _range(self, key: str, *, single: bool = False) -> list[Item]:
        body = {"key": base64.b64encode(key.encode()).decode()}
        if not single:
            end = key.encode()[:-1] + bytes((key.encode()[-1] + 1,))
            body["range_end"] = base64.b64encode(end).decode()
        answer = await self._post("/v3/kv/range", body)
        items = []
        for pair in answer.get("kvs") or ():
            raw = json.loads(base64.b64decode(pair["value"]))
            items.append(_item(base64.b64decode(pair["key"]).decode(), raw))
        return items

    async def _post(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=5), connector=_connector(self.tls)
            )
        if self.credentials[0] and not self._token and path != "/v3/auth/authenticate":
            user, password = self.credentials
            answer = await self._post("/v3/auth/authenticate", {"name": user, "password": password})
            self._token = str(answer.get("token", ""))
        headers = {"Authorization": self._token} if self._token else {}
        error: Exception = OSError("no endpoint")
        for endpoint in self.endpoints:
            try:
                async with self._session.post(endpoint + path, json=body, headers=headers) as reply:
                    found = await reply.json(content_type=None)
                    assert isinstance(found, dict)
                    return found
            except (aiohttp.ClientError, TimeoutError) as failed:
                error = OSError(str(failed) or type(failed).__name__)
        raise error


def _connector(tls: list[str]) -> Any:
    import ssl

    import aiohttp

    if not tls:
        return aiohttp.TCPConnector()
    context = ssl.create_default_context(cafile=tls[-1] if len(tls) != 2 else None)
    if len(tls) >= 2:
        context.load_cert_chain(tls[0], tls[1])
    return aiohttp.TCPConnector(ssl=context)


def _item(key: str, raw: dict[str, Any]) -> Item:
    return Item(
        key=key,
        host=str(raw.get("host", "")),
        port=int(raw.get("port", 0)),
        priority=int(raw.get("priority", 0)) or 10,
        weight=int(raw.get("weight", 0)) or 100,
        text=str(raw.get("text", "")),
        mail=bool(raw.get("mail", False)),
        ttl=int(raw.get("ttl", 0)) or DEFAULT_TTL,
        group=str(raw.get("group", "")),
    )


PLUGIN = Etcd
