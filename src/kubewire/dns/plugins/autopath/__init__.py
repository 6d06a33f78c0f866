"""autopath: walk the client's search path on the server's side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kubewire.dns import resolv
from kubewire.dns.config import Block
from kubewire.dns.corefile import CorefileError
from kubewire.dns.metrics import Metric
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import longest_zone, normalize, within
from kubewire.lang.dns.record import RR, cname

SUCCESSES = Metric(
    "coredns_autopath_success_total", "Counter of requests that did autopath.", ("server",)
)
Search = Callable[[Request], list[str] | None]


class AutoPath(Plugin):
    """One question instead of one per search domain."""

    name = "autopath"
    replayable = False

    def __init__(self, zones: list[str], block: Block, plugin: str, search: list[str]) -> None:
        self._zones, self._block, self._plugin, self._fixed = zones, block, plugin, search

    @classmethod
    def setup(cls, setup: Setup) -> AutoPath:
        """Read the directive."""
        args = setup.once()
        if not args:
            raise CorefileError("no resolv-conf specified")
        zones, source = setup.zones(args[:-1]), args[-1]
        setup.no_more()
        if source.startswith("@"):
            return cls(zones, setup.block, source[1:], [])
        path = setup.path(source)
        if not Path(path).is_file():
            raise CorefileError(f'failed to parse "{path}": open {path}: no such file or directory')
        search = [normalize(s) for s in resolv.read(path).search]
        if not search and not setup.env.offline:
            raise CorefileError(f"failed to parse {source!r}: no search path")
        return cls(zones, setup.block, "", [*search, ""])

    async def serve(self, request: Request) -> Response:
        """Try the search path in the order of the client's resolver."""
        if not longest_zone(request.name, self._zones):
            return await self.next.serve(request)
        search = self._search(request)
        if not search or not search[0] or not within(request.name, search[0]):
            return await self.next.serve(request)
        base = request.qname[: len(request.qname) - len(search[0])]
        first: Response | None = None
        for domain in search:
            name = base + domain if domain != "." else base
            if not name.rstrip("."):
                continue
            response = await self.next.serve(request.asking(name, request.qtype))
            if first is None:
                first = response
            if response.rcode == codes.NXDOMAIN:
                continue
            if response.written:
                self.metrics.add(SUCCESSES, request.server)
            if response.rcode == codes.NOERROR and response.answer:
                return self._found(request, response, name)
            return response
        return first if first is not None else await self.next.serve(request)

    def _search(self, request: Request) -> list[str] | None:
        if not self._plugin:
            return self._fixed
        plugin = self._block.plugin(self._plugin)
        function: Search | None = getattr(plugin, "autopath", None)
        return function(request) if function else None

    def _found(self, request: Request, response: Response, name: str) -> Response:
        """Lead from the asked name to the one that was found."""
        if name.lower() == request.name:
            return response
        found = response.copy()
        link: RR = cname(request.qname, response.answer[0].ttl, name)
        found.answer = [link, *response.answer]
        found.reason = f"search path led to {name}: {response.reason}"
        return found


PLUGIN = AutoPath
