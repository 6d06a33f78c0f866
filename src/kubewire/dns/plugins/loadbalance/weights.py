"""The file of weights: a name alone on its line, then a line for each address that has a weight."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
from pathlib import Path

from kubewire.dns.corefile import CorefileError
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import absolute, normalize
from kubewire.lang.dns.record import RR, address_text

log = logging.getLogger("kubewire.dns.plugin.loadbalance")

Table = dict[str, dict[str, int]]


class Weights:
    """Weights by name and address; read again when the file changes."""

    def __init__(self, path: str, interval: float) -> None:
        self.path = path
        self.interval = interval
        self._table: Table = {}
        self._text: str | None = None
        self._task: asyncio.Task[None] | None = None

    def load(self) -> None:
        """Read the file. Raises CorefileError if it is wrong, OSError if it is not there."""
        text = Path(self.path).read_text()
        if text != self._text:
            self._text = text
            self._table = parse(text, self.path)

    def first(self) -> None:
        """Read the file for the first time; one that is not there is looked for again."""
        try:
            self.load()
        except OSError as error:
            if not self.interval:
                raise CorefileError("failed to open weight file") from error
            log.warning(
                "Failed to open weight file:%s. Will try again in %gs", error, self.interval
            )

    def start(self) -> None:
        """Look at the file from time to time."""
        if self.interval:
            self._task = asyncio.create_task(self._watch(), name="weights")

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.interval)
            try:
                self.load()
            except (OSError, CorefileError) as error:
                log.error("plugin/loadbalance: %s", error)

    def order(self, records: list[RR]) -> list[RR]:
        """Aliases, other records, addresses with one put first by weight, mail servers."""
        addresses = [r for r in records if r.type in (codes.A, codes.AAAA)]
        if not addresses:
            return records
        weights = [self._table.get(r.name.lower(), {}).get(address_text(r), 1) for r in addresses]
        [top] = random.choices(range(len(addresses)), weights)
        addresses[0], addresses[top] = addresses[top], addresses[0]
        rest = [r for r in records if r.type not in (codes.A, codes.AAAA)]
        rank = {codes.CNAME: 0, codes.MX: 2}
        before = sorted(rest, key=lambda r: rank.get(r.type, 1))
        mail = [r for r in before if r.type == codes.MX]
        return [*before[: len(before) - len(mail)], *addresses, *mail]


def parse(text: str, file: str) -> Table:
    """Read a file of weights. Raises CorefileError."""
    found: Table = {}
    current: dict[str, int] | None = None
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise CorefileError(
                f'could not parse weight line:"{line.strip()}" in weight file {file}'
            )
        ip = _address(words[0])
        if len(words) == 1:
            if ip:
                raise CorefileError(
                    f'wrong domain name:"{words[0]}" in weight file {file}. '
                    "(Maybe a missing weight value?)"
                )
            current = found.setdefault(normalize(absolute(words[0])), {})
            continue
        if not ip:
            raise CorefileError(f'wrong IP address:"{words[0]}" in weight file {file}')
        if not words[1].isdecimal() or not 0 < int(words[1]) < 256:
            raise CorefileError(f'wrong weight value:"{words[1]}" in weight file {file}')
        if current is None:
            raise CorefileError(f"missing domain name in weight file {file}")
        current.setdefault(ip, int(words[1]))
    return found


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
