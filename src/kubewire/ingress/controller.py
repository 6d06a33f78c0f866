"""The ingress controller: watches, compiles, tells Envoy, fills status.loadBalancer."""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Iterable
from pathlib import Path

from kubewire.api.ingress import Ingress, IngressClass, Secret
from kubewire.api.meta import JSON, Key
from kubewire.api.resources import ENDPOINT_SLICES, INGRESS_CLASSES, INGRESSES, SECRETS, SERVICES
from kubewire.api.service import EndpointSlice, Service
from kubewire.client.informer import Informer
from kubewire.client.loop import Changes, Loop, run_all
from kubewire.client.rest import Client
from kubewire.ingress.certificates import fault_of, self_signed
from kubewire.ingress.compile import XDS, Certificate, certificate_of, compile_resources
from kubewire.ingress.feed import Feed
from kubewire.ingress.plan import Plan, plan

IPV6 = Path("/proc/net/if_inet6")
"""Missing where the kernel has no IPv6."""

log = logging.getLogger(__name__)


class IngressController:
    """Keeps the Envoy whose folder it is at what the Ingresses mean."""

    def __init__(self, client: Client, directory: Path, *, agent: str, service: Key) -> None:
        self.client = client
        self.service = service
        """The Service in front of Envoy; its address goes into the Ingresses' status."""
        self.configured = asyncio.Event()
        """Set once there is a whole configuration to be told."""
        self._anywhere = "::" if IPV6.exists() else "0.0.0.0"
        self._feed = Feed(directory / XDS)
        self._checked: dict[Key, tuple[str, Certificate | None]] = {}
        self._fallback = self_signed("ingress.kubewire.dev", datetime.datetime.now(datetime.UTC))
        self.ingresses = Informer(client, INGRESSES, Ingress, agent=agent)
        self.classes = Informer(client, INGRESS_CLASSES, IngressClass, agent=agent)
        self.services = Informer(client, SERVICES, Service, agent=agent)
        self.slices = Informer(client, ENDPOINT_SLICES, EndpointSlice, agent=agent)
        self.secrets = Informer(client, SECRETS, Secret, agent=agent)
        informers = (self.ingresses, self.classes, self.services, self.slices, self.secrets)
        self.loop = Loop(agent, informers, self._reconcile)

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            await run_all([self.loop])
        finally:
            self._feed.close()

    async def _reconcile(self, _changes: Changes) -> None:
        wanted = plan(self.ingresses.store.values(), self.classes.store.values())
        certificates = self._certificates(set(wanted.certificates.values()))
        await self._feed.replace(
            compile_resources(
                wanted,
                self.services.store,
                self.slices.store.values(),
                certificates,
                self._fallback,
                self._anywhere,
            )
        )
        self.configured.set()
        await self._publish_status(wanted)

    def _certificates(self, keys: Iterable[Key]) -> dict[Key, Certificate]:
        """The usable certificates; each Secret is checked once per version."""
        found: dict[Key, Certificate] = {}
        for key in keys:
            secret = self.secrets.store.get(key)
            if secret is None:
                continue
            version, certificate = self._checked.get(key, ("", None))
            if version != secret.metadata.resource_version:
                certificate = _usable(secret)
                self._checked[key] = secret.metadata.resource_version, certificate
            if certificate:
                found[key] = certificate
        return found

    async def _publish_status(self, wanted: Plan) -> None:
        front = self.services.store.get(self.service)
        addresses = [{"ip": ip} for ip in front.cluster_ips] if front else []
        for ingress in list(self.ingresses.store.values()):
            if ingress.key in wanted.ignored:
                continue
            current = [i.ip for i in ingress.status.load_balancer.ingress or ()]
            if addresses and current != [a["ip"] for a in addresses]:
                body: JSON = {"status": {"loadBalancer": {"ingress": addresses}}}
                await self.client.patch(
                    INGRESSES,
                    ingress.metadata.name,
                    body,
                    ingress.metadata.namespace,
                    subresource="status",
                )


def _usable(secret: Secret) -> Certificate | None:
    certificate = certificate_of(secret)
    fault = certificate if isinstance(certificate, str) else fault_of(certificate)
    if fault or isinstance(certificate, str):
        log.warning("Secret %s: %s", secret.key, fault)
        return None
    return certificate
