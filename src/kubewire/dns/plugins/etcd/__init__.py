"""etcd: records as SkyDNS keeps them."""

from __future__ import annotations

import asyncio
import time

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Fallthrough, Plugin, Request, Response, Setup, duration
from kubewire.dns.plugins.etcd.answers import Answers
from kubewire.dns.plugins.etcd.store import NoKeyError, Settings, Store
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import longest_zone
from kubewire.lang.dns.record import RR, soa

NEGATIVE_TTL = 30


class Etcd(Plugin):
    """Reads the keys below a name's path for every question."""

    name = "etcd"
    replayable = False

    def __init__(self, zones: list[str], *, offline: bool) -> None:
        self.zones = zones
        self.settings = Settings()
        self.fall = Fallthrough()
        self._offline = offline
        self._store = Store(self.settings)

    @classmethod
    def setup(cls, setup: Setup) -> Etcd:
        """Read the directive."""
        plugin = cls(setup.zones(setup.once()), offline=setup.env.offline)
        for word, args in setup.properties():
            plugin._option(setup, word, args)
        if not all(plugin.settings.endpoints):
            raise CorefileError("endpoint is empty")
        return plugin

    def _option(self, setup: Setup, word: str, args: list[str]) -> None:
        settings = self.settings
        match word, args:
            case (("stubzones" | "upstream" | "debug"), _):
                return
            case "fallthrough", _:
                self.fall = Fallthrough.from_args(args)
            case "path", [value]:
                settings.path = value.strip("/")
            case "endpoint", [_, *_]:
                settings.endpoints = tuple(a if "://" in a else f"http://{a}" for a in args)
            case "credentials", [user, password]:
                settings.credentials = (user, password)
            case "tls", _ if len(args) <= 3:
                settings.tls = tuple(setup.path(a) for a in args)
            case "min-lease-ttl", [value]:
                settings.least_lease = _seconds(setup, word, value)
            case "max-lease-ttl", [value]:
                settings.longest_lease = _seconds(setup, word, value)
            case "credentials", [_, *_]:
                raise setup.err("credentials requires 2 arguments, username and password")
            case (
                ("path" | "endpoint" | "tls" | "credentials" | "min-lease-ttl" | "max-lease-ttl"),
                _,
            ):
                raise setup.arg_err()
            case _:
                raise setup.err(f"unknown property '{word}'")

    async def stop(self, *, final: bool) -> None:
        """Close the connections."""
        await self._store.close()

    async def serve(self, request: Request) -> Response:
        """Answer names below our zones."""
        zone = longest_zone(request.name, self.zones)
        if not zone:
            return await self.next.serve(request)
        if self._offline:
            return self.fail(codes.SERVFAIL, "etcd is not asked offline")
        return await asyncio.get_running_loop().create_task(
            self._answer(request, zone), name="etcd"
        )

    async def _answer(self, request: Request, zone: str) -> Response:
        async def look_up(name: str, qtype: int) -> Response:
            if request.block is None:
                return Response.failure(codes.SERVFAIL)
            return await request.block.lookup(request, name, qtype)

        if request.qtype == codes.SOA and request.name == zone:
            return self.reply(answer=[_soa(zone)], reason="the zone's own record")
        try:
            found = await Answers(self._store, zone, look_up).find(request.qname, request.qtype)
        except NoKeyError:
            if self.fall.through(request.name):
                return await self.next.serve(request)
            return self._nothing(codes.NXDOMAIN, zone, f"etcd has no key for {request.name}")
        except (OSError, ValueError, TimeoutError) as error:
            return self._nothing(codes.SERVFAIL, zone, f"etcd: {error}")
        if not found.answer:
            return self._nothing(codes.NOERROR, zone, "etcd has no such record")
        return self.reply(answer=found.answer, additional=found.additional, reason="keys of etcd")

    def _nothing(self, rcode: int, zone: str, why: str) -> Response:
        return self.reply(rcode, authority=[_soa(zone)], reason=why)


def _soa(zone: str) -> RR:
    return soa(
        zone, NEGATIVE_TTL, f"ns.dns.{zone}", f"hostmaster.{zone}", int(time.time()),
        minimum=NEGATIVE_TTL,
    )  # fmt: skip


def _seconds(setup: Setup, word: str, text: str) -> int:
    try:
        return int(duration(f"{text}s" if text.isdecimal() else text))
    except ValueError as error:
        raise setup.err(f"invalid {word} value: {error}") from error


PLUGIN = Etcd
