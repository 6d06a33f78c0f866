"""ready: an HTTP page that says whether every plugin can answer."""

from __future__ import annotations

from kubewire.dns.config import Block
from kubewire.dns.http import HttpServer, split_address
from kubewire.dns.plugin import Plugin, Setup


class Ready(Plugin):
    """Serves /ready: 503 names the plugins that are not; once ready stays ready by default."""

    name = "ready"
    handles = False

    def __init__(self, host: str, port: int, block: Block, *, sticky: bool, offline: bool) -> None:
        self._block = block
        self._sticky = sticky
        self._done: set[str] = set()
        self._open = False
        self._http = None if offline else HttpServer(host, port, {"/ready": self._page})

    @classmethod
    def setup(cls, setup: Setup) -> Ready:
        """Read the directive."""
        args = setup.once()
        if len(args) > 1:
            raise setup.arg_err()
        host, port = split_address(args[0]) if args else ("", 8181)
        sticky = True
        for word, values in setup.properties():
            if word != "monitor":
                raise setup.unknown(word)
            if not values:
                raise setup.arg_err()
            if values not in (["continuously"], ["until-ready"]):
                raise setup.err(f"monitor type '{' '.join(values)}' not supported")
            sticky = values == ["until-ready"]
        setup.no_more()
        return cls(host, port, setup.block, sticky=sticky, offline=setup.env.offline)

    async def start(self) -> None:
        """Listen."""
        if self._http:
            await self._http.open()

    async def started(self) -> None:
        """From now on the sockets are open too."""
        self._open = True

    async def stop(self, *, final: bool) -> None:
        """Close at once: nobody should be sent here any more."""
        if self._http:
            await self._http.close()

    def _page(self) -> tuple[int, str, bytes]:
        configuration = self._block.configuration
        plugins = configuration.plugins if configuration else []
        waiting = sorted(
            {p.name for p in plugins if not p.ready and not (self._sticky and p.name in self._done)}
        )
        if self._open:
            self._done |= {p.name for p in plugins if p.ready}
        if waiting or not self._open:
            return 503, "text/plain; charset=utf-8", ",".join(waiting).encode()
        return 200, "text/plain; charset=utf-8", b"OK"


PLUGIN = Ready
