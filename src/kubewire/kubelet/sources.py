"""ConfigMaps, Secrets, Services and tokens for the containers of a node.

An answer is kept for a second: a thousand replicas that start together ask once.
"""

import asyncio
import time
from typing import Any

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON
from kubewire.api.resources import CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS, SERVICES
from kubewire.client.rest import Client
from kubewire.kubelet.environment import Source
from kubewire.kubelet.pod import Pod
from kubewire.kubelet.volumes import TOKEN_SECONDS

KEPT_SECONDS = 1.0
_RESOURCES = {"ConfigMap": CONFIG_MAPS, "Secret": SECRETS}


class Sources:
    """Reads through a short memory."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, str, str], tuple[float, asyncio.Task[Any]]] = {}

    async def get(self, source: Source, namespace: str) -> JSON | None:
        """A ConfigMap or Secret; None if there is none."""
        kind, name = source
        found: JSON | None = await self._ask((kind, namespace, name))
        return found

    def forget(self, source: Source, namespace: str) -> None:
        """Ask for a ConfigMap or Secret anew: it has changed."""
        kind, name = source
        self._known.pop((kind, namespace, name), None)

    async def services(self, namespace: str) -> list[JSON]:
        """Services whose variables the pods of a namespace see."""
        own: list[JSON] = await self._ask(("Services", namespace, ""))
        if namespace == "default":
            return own
        master: JSON | None = await self._ask(("Service", "default", "kubernetes"))
        return [*own, *([master] if master else [])]

    async def token(self, pod: Pod, audience: str) -> str:
        """A token of the pod's service account, bound to the pod."""
        spec: JSON = {
            "audiences": [audience] if audience else None,
            "expirationSeconds": TOKEN_SECONDS,
            "boundObjectRef": {
                "kind": "Pod", "apiVersion": "v1",
                "name": pod.metadata.name, "uid": pod.metadata.uid,
            },
        }  # fmt: skip
        answer = await self._client.create(
            SERVICE_ACCOUNTS,
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {k: v for k, v in spec.items() if v is not None},
            },
            pod.metadata.namespace,
            name=pod.spec.service_account_name or "default",
            subresource="token",
        )
        return str(answer["status"]["token"])

    async def _ask(self, key: tuple[str, str, str]) -> Any:
        now = time.monotonic()
        at, task = self._known.get(key, (0.0, None))
        if task is None or now - at > KEPT_SECONDS:
            self._known = {k: v for k, v in self._known.items() if now - v[0] <= KEPT_SECONDS}
            task = asyncio.create_task(self._read(*key))
            self._known[key] = now, task
        return await asyncio.shield(task)

    async def _read(self, kind: str, namespace: str, name: str) -> Any:
        if kind == "Services":
            return await self._client.list(SERVICES, namespace)
        try:
            return await self._client.get(_RESOURCES.get(kind, SERVICES), name, namespace)
        except StatusError as error:
            if error.code == 404:
                return None
            raise
