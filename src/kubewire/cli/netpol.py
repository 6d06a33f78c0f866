"""``kubewire netpol``: enforce NetworkPolicy on one node of any cluster."""

from __future__ import annotations

import asyncio
import logging
import socket

import click


@click.command()
@click.option("--kubeconfig", type=click.Path(), help="Default: in-cluster, else kubectl's rules.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--node", default=None, help="Name of this node.  [default: host name]")
@click.option("--netns", type=click.Path(), help="Network namespace of the node.  [default: this]")
@click.option(
    "--policy-backend",
    "backend",
    type=click.Choice(["nftables", "iptables"]),
    default="nftables",
    show_default=True,
    help="What enforces: nftables, or iptables with ipset.",
)
@click.option("--strict", is_flag=True, help="Cut established flows that are no longer allowed.")
@click.option(
    "--log-drops", is_flag=True, help="Log what any policy denies, not only those that ask."
)
@click.option("--metrics-port", type=int, default=0, help="Serve /metrics on this port.")
def netpol(
    kubeconfig: str | None,
    context: str | None,
    node: str | None,
    netns: str | None,
    backend: str,
    strict: bool,
    log_drops: bool,
    metrics_port: int,
) -> None:
    """Enforce NetworkPolicy and ClusterNetworkPolicy on this node's pods.

    Needs CAP_NET_ADMIN in the node's network namespace. The rules stay when the agent ends, and while
    the API server is away. What it enforces, and what hinders it, is a line on standard error.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        asyncio.run(
            _run(
                kubeconfig,
                context,
                node or socket.gethostname(),
                netns,
                backend,
                strict,
                log_drops,
                metrics_port,
            )
        )
    except PermissionError as error:
        raise click.ClickException(f"cannot change the rules of this namespace: {error}") from error


async def _run(
    kubeconfig: str | None,
    context: str | None,
    node: str,
    netns: str | None,
    backend: str,
    strict: bool,
    log_drops: bool,
    metrics_port: int,
) -> None:
    from kubewire.client.kubeconfig import SERVICE_ACCOUNT
    from kubewire.client.rest import Client
    from kubewire.networkpolicy.backends import enforcer, require
    from kubewire.networkpolicy.controller import PolicyAgent
    from kubewire.networkpolicy.metrics import serve
    from kubewire.networkpolicy.notices import Notices

    require(backend)
    in_cluster = kubeconfig is None and context is None and (SERVICE_ACCOUNT / "token").exists()
    client = Client.in_cluster() if in_cluster else Client.from_kubeconfig(kubeconfig, context)
    # A socket of its own for the thread that answers scrapes.
    with enforcer(backend, netns) as kernel, enforcer(backend, netns) as reader:
        async with client, asyncio.TaskGroup() as group:
            agent = PolicyAgent(
                client, node, kernel, strict=strict, log_drops=log_drops, notices=Notices(node)
            )
            group.create_task(agent.run(), name="networkpolicy")
            if metrics_port:
                group.create_task(serve(reader, metrics_port), name="metrics")
