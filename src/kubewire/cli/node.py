"""``kubewire node``: the agent of one node of a real cluster."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import click

from kubewire.cli.options import network_options


@click.command()
@click.option("--kubeconfig", type=click.Path(), help="Default: in-cluster, else kubectl's rules.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--node-name", default="", help="Name of this node.  [default: host name]")
@network_options("auto", "the cluster CIDR")
@click.option(
    "--cluster-cidr",
    default="",
    metavar="CIDR[,CIDR]",
    help="Where pods are; podCIDRs outside are refused.",
)
@click.option(
    "--masquerade/--no-masquerade",
    default=True,
    show_default=True,
    help="Pods leave the cluster CIDR with the node's address.",
)
@click.option(
    "--cni-socket",
    type=click.Path(path_type=Path),
    default=Path("/run/kubewire/cni.sock"),
    show_default=True,
    help="Where the CNI plugins find this agent.",
)
@click.option(
    "--cni/--no-cni",
    default=True,
    show_default=True,
    help="Answer the CNI plugins and lead to the pods of other nodes.",
)
@click.option(
    "--service-proxy/--no-service-proxy", default=True, show_default=True, help="Act as kube-proxy."
)
@click.option("--network-policy/--no-network-policy", default=True, show_default=True)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Serve /metrics (addresses) on this port; 0: nowhere.",
)
def node(
    kubeconfig: str | None,
    context: str | None,
    node_name: str,
    cluster_cidr: str,
    cni_socket: Path,
    non_masquerade_cidr: str,
    **others: Any,
) -> None:
    """Connect this node's pods (CNI), lead to the others, keep Services and policies in force.

    Needs CAP_NET_ADMIN. Wiring, routes and rules stay when it ends.
    """
    from kubewire.client.kubeconfig import SERVICE_ACCOUNT
    from kubewire.client.rest import Client
    from kubewire.cluster.addresses import networks
    from kubewire.cluster.node import AgentOptions, run_agent
    from kubewire.cluster.support import refuse_unsupported

    refuse_unsupported(others["pod_network"])
    options = AgentOptions(
        socket=cni_socket,
        cluster_cidrs=networks("--cluster-cidr", cluster_cidr),
        non_masquerade_cidrs=networks("--non-masquerade-cidr", non_masquerade_cidr),
        **others,
    )

    async def main() -> None:
        inside = not kubeconfig and (SERVICE_ACCOUNT / "token").exists()
        opened = Client.in_cluster() if inside else Client.from_kubeconfig(kubeconfig, context)
        async with opened as client:
            await run_agent(client, node_name or socket.gethostname().lower(), options)

    try:
        asyncio.run(main())
    except PermissionError as error:
        raise click.ClickException(f"cannot change the network of this node: {error}") from error
