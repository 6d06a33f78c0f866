"""hosts: names and addresses from files like /etc/hosts."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from kubewire.dns.metrics import Book, Metric
from kubewire.dns.plugin import Fallthrough, Plugin, Request, Response, Setup, duration
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import longest_zone, normalize, parent, reverse_address
from kubewire.lang.dns.record import address, ptr

HELD = (codes.A, codes.AAAA, codes.PTR)
ENTRIES = Metric(
    "coredns_hosts_entries", "The combined number of entries in hosts and Corefile.",
    ("hostsfile",), "gauge",
)  # fmt: skip
READ = Metric(
    "coredns_hosts_reload_timestamp_seconds", "The timestamp of the last reload of hosts file.",
    kind="gauge",
)  # fmt: skip


@dataclass
class Table:
    """Both directions of a hosts file."""

    addresses: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def read(self, text: str, zones: list[str], *, reverse: bool) -> None:
        """Take the lines of a text over."""
        for line in text.splitlines():
            words = line.split("#")[0].split()
            if len(words) < 2:
                continue
            try:
                ip = str(ipaddress.ip_address(words[0].partition("%")[0]))
            except ValueError:
                continue
            for word in words[1:]:
                name = normalize(word)
                if longest_zone(name, zones):
                    self.addresses.setdefault(name, []).append(ip)
                    if reverse:
                        self.names.setdefault(ip, []).append(name)


class Hosts(Plugin):
    """Forward and reverse answers from a file and from lines of the Corefile."""

    name = "hosts"

    def __init__(self, path: str, zones: list[str], inline: str, *, offline: bool) -> None:
        self.path, self.zones, self.inline = path, zones, inline
        self.ttl = 3600
        self.fall = Fallthrough()
        self.hands_on = False
        """Types that a hosts file cannot hold go to the next plugin."""
        self.reverse = True
        self.interval = 5.0
        self._live = not offline
        self._table = Table()
        self._seen: tuple[float, int] | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def setup(cls, setup: Setup) -> Hosts:
        """Read the directive."""
        args = setup.once()
        path, zones = (setup.path(args[0]), args[1:]) if args else ("/etc/hosts", [])
        plugin = cls(path, setup.zones(zones), "", offline=setup.env.offline)
        lines: list[str] = []
        for word, values in setup.properties():
            match word, values:
                case "fallthrough", _:
                    plugin.fall = Fallthrough.from_args(values)
                case "fallthrough_unsupported", []:
                    plugin.hands_on = True
                case "fallthrough_unsupported", _:
                    raise setup.err(
                        f"Wrong argument count or unexpected line ending after '{values[0]}'"
                    )
                case "no_reverse", _:
                    plugin.reverse = False
                case "ttl", [value]:
                    try:
                        plugin.ttl = int(value)
                    except ValueError as error:
                        raise setup.err("ttl needs a number of second") from error
                    if not 0 < plugin.ttl <= 65535:
                        raise setup.err("ttl provided is invalid")
                case "ttl", _:
                    raise setup.err("ttl needs a time in second")
                case "reload", [value]:
                    plugin.interval = duration(value)
                    if plugin.interval < 0:
                        raise setup.err(f"invalid negative duration for reload '{value}'")
                case "reload", _:
                    raise setup.err("reload needs a duration (zero seconds to disable)")
                case _ if values and not plugin.fall.zones:
                    lines.append(" ".join((word, *values)))
                case _:
                    raise setup.err(f"unknown property '{word}'")
        if plugin.hands_on and not plugin.fall.zones:
            raise setup.err("fallthrough_unsupported requires fallthrough")
        plugin.inline = "\n".join(lines)
        setup.no_more()
        plugin.load()
        return plugin

    def load(self) -> None:
        """Read the file if it is another one than before."""
        text = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            state = Path(self.path).stat()
            if self._seen == (state.st_mtime, state.st_size):
                return
            text = Path(self.path).read_text()
            self._seen = (state.st_mtime, state.st_size)
        table = Table()
        table.read(self.inline, self.zones, reverse=self.reverse)
        table.read(text, self.zones, reverse=self.reverse)
        self._table = table

    async def start(self) -> None:
        """Look at the file from time to time."""
        if self._live and self.interval:
            self._task = asyncio.create_task(self._watch(), name="hosts")

    async def stop(self, *, final: bool) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.interval)
            self.load()

    def measure(self, book: Book) -> None:
        """Entries of both directions, and how old the file is."""
        found = (self._table.addresses, self._table.names)
        book.set(ENTRIES, sum(len(v) for table in found for v in table.values()), self.path)
        book.set(READ, self._seen[0] if self._seen else 0)

    async def serve(self, request: Request) -> Response:
        """Answer names of the table."""
        if request.qtype == codes.PTR:
            ip = reverse_address(request.name)
            names = self._table.names.get(ip, []) if self.reverse else []
            if not names:
                return await self.next.serve(request)
            answer = [ptr(request.qname, self.ttl, n) for n in dict.fromkeys(names)]
            return self.reply(answer=answer, reason=f"{ip} is in {self.path}")
        if not longest_zone(request.name, self.zones):
            return await self.next.serve(request)
        found = self._find(request.name)
        if found is None:
            return await self._unknown(request)
        if self.hands_on and request.qtype not in HELD and self.fall.through(request.name):
            return await self.next.serve(request)
        v6 = request.qtype == codes.AAAA
        wanted = request.qtype in (codes.A, codes.AAAA)
        ips = [ip for ip in found if wanted and (":" in ip) == v6]
        answer = [address(request.name, self.ttl, ip) for ip in dict.fromkeys(ips)]
        return self.reply(answer=answer, reason=f"{request.name} is in {self.path}")

    async def _unknown(self, request: Request) -> Response:
        if self.fall.through(request.name):
            return await self.next.serve(request)
        return self.fail(codes.SERVFAIL, f"{request.name} is not in {self.path}")

    def _find(self, name: str) -> list[str] | None:
        found = self._table.addresses.get(name)
        if found is None and name != ".":
            above = parent(name)
            found = self._table.addresses.get("*." + above)
        return found


PLUGIN = Hosts
