"""The names that Services and Ingresses ask external-dns for, answered by this server itself.

A cluster without a DNS server of the outside world delegates a zone to its own: what external-dns
would publish there is answered from the same objects by the same rules (``externaldns.sources``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from kubewire.api.ingress import Ingress
from kubewire.api.resources import INGRESSES, SERVICES
from kubewire.api.service import Service
from kubewire.dns.externaldns.record import Record, RecordKey, merged
from kubewire.dns.externaldns.sources import Rules, World, wanted

if TYPE_CHECKING:
    from kubewire.client.loop import Changes
    from kubewire.client.rest import Client

log = logging.getLogger("kubewire.dns.plugin.k8s_external")


def hostname_dep(name: str) -> Hashable:
    """Answers for one of the names."""
    return ("hostname", name)


class Hostnames:
    """Record sets by name and type."""

    def __init__(self, changed: Callable[[set[object]], None]) -> None:
        self._changed = changed
        self._records: dict[RecordKey, Record] = {}
        self._names: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._client: Client | None = None

    def owner(self, name: str) -> str | None:
        """The name that answers for ``name`` (no last dot): itself, or a wildcard above it."""
        if name in self._names:
            return name
        wildcard = f"*.{name.partition('.')[2]}"
        return wildcard if wildcard in self._names else None

    def find(self, owner: str, kind: str) -> Record | None:
        """One record set."""
        return self._records.get(RecordKey(owner, kind))

    def replace(self, services: Iterable[Service], ingresses: Iterable[Ingress]) -> None:
        """Take other objects; drops the answers that change."""
        before = self._records
        self._records = merged(wanted(World(services, ingresses), Rules()))
        self._names = {key.name for key in self._records}
        keys = before.keys() | self._records.keys()
        other = {k.name for k in keys if before.get(k) != self._records.get(k)}
        if other:
            self._changed({hostname_dep(name) for name in other})

    def load(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Take the objects of a file."""
        of: dict[str, list[Any]] = {"Service": [], "Ingress": []}
        kinds = {"Service": Service, "Ingress": Ingress}
        for obj in objects:
            if (kind := obj.get("kind", "")) in kinds:
                of[kind].append(msgspec.convert(obj, kinds[kind]))
        self.replace(of["Service"], of["Ingress"])

    async def start(self, client: Client, agent: str, patience: float) -> None:
        """Begin to watch; return when all is listed, or after ``patience`` seconds."""
        from kubewire.client.informer import Informer
        from kubewire.client.loop import Loop, run_all

        self._client = client
        services = Informer(client, SERVICES, Service, agent=agent)
        ingresses = Informer(client, INGRESSES, Ingress, agent=agent)

        async def reconcile(_: Changes) -> None:
            self.replace(services.store.values(), ingresses.store.values())

        loop = Loop(agent, [services, ingresses], reconcile)
        self._task = asyncio.create_task(run_all([loop]), name="hostnames")
        try:
            async with asyncio.timeout(patience):
                await loop.wait_applied()
        except TimeoutError:
            log.warning("plugin/k8s_external: starting server with unsynced Kubernetes API")

    async def stop(self) -> None:
        """Stop to watch."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._client is not None:
            await self._client.close()
