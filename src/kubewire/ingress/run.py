"""The ingress program: the controller and the Envoy that it feeds, in one pod.

Envoy is a child: when it ends this program ends with it, and the kubelet starts the container again.
Its files lie in a folder that the caller gives and clears away: nobody else could after a SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from kubewire.api.meta import Key
from kubewire.client.rest import Client
from kubewire.ingress.compile import bootstrap
from kubewire.ingress.controller import IngressController
from kubewire.kernel.envoy import start

SERVICE = Key("kube-system", "kubewire-ingress")
BOOTSTRAP = "bootstrap.json"
"""In Envoy's folder: what it starts with."""


async def serve(client: Client, folder: Path, *, agent: str, service: Key) -> int:
    """Run controller and Envoy, with files in ``folder``, until either ends; the status is Envoy's."""
    controller = IngressController(client, folder, agent=agent, service=service)
    task = asyncio.create_task(controller.run(), name="ingress-controller")
    await controller.configured.wait()
    (folder / BOOTSTRAP).write_bytes(bootstrap(agent))
    envoy = start(Path(BOOTSTRAP), cwd=folder)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, envoy.signal, signal.SIGTERM)
    try:
        return await envoy.wait()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def run(folder: Path, agent: str, service: Key = SERVICE) -> int:
    """Run inside a pod, with its service account."""
    # Envoy, too, can name this folder only as its current one: the pod's mounts may hide its path.
    os.chdir(folder)

    async def main() -> int:
        async with Client.in_cluster() as client:
            return await serve(client, Path(), agent=agent, service=service)

    return asyncio.run(main())
