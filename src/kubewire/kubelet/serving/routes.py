"""Paths of the kubelet's API."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import unquote

import msgspec
from aiohttp import web

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON, Key
from kubewire.api.resources import PODS
from kubewire.client.rest import Client
from kubewire.kubelet.pod import Container
from kubewire.kubelet.serving import logs, metrics, portforward, streams
from kubewire.kubelet.serving.access import Access
from kubewire.kubelet.worker import PodWorker

log = logging.getLogger(__name__)

IN_CONTAINER = {
    "containerLogs": logs.answer,
    "exec": streams.execute,
    "run": streams.run,
    "attach": streams.attach,
}
"""First part of the path -> who answers; NAMESPACE/POD[/UID]/CONTAINER follows."""
UPGRADED = ("exec", "attach", "portForward")
HEALTH = ("healthz", "livez", "readyz")


def web_server(
    client: Client, node: str, workers: Mapping[Key, PodWorker]
) -> Callable[[], asyncio.Protocol]:
    """The protocol of a connection."""
    routes = Routes(client, node, workers)
    # Who follows a log and goes away is not waited for.
    server = web.Server(routes.handle, access_log=None, handler_cancellation=True)
    return cast("Callable[[], asyncio.Protocol]", server)


class Routes:
    """Answers requests."""

    def __init__(self, client: Client, node: str, workers: Mapping[Key, PodWorker]) -> None:
        self._client = client
        self._node = node
        self._workers = workers
        self._access = Access(client)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; errors are plain text, as upstream's."""
        try:
            await self._access.check(request)
            return await self._answer(request)
        except StatusError as error:
            return web.Response(status=error.code, text=error.message)
        except Exception:
            log.exception("%s %s", request.method, request.path)
            return web.Response(status=500, text="internal error: the kubelet's log says more")

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        first, *rest = [unquote(part) for part in request.path.strip("/").split("/")]
        if first in HEALTH:
            return web.Response(text="ok")
        if first in UPGRADED and "Upgrade" not in request.headers:
            raise StatusError("BadRequest", "Upgrade request required")
        if first in IN_CONTAINER and len(rest) in (3, 4):
            worker, container = self._container(rest[0], rest[1], rest[2:-1], rest[-1])
            return await IN_CONTAINER[first](request, worker, container)
        if first == "portForward" and len(rest) in (2, 3):
            return await portforward.answer(request, self._pod(rest[0], rest[1], rest[2:]))
        if first in ("pods", "runningpods"):
            return await self._pods(running=first == "runningpods")
        if first == "metrics":
            return self._metrics("/".join(rest))
        raise StatusError("NotFound", "404 page not found")

    def _pod(self, namespace: str, name: str, uid: list[str]) -> PodWorker:
        worker = self._workers.get(Key(namespace, name))
        if worker is None or uid not in ([], [worker.pod.uid]):
            raise StatusError("NotFound", f'pod "{name}" does not exist')
        return worker

    def _container(
        self, namespace: str, pod: str, uid: list[str], name: str
    ) -> tuple[PodWorker, Container]:
        worker = self._pod(namespace, pod, uid)
        for container in worker.pod.spec.everything:
            if container.name == name:
                return worker, container
        raise StatusError("NotFound", f'container "{name}" not found in pod "{pod}"')

    async def _pods(self, *, running: bool) -> web.Response:
        """The pods of this node, whole, as the API server has them."""
        params = {"fieldSelector": f"spec.nodeName={self._node}"}
        found: JSON = await self._client.request("GET", PODS.path(), params=params)
        if running:
            found["items"] = [p for p in found["items"] if self._runs(p["metadata"])]
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    def _runs(self, meta: JSON) -> bool:
        worker = self._workers.get(Key(meta["namespace"], meta["name"]))
        return worker is not None and metrics.is_running(worker)

    def _metrics(self, which: str) -> web.Response:
        pages = {"": metrics.kubelet, "probes": metrics.probes}
        if which not in pages:
            raise StatusError("NotFound", "404 page not found")
        text = pages[which](self._node, list(self._workers.values()))
        return web.Response(text=text, headers={"Content-Type": metrics.FORMAT})
