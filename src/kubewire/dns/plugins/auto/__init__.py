"""auto: answer from every zone file of a folder."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from pathlib import Path

from kubewire.dns import re2
from kubewire.dns.config import Block, Environment
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Fallthrough, Setup, duration
from kubewire.dns.plugins.file import Zones
from kubewire.dns.zonefile import load
from kubewire.lang.dns.name import longest_zone, normalize

log = logging.getLogger("kubewire.dns.plugin.auto")


class Auto(Zones):
    """Zone files found by a pattern; their names tell the origins."""

    name = "auto"
    replayable = False

    def __init__(self, served: list[str], env: Environment, block: Block) -> None:
        super().__init__()
        self.folder = ""
        self.pattern = re.compile(r"db\.(.*)")
        self.template = "{1}"
        self.interval = 60.0
        self._served = served
        self._env = env
        self._block = block
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def setup(cls, setup: Setup) -> Auto:
        """Read the directive."""
        plugin = cls(setup.zones(setup.once()), setup.env, setup.block)
        for word, args in setup.properties():
            match word, args:
                case "directory", [folder, *rest]:
                    plugin.folder = setup.path(folder)
                    if rest:
                        plugin._patterns(setup, rest)
                case "reload", [value]:
                    plugin.interval = duration(value)
                case "fallthrough", _:
                    plugin.fall = Fallthrough.from_args(args)
                case "upstream", _:
                    continue
                case _:
                    raise setup.err(f"unknown property '{word}'")
        if not plugin.folder:
            raise setup.arg_err()
        plugin.scan()
        return plugin

    def _patterns(self, setup: Setup, rest: list[str]) -> None:
        try:
            self.pattern = re2.pattern(rest[0])
        except re.error as error:
            raise CorefileError(str(error)) from error
        if len(rest) > 1:
            if re.search(r"\{[^0-9]", rest[1]):
                raise setup.err(f"invalid template: {rest[1]}")
            self.template = rest[1]

    def scan(self) -> None:
        """Take new and changed files over, let go of those that are gone."""
        found: set[str] = set()
        for folder, _, names in os.walk(self.folder):
            for name in sorted(names):
                match = self.pattern.search(name)
                if not match:
                    continue
                origin = normalize(_fill(self.template, match))
                if not longest_zone(origin, self._served):
                    continue
                found.add(origin)
                self._load(origin, Path(folder) / name)
        for gone in set(self.zones) - found:
            del self.zones[gone]

    def _load(self, origin: str, path: Path) -> None:
        try:
            zone = load(str(path), origin)
        except (OSError, ValueError) as error:
            log.warning("plugin/auto: %s", error)
            return
        old = self.zones.get(origin)
        if old is None or old.serial != zone.serial:
            self.zones[origin] = zone
            if self._task is not None:
                self.changed(self._block, origin)

    async def start(self) -> None:
        """Look at the folder from time to time."""
        if self.interval and not self._env.offline:
            self._task = asyncio.create_task(self._watch(), name="auto")

    async def stop(self, *, final: bool) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.interval)
            self.scan()


def _fill(template: str, match: re.Match[str]) -> str:
    return re.sub(r"\{([0-9]+)\}", lambda m: match[int(m[1])] or "", template)


PLUGIN = Auto
