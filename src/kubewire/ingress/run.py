"""The ingress program: the controller and the Envoy that it feeds, in one pod.

Envoy is a child: when it ends this program ends with it, and the kubelet starts the container again.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from pathlib import Path

from kubewire.api.meta import Key
from kubewire.client.rest import Client
from kubewire.ingress.compile import bootstrap
from kubewire.ingress.controller import IngressController
from kubewire.kernel.envoy import start

SERVICE = Key("kube-system", "kubewire-ingress")


async def serve(client: Client, *, agent: str, service: Key) -> int:
    """Run controller and Envoy until either ends; the status is Envoy's."""
    with tempfile.TemporaryDirectory(prefix="kubewire-ingress-") as folder:
        controller = IngressController(client, Path(folder), agent=agent, service=service)
        task = asyncio.create_task(controller.run(), name="ingress-controller")
        await controller.configured.wait()
        config = Path(folder) / "bootstrap.json"
        config.write_bytes(bootstrap(folder, agent))
        envoy = start(config)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, envoy.signal, signal.SIGTERM)
        try:
            return await envoy.wait()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def run(agent: str, service: Key = SERVICE) -> int:
    """Run inside a pod, with its service account."""

    async def main() -> int:
        async with Client.in_cluster() as client:
            return await serve(client, agent=agent, service=service)

    return asyncio.run(main())
