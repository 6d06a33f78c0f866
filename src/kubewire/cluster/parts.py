"""The processes beside the API server, and in which namespace each one lives.

Importing this module is what takes time; the supervisor does it once, while the API server starts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from kubewire.api.core import Node
from kubewire.api.resources import NODES
from kubewire.client.informer import Informer
from kubewire.client.loop import Loop, run_all
from kubewire.client.rest import Client
from kubewire.cluster import publish
from kubewire.cluster.bootstrap import bootstrap
from kubewire.cluster.node import run_node
from kubewire.cluster.options import Start
from kubewire.cluster.podnetwork import install_programs
from kubewire.cluster.processes import KUBECONFIG
from kubewire.cluster.supervisor import Process
from kubewire.cluster.underlay import GATEWAY
from kubewire.cluster.vips import Vips
from kubewire.cni.routing import NodeRoutes, RouteTable
from kubewire.controllermanager import manager
from kubewire.kernel import namespaces, netns
from kubewire.kernel.unixsocket import short_name
from kubewire.kubelet.agent import STAND_IN_SOCKET
from kubewire.kubelet.serving.server import Tls
from kubewire.kubelet.standin import server as standin

log = logging.getLogger(__name__)


def processes(start: Start) -> list[Process]:
    """Controllers, nodes with their stand-ins, the publisher, and the bootstrap."""
    run_dir = start.directory / "run"
    if start.options.cni == "exec":
        install_programs(run_dir)
    found = [Process("controllers", partial(_asyncio, start, partial(_controllers, start)))]
    for index, node in enumerate(start.options.node_names):
        path = run_dir / "netns" / node
        (run_dir / "nodes" / node / "pods").mkdir(parents=True)
        agent = partial(_asyncio, start, partial(_node, start, index))
        found += [
            Process(f"standin/{node}", partial(_in_netns, path, partial(_stand_ins, start, node))),
            Process(f"node/{node}", partial(_in_netns, path, agent)),
        ]
    if start.publish:
        first = run_dir / "netns" / start.options.node_names[0]
        publisher = partial(_asyncio, start, lambda client: publish.run(client, start.publish))
        found.append(Process("publisher", partial(_in_netns, first, publisher)))
    work = partial(_asyncio, start, partial(_bootstrap, start))
    return [*found, Process("bootstrap", work, once=True)]


def _in_netns(path: Path, target: Callable[[], None]) -> None:
    with netns.opened(path) as fd:
        namespaces.setns(fd, namespaces.CLONE_NEWNET)
    target()


def _asyncio(start: Start, body: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine with a client of the cluster."""

    async def main() -> None:
        async with Client.from_kubeconfig(start.directory / KUBECONFIG) as client:
            await body(client)

    asyncio.run(main())


async def _controllers(start: Start, client: Client) -> None:
    """Every controller, and the routes from the sandbox itself to the pods (for the API's proxy)."""
    options = manager.Options(
        cluster_cidrs=start.options.addresses.cluster_cidrs,
        node_masks=dict(start.options.addresses.masks),
        root_ca=(start.directory / "pki" / "ca.crt").read_text(),
        lb_pool=start.options.lb_pool,
    )
    agent = "pod-network/sandbox"
    nodes: Informer[Node] = Informer(client, NODES, Node, agent=agent)
    # The sandbox is no node: it shares an L2 network with all of them.
    table = RouteTable("", "host-gw", cluster=start.options.addresses.pods)
    routes = Loop(agent, [nodes], NodeRoutes(table, nodes).reconcile)
    async with asyncio.TaskGroup() as group:
        group.create_task(manager.run(client, options), name="controllers")
        group.create_task(nodes.run(), name="nodes")
        group.create_task(routes.run(), name="routes")
        if start.options.lb_pool:
            group.create_task(run_all([Vips(client, GATEWAY).loop]), name="vips")


def _stand_ins(start: Start, node: str) -> None:
    folder = start.directory / "run" / "nodes" / node
    standin.run(short_name(folder / STAND_IN_SOCKET), folder)


async def _node(start: Start, index: int, client: Client) -> None:
    keys = start.directory / "pki"
    tls = Tls(keys / "kubelet.crt", keys / "kubelet.key", keys / "ca.crt")
    await run_node(client, start.options, index, start.directory / "run", tls)


async def _bootstrap(start: Start, client: Client) -> None:
    def tell(event: dict[str, Any]) -> None:
        os.write(start.tell, json.dumps(event).encode() + b"\n")

    try:
        await bootstrap(client, start, tell)
    except Exception as error:
        log.exception("bootstrap failed")
        tell({"event": "failed", "lines": [f"{type(error).__name__}: {error}"]})
