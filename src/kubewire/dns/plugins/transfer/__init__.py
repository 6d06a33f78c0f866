"""transfer: hand out whole zones (AXFR, IXFR) and tell secondaries about changes."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import secrets
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from kubewire.dns.config import Block, Environment
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.dns.plugins.file import Zones
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import AA, QR, RD, Message, Question, encode
from kubewire.lang.dns.name import longest_zone
from kubewire.lang.dns.record import RR, soa_numbers

log = logging.getLogger("kubewire.dns.plugin.transfer")

CHUNK = 500
"""Records of one message."""


@runtime_checkable
class Transferer(Protocol):
    """A plugin that can list a zone."""

    def transfer(self, zone: str, serial: int) -> list[RR] | None:
        """Records with the SOA first and last; the SOA alone if the client has it all."""


@dataclass
class Permission:
    """Who may have which zones."""

    zones: list[str]
    everybody: bool
    targets: list[tuple[str, int]]


class Transfer(Plugin):
    """Answers AXFR and IXFR over TCP for those that are let in."""

    name = "transfer"

    def __init__(self, permissions: list[Permission], block: Block, env: Environment) -> None:
        self.permissions = permissions
        self._block, self._env = block, env
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def setup(cls, setup: Setup) -> Transfer:
        """Read the directive."""
        permissions = []
        for args in setup.stanzas():
            permission = Permission(setup.zones(args), False, [])
            for word, values in setup.properties():
                if word != "to":
                    raise setup.err(f"unknown property '{word}'")
                if not values:
                    raise setup.arg_err()
                for value in values:
                    if value == "*":
                        permission.everybody = True
                    else:
                        permission.targets.append(target(value))
            if not permission.everybody and not permission.targets:
                raise setup.err("'to' is required")
            permissions.append(permission)
        return cls(permissions, setup.block, setup.env)

    async def started(self) -> None:
        """Tell the secondaries that we are here."""
        if self._env.offline:
            return
        zones = {z for permission in self.permissions for z in permission.zones}
        for plugin in self._block.plugins.values():
            if isinstance(plugin, Zones):
                zones |= {origin for origin, zone in plugin.zones.items() if zone is not None}
        for zone in sorted(zones):
            self.tell(zone)

    def tell(self, zone: str) -> None:
        """A zone changed: tell its secondaries."""
        if self._env.offline:
            return
        permission = self._permission(zone)
        for secondary in permission.targets if permission else ():
            self._notify(zone, secondary)

    def _notify(self, zone: str, secondary: tuple[str, int]) -> None:
        task = asyncio.create_task(notify(zone, secondary), name=f"notify {zone}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self, *, final: bool) -> None:
        """Tell nobody any more."""
        for task in tuple(self._tasks):
            task.cancel()

    async def serve(self, request: Request) -> Response:
        """Answer transfers only."""
        if request.qtype not in (codes.AXFR, codes.IXFR):
            return await self.next.serve(request)
        permission = self._permission(request.name)
        if permission is None:
            return await self.next.serve(request)
        if not self._allowed(permission, request.client[0]) or request.proto == "udp":
            return self.fail(codes.REFUSED, f"{request.client[0]} may not transfer {request.name}")
        serial = 0
        if request.qtype == codes.IXFR:
            soas = [r for r in request.message.authority if r.type == codes.SOA]
            serial = soa_numbers(soas[0])[0] if soas else 0
        for plugin in self._block.plugins.values():
            if isinstance(plugin, Transferer):
                records = plugin.transfer(request.name, serial)
                if records is not None:
                    return self._send(request, records)
        return await self.next.serve(request)

    def _permission(self, zone: str) -> Permission | None:
        best: Permission | None = None
        length = -1
        for permission in self.permissions:
            found = longest_zone(zone, permission.zones)
            if found and len(found) > length:
                best, length = permission, len(found)
        return best

    def _allowed(self, permission: Permission, client: str) -> bool:
        return permission.everybody or any(client == host for host, _ in permission.targets)

    def _send(self, request: Request, records: list[RR]) -> Response:
        response = self.reply(answer=records, reason=f"{len(records)} records")
        response.raw = []
        for start in range(0, len(records), CHUNK):
            message = Message(
                0,
                QR | AA | request.message.flags & RD,
                request.message.question,
                answer=records[start : start + CHUNK],
            )
            response.raw.append(encode(message))
        return response


async def notify(zone: str, target: tuple[str, int]) -> None:
    """Send NOTIFY until it is acknowledged, a few times."""
    message = Message(secrets.randbits(16), codes.NOTIFY << 11 | AA, Question(zone, codes.SOA))
    loop = asyncio.get_running_loop()
    for _ in range(3):
        answered: asyncio.Future[bytes] = loop.create_future()
        try:
            transport, _ = await loop.create_datagram_endpoint(
                functools.partial(_Notify, answered), remote_addr=target
            )
        except OSError as error:
            log.warning("plugin/transfer: notify of %s to %s: %s", zone, target[0], error)
            return
        try:
            transport.sendto(encode(message))
            async with asyncio.timeout(2):
                await answered
            return
        except (TimeoutError, OSError):
            continue
        finally:
            transport.close()
    log.warning("plugin/transfer: notify of %s to %s was not acknowledged", zone, target[0])


class _Notify(asyncio.DatagramProtocol):
    def __init__(self, waiting: asyncio.Future[bytes]) -> None:
        self._waiting = waiting

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self._waiting.done():
            self._waiting.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._waiting.done():
            self._waiting.set_exception(exc)


def target(text: str) -> tuple[str, int]:
    """Address and port of a server. Raises CorefileError."""
    host, port = text, 53
    if text.startswith("[") or text.count(":") == 1:
        host, _, tail = text.rpartition(":")
        host, port = host.strip("[]"), int(tail) if tail.isdecimal() else 53
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise CorefileError(f"must specify an IP address: `{text}'") from error
    return host, port


PLUGIN = Transfer
