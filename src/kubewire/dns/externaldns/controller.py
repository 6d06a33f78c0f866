"""Keeps a DNS server in step with Services and Ingresses: events at most every few seconds, and a
whole comparison each interval, which also mends what others changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Protocol

from kubewire.api.core import Node, Pod
from kubewire.api.ingress import Ingress
from kubewire.api.meta import Key
from kubewire.api.resources import ENDPOINT_SLICES, INGRESSES, NODES, PODS, SERVICES
from kubewire.api.selectors import parse_selector
from kubewire.api.service import EndpointSlice, Service
from kubewire.client.informer import Informer
from kubewire.client.loop import Changes as Seen
from kubewire.client.loop import Loop, run_all
from kubewire.client.rest import Client
from kubewire.dns.externaldns.plan import Changes, DomainFilter, Policy, plan
from kubewire.dns.externaldns.record import Record, merged
from kubewire.dns.externaldns.rfc2136 import ProviderError
from kubewire.dns.externaldns.sources import Rules, World, wanted

log = logging.getLogger(__name__)

AGENT = "external-dns"


class Provider(Protocol):
    """Where records are published; both calls block."""

    def records(self) -> list[Record]:
        """What is there, with its owner."""

    def apply(self, changes: Changes) -> None:
        """Change it."""


class ExternalDns:
    """One loop over the sources."""

    def __init__(
        self,
        client: Client,
        provider: Provider,
        *,
        owner: str | None,
        sources: Iterable[str] = ("service", "ingress"),
        namespace: str = "",
        label_filter: str = "",
        annotation_filter: str = "",
        rules: Rules | None = None,
        domains: DomainFilter | None = None,
        policy: Policy = "sync",
        types: Iterable[str] = ("A", "AAAA", "CNAME"),
        interval: float = 60.0,
        min_event_interval: float = 5.0,
        dry_run: bool = False,
    ) -> None:
        self._provider, self._owner, self._policy = provider, owner, policy
        self._rules, self._domains, self._types = rules or Rules(), domains, tuple(types)
        self._interval, self._dry_run = interval, dry_run
        self._by_annotations = parse_selector(annotation_filter)
        self._reported: set[str] = set()
        chosen: dict[str, Any] = {
            "namespace": namespace, "label_selector": label_filter, "agent": AGENT,
        }  # fmt: skip
        self.services = Informer(client, SERVICES, Service, **chosen)
        self.ingresses = Informer(client, INGRESSES, Ingress, **chosen)
        self.slices = Informer(
            client, ENDPOINT_SLICES, EndpointSlice, namespace=namespace, agent=AGENT
        )
        self.pods = Informer(client, PODS, Pod, namespace=namespace, agent=AGENT)
        self.nodes = Informer(client, NODES, Node, agent=AGENT)
        of_source: dict[str, list[Informer[Any]]] = {
            "service": [self.services, self.slices, self.pods, self.nodes],
            "ingress": [self.ingresses],
        }
        self.informers = [i for s in dict.fromkeys(sources) for i in of_source[s]]
        self.loop = Loop(AGENT, self.informers, self._reconcile, min_interval=min_event_interval)

    async def run(self) -> None:
        """Run until cancelled; what is published stays."""
        await run_all([self.loop])

    async def once(self) -> None:
        """Compare and change once (``--once``)."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(i.run(), name=i.resource.plural) for i in self.informers]
            for informer in self.informers:
                await informer.wait_synced()
            await self.synchronize()
            for task in tasks:
                task.cancel()

    async def _reconcile(self, _: Seen) -> float:
        try:
            await self.synchronize()
        except ProviderError as error:
            # Nothing here can mend the server: it is asked again when the next comparison is due.
            log.error("%s", error)
        return self._interval

    async def synchronize(self) -> None:
        """Bring the server to what the objects ask for; ProviderError if it would not."""
        records = merged(wanted(self._world(), self._rules))
        current = await asyncio.to_thread(self._provider.records)
        changes = plan(
            records,
            current,
            owner=self._owner,
            policy=self._policy,
            domains=self._domains,
            types=self._types,
        )
        self._say(changes)
        if changes and not self._dry_run:
            await asyncio.to_thread(self._provider.apply, changes)

    def _say(self, changes: Changes) -> None:
        for record in changes.create:
            log.info("Desired change: CREATE %s %s %s", record.name, record.type, record.targets)
        for _, record in changes.update:
            log.info("Desired change: UPDATE %s %s %s", record.name, record.type, record.targets)
        for record in changes.delete:
            log.info("Desired change: DELETE %s %s", record.name, record.type)
        foreign = {f"{record.resource}: {why}" for record, why in changes.foreign}
        for text in sorted(foreign - self._reported):
            log.warning("%s: not published", text)
        self._reported = foreign

    def _world(self) -> World:
        chosen = self._by_annotations.matches
        return World(
            [s for s in self.services.store.values() if chosen(s.annotations)],
            [i for i in self.ingresses.store.values() if chosen(i.annotations)],
            self._pods(),
            self.nodes.store.values(),
        )

    def _pods(self) -> dict[Key, tuple[tuple[Pod, bool], ...]]:
        found: dict[Key, list[tuple[Pod, bool]]] = {}
        for piece in self.slices.store.values():
            for endpoint in piece.endpoints or ():
                reference = endpoint.target_ref
                if reference is None or reference.kind != "Pod":
                    continue
                pod = self.pods.store.get(Key(piece.metadata.namespace, reference.name))
                if pod is not None:
                    service = Key(piece.metadata.namespace, piece.service_name)
                    found.setdefault(service, []).append((pod, endpoint.ready))
        return {
            key: tuple({p.metadata.name: (p, r) for p, r in pods}.values())
            for key, pods in found.items()
        }
