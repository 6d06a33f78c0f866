"""Follow the API server: informers in, changes of the cluster out.

Answers are right as soon as ``Loop`` calls: the objects that changed are taken over one by one and
the answers made of them dropped. An API server that goes away changes nothing of what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubewire.api.errors import InputError
from kubewire.api.resources import ENDPOINT_SLICES, NAMESPACES, PODS, SERVICES
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugins.kubernetes.cluster import Cluster
from kubewire.dns.plugins.kubernetes.objects import (
    SERVICE_IMPORTS,
    EndpointSlice,
    Namespace,
    Pod,
    Service,
    ServiceImport,
)

if TYPE_CHECKING:
    from kubewire.client.informer import Informer
    from kubewire.client.loop import Changes
    from kubewire.client.rest import Client
    from kubewire.dns.metrics import Book
    from kubewire.dns.plugins.kubernetes import Source
    from kubewire.dns.plugins.kubernetes.records import Options

log = logging.getLogger("kubewire.dns.plugin.kubernetes")

NOT_RUNNING = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown"


class Watch:
    """The informers of one plugin."""

    def __init__(
        self,
        source: Source,
        options: Options,
        cluster: Cluster,
        changed: Callable[[set[object]], None],
        book: Book,
    ) -> None:
        self._source = source
        self._options = options
        self._cluster = cluster
        self._changed = changed
        self._book = book
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._informers: list[Informer[Any]] = []
        self._known: dict[Any, dict[Any, Any]] = {}

    async def start(self) -> None:
        """Begin; return when all is listed or ``startup_timeout`` is over."""
        from kubewire.client.loop import Loop, run_all
        from kubewire.dns.plugins.kubernetes.measures import CountedTransport

        self._client = connect(self._source)
        self._client.transport = CountedTransport(self._client, self._book)
        self._informers = self._make(self._client)
        self._known = {informer: {} for informer in self._informers}
        loop = Loop(self._source.agent or "dns", self._informers, self._reconcile)
        self._task = asyncio.create_task(run_all([loop]), name="dns watch")
        try:
            async with asyncio.timeout(self._source.startup_timeout):
                await loop.wait_applied()
        except TimeoutError:
            log.warning("plugin/kubernetes: starting server with unsynced Kubernetes API")

    async def stop(self) -> None:
        """Stop to follow."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._client is not None:
            await self._client.close()

    def _make(self, client: Client) -> list[Informer[Any]]:
        from kubewire.client.informer import Informer

        agent, labels = self._source.agent, self._source.label_text
        found: list[Informer[Any]] = [
            Informer(client, SERVICES, Service, label_selector=labels, agent=agent),
            Informer(
                client, NAMESPACES, Namespace, agent=agent,
                label_selector=self._source.namespace_label_text,
            ),
        ]  # fmt: skip
        if self._options.endpoints:
            found.append(
                Informer(client, ENDPOINT_SLICES, EndpointSlice, label_selector=labels, agent=agent)
            )
        if self._options.pods == "verified":
            found.append(
                Informer(
                    client, PODS, Pod, agent=agent, label_selector=labels,
                    field_selector=NOT_RUNNING,
                )
            )  # fmt: skip
        if self._options.multicluster:
            found.append(Informer(client, SERVICE_IMPORTS, ServiceImport, agent=agent))
        return found

    async def _reconcile(self, changes: Changes) -> None:
        from kubewire.dns.plugins.kubernetes.measures import programmed

        touched: set[object] = set()
        now = time.time()
        for informer in self._informers:
            known = self._known[informer]
            keys = set(known) | set(informer.store) if changes.full else changes.of(informer)
            for key in keys:
                old, new = known.get(key), informer.store.get(key)
                if old is new:
                    continue
                touched |= self._cluster.apply(old, new, now)
                if self._cluster.synced and isinstance(new, EndpointSlice) and new.service:
                    programmed(self._book, new, self._cluster.services.get(new.service))
                if new is None:
                    del known[key]
                else:
                    known[key] = new
        self._cluster.synced = True
        if touched:
            self._changed(touched)


IN_CLUSTER = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")


def connect(source: Source) -> Client:
    """A client of the API server that the plugin's options name."""
    from kubewire.client import kubeconfig
    from kubewire.client.rest import Client

    if source.client is not None:
        return source.client()
    if source.kubeconfig:
        found = kubeconfig.connection(kubeconfig.load(source.kubeconfig), source.context or None)
        return Client.from_connection(found)
    if source.endpoint:
        certificate, key, authority = (Path(p).read_bytes() if p else None for p in source.tls)
        server = source.endpoint if "://" in source.endpoint else f"http://{source.endpoint}"
        return Client.from_connection(
            kubeconfig.Connection(
                server.rstrip("/"), ca=authority, certificate=certificate, key=key
            )
        )
    try:
        return Client.in_cluster()
    except InputError as error:
        missing = [v for v in IN_CLUSTER if not os.environ.get(v)]
        why = f"{' and '.join(IN_CLUSTER)} must be defined" if missing else str(error)
        raise CorefileError(
            f"plugin/kubernetes: unable to load in-cluster configuration, {why}"
        ) from error
