"""Listeners on the host that lead to Services: ``--publish`` and ``--publish-ingress``.

The listening sockets are made outside the sandbox (a port in use is noticed before anything
starts) and inherited; each accepted connection is joined to one made from a node's network
namespace to the Service's ClusterIP, so kube-proxy balances it like any other.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence

from kubewire.api.meta import Key
from kubewire.api.resources import SERVICES
from kubewire.api.service import Service
from kubewire.client.informer import Informer
from kubewire.client.rest import Client
from kubewire.cluster.options import Publish

log = logging.getLogger(__name__)

CHUNK = 1 << 18


def target(services: Mapping[Key, Service], publish: Publish) -> tuple[str, int] | None:
    """ClusterIP and port that a published port leads to; None while there is no such Service."""
    service = services.get(Key(publish.namespace, publish.service))
    if service is None or not service.cluster_ips:
        return None
    for port in service.spec.ports or ():
        if publish.port in (port.name, str(port.port)):
            return service.cluster_ips[0], port.port
    return None


async def run(client: Client, listeners: Sequence[tuple[Publish, socket.socket]]) -> None:
    """Serve until cancelled."""
    services = Informer(client, SERVICES, Service)
    async with asyncio.TaskGroup() as group:
        group.create_task(services.run(), name="publish-services")
        for publish, listener in listeners:
            group.create_task(
                _accept(services.store, publish, listener, group),
                name=f"publish-{publish.host_port}",
            )


async def _accept(
    services: Mapping[Key, Service],
    publish: Publish,
    listener: socket.socket,
    group: asyncio.TaskGroup,
) -> None:
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    while True:
        accepted, _ = await loop.sock_accept(listener)
        group.create_task(_join(services, publish, accepted), name="publish-connection")


async def _join(services: Mapping[Key, Service], publish: Publish, accepted: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    accepted.setblocking(False)
    address = target(services, publish)
    if address is None:
        name = f"{publish.namespace}/{publish.service}"
        log.warning("port %d: no Service %s with port %s", publish.host_port, name, publish.port)
        accepted.close()
        return
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    onward = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with accepted, onward:
        for end in (accepted, onward):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await loop.sock_connect(onward, address)
            await asyncio.gather(_pump(accepted, onward), _pump(onward, accepted))
        except OSError as error:
            log.info("port %d to %s:%d: %s", publish.host_port, *address, error)


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, CHUNK):
        await loop.sock_sendall(sink, data)
    sink.shutdown(socket.SHUT_WR)
