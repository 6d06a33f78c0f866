"""Tells an Envoy what it should have, over the stream, in an order that breaks no request.

What others refer to comes first and goes last: clusters, endpoints and certificates are there, and
Envoy has said so, before a listener or route names them; they are taken away when none does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from kubewire.api.meta import JSON
from kubewire.kernel.xds import XdsStreams
from kubewire.lang.xds.delta import Resources
from kubewire.lang.xds.model import ASSIGNMENT, CLUSTER, LISTENER, ROUTES, SECRET

STEPS = ((CLUSTER, ASSIGNMENT, SECRET), (LISTENER, ROUTES))
PATIENCE = 5.0
"""Seconds for an answer; an Envoy that is too busy gets the rest all the same."""


class Feed:
    """A socket that one Envoy asks; use it in an event loop."""

    def __init__(self, path: Path) -> None:
        self._resources = Resources()
        self._streams = XdsStreams(path, self._resources)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._streams.fileno(), self._turn)
        self._turned = asyncio.Event()

    async def replace(self, wanted: Mapping[str, Mapping[str, JSON]]) -> None:
        """Have Envoy know exactly these."""
        for kinds in STEPS:
            for kind in kinds:
                for name, resource in wanted[kind].items():
                    self._resources.put(kind, name, resource)
            await self._told()
        for kinds in reversed(STEPS):
            for kind in kinds:
                for name in self._resources.names(kind) - wanted[kind].keys():
                    self._resources.drop(kind, name)
            await self._told()

    def close(self) -> None:
        """Say no more; Envoy keeps what it has."""
        self._loop.remove_reader(self._streams.fileno())
        self._streams.close()

    async def _told(self) -> None:
        """Tell what is new; wait until who is there has taken it."""
        self._streams.tell()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._streams.waiting():
                    self._turned.clear()
                    await self._turned.wait()

    def _turn(self) -> None:
        self._streams.step()
        self._turned.set()
