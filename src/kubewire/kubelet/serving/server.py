"""The port: who may ask, which path is whose, and errors in the kubelet's plain text.

The server itself is only made when somebody connects: most nodes are never asked, and its library
would cost every one of them a tenth of a second and some megabytes.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubewire.api.meta import Key
from kubewire.client.rest import Client
from kubewire.kubelet.worker import PodWorker

PORT = 10250
RETRY_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tls:
    """The kubelet's own certificate, and whose client certificates it believes."""

    certificate: Path
    key: Path
    client_ca: Path

    def context(self) -> ssl.SSLContext:
        """For the server's side."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        context.load_verify_locations(self.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        return context


class Workers(Mapping[Key, PodWorker]):
    """The pods of the node by name."""

    def __init__(self, uids: Mapping[Key, str], workers: Mapping[str, PodWorker]) -> None:
        self._uids = uids
        self._workers = workers

    def __getitem__(self, key: Key) -> PodWorker:
        return self._workers[self._uids[key]]

    def __iter__(self) -> Any:
        return (key for key, uid in self._uids.items() if uid in self._workers)

    def __len__(self) -> int:
        return sum(1 for _ in self)


async def serve(
    client: Client, node: str, hosts: Sequence[str], tls: Tls, workers: Mapping[Key, PodWorker]
) -> None:
    """Serve on the node's addresses for ever; a taken port is tried again."""
    made: Callable[[], asyncio.Protocol] | None = None

    def protocol() -> asyncio.Protocol:
        nonlocal made
        if made is None:
            from kubewire.kubelet.serving.routes import web_server

            made = web_server(client, node, workers)
        return made()

    loop = asyncio.get_running_loop()
    context = tls.context()
    while True:
        try:
            server = await loop.create_server(protocol, list(hosts), PORT, ssl=context, backlog=128)
        except OSError as error:
            log.error("port %d: %s", PORT, error.strerror or error)
            await asyncio.sleep(RETRY_SECONDS)
            continue
        async with server:
            await server.serve_forever()
