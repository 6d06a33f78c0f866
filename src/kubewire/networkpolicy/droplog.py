"""Denied packets as the kernel reports them (NFLOG), named after pods, policy and rule.

Only rules that deny log, so an accepted packet is never reported. The kernel's prefix carries the
label of the rule; addresses become pods by the plan.
"""

import asyncio
import struct
from collections.abc import AsyncGenerator, Iterator
from ipaddress import ip_address

import msgspec

from kubewire.kernel.netlink import Message, NetlinkSocket, attr, attributes
from kubewire.kernel.netns import Netns
from kubewire.networkpolicy.judge import party
from kubewire.networkpolicy.labels import AUDIT, LOG_GROUP, PROTOCOLS
from kubewire.networkpolicy.plan import Plan

_NETFILTER = 12
_SUBSYSTEM = 4 << 8
_PACKET, _CONFIG = _SUBSYSTEM, _SUBSYSTEM | 1
_COMMAND, _MODE, _TIMEOUT = 1, 2, 4
_DELAY = struct.pack(">I", 10)
"""Hundredths of a second for which the kernel collects records."""
_AT_ONCE, _PAUSE = 8, 0.05
"""Datagrams of records that are read at once, and how long others then have the event loop."""
_PAYLOAD, _PREFIX = 9, 10
_HEADER_BYTES = 80
_NAMES = {number: name for name, number in PROTOCOLS.items()}


class Drop(msgspec.Struct, frozen=True):
    """One denied packet; ``port`` 0 for protocols without ports."""

    policy: str
    rule: str
    direction: str
    audit: bool
    source: str
    target: str
    protocol: str
    port: int

    def named(self, plan: Plan) -> "Drop":
        """The same with pods instead of their addresses."""
        source, target = (party(plan, ip_address(a)).text for a in (self.source, self.target))
        return msgspec.structs.replace(self, source=source, target=target)

    def of(self, policy: str) -> "Drop":
        """The same by another name of the policy."""
        return msgspec.structs.replace(self, policy=policy)

    def __str__(self) -> str:
        verb = "would be denied" if self.audit else "denied"
        where = f"{self.target}:{self.port}" if self.port else self.target
        rule = f" {self.rule}" if self.rule else ""
        return f"{verb}: {self.source} -> {where} {self.protocol} by {self.policy}{rule} ({self.direction})"


class DropLog(NetlinkSocket):
    """The NFLOG group of our rules in one network namespace."""

    def __init__(self, netns: Netns | None = None) -> None:
        super().__init__(_NETFILTER, netns)
        head = struct.pack(">BBH", 0, 0, LOG_GROUP)
        mode = struct.pack(">IBB", _HEADER_BYTES, 2, 0)
        self.transact(
            [
                Message(_CONFIG, 0, head + attr(_COMMAND, b"\1"), "bind NFLOG group"),
                Message(_CONFIG, 0, head + attr(_MODE, mode), "set NFLOG mode"),
                Message(_CONFIG, 0, head + attr(_TIMEOUT, _DELAY), "set NFLOG delay"),
            ]
        )
        self.socket.setblocking(False)

    async def drops(self) -> AsyncGenerator[Drop, None]:
        """Every denied packet from now on; of a flood as many as the agent has time for."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.fileno(), ready.set)
        try:
            while True:
                await ready.wait()
                loop.remove_reader(self.fileno())
                for drop in self._read():
                    yield drop
                await asyncio.sleep(_PAUSE)
                ready.clear()
                loop.add_reader(self.fileno(), ready.set)
        finally:
            loop.remove_reader(self.fileno())

    def _read(self) -> Iterator[Drop]:
        for _ in range(_AT_ONCE):
            try:
                messages = self.receive()
            except BlockingIOError:
                return
            except OSError:
                # ENOBUFS: some were lost.
                continue
            for kind, body in messages:
                if kind == _PACKET and (drop := parse(body)):
                    yield drop


def parse(body: bytes) -> Drop | None:
    """Read one record; None if it is not ours."""
    fields = dict(attributes(body, 4))
    prefix = fields.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace")
    audit = prefix.startswith(AUDIT)
    parts = prefix.removeprefix(AUDIT).split("|")
    packet = _packet(fields.get(_PAYLOAD, b""))
    if len(parts) != 3 or packet is None:
        return None
    return Drop(parts[0], parts[1], parts[2], audit, *packet)


def _packet(data: bytes) -> tuple[str, str, str, int] | None:
    """(source, target, protocol, port) of an IP packet's first bytes."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        start, number, ends = (data[0] & 15) * 4, data[9], (data[12:16], data[16:20])
    elif len(data) >= 40 and data[0] >> 4 == 6:
        start, number, ends = 40, data[6], (data[8:24], data[24:40])
    else:
        return None
    protocol = _NAMES.get(number, str(number))
    ports = protocol in ("TCP", "UDP", "SCTP") and len(data) >= start + 4
    port = int.from_bytes(data[start + 2 : start + 4], "big") if ports else 0
    return str(ip_address(ends[0])), str(ip_address(ends[1])), protocol, port
