"""health: an HTTP page that says the process lives."""

from __future__ import annotations

import asyncio

from kubewire.dns.corefile import CorefileError
from kubewire.dns.http import HttpServer, split_address
from kubewire.dns.plugin import Plugin, Setup, duration


class Health(Plugin):
    """Serves /health; ``lameduck`` keeps everything up that long after SIGTERM."""

    name = "health"
    handles = False

    def __init__(self, host: str, port: int, lameduck: float, *, offline: bool) -> None:
        self.lameduck = lameduck
        self._http = None if offline else HttpServer(host, port, {"/health": _ok})

    @classmethod
    def setup(cls, setup: Setup) -> Health:
        """Read the directive."""
        args = setup.once()
        if len(args) > 1:
            raise setup.arg_err()
        host, port = split_address(args[0]) if args else ("", 8080)
        lameduck = 0.0
        for word, values in setup.properties():
            if word != "lameduck":
                raise setup.unknown(word)
            if len(values) != 1:
                raise setup.arg_err()
            try:
                lameduck = duration(values[0])
            except ValueError as error:
                raise CorefileError(
                    f"unable to parse lameduck duration value: '{values[0]}' : {error}"
                ) from error
        return cls(host, port, lameduck, offline=setup.env.offline)

    async def start(self) -> None:
        """Listen."""
        if self._http:
            await self._http.open()

    async def stop(self, *, final: bool) -> None:
        """Stay up for the lame duck period, then close."""
        if final and self.lameduck:
            await asyncio.sleep(self.lameduck)
        if self._http:
            await self._http.close()


def _ok() -> tuple[int, str, bytes]:
    return 200, "text/plain; charset=utf-8", b"OK"


PLUGIN = Health
