"""``kubewire proxy``: the Service proxy of one node, against any API server."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kubewire.kubeproxy.config import Config


@click.command()
@click.option("--kubeconfig", type=click.Path(), help="Default: in-cluster, else kubectl's rules.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--config", "config_file", metavar="FILE", help="KubeProxyConfiguration v1alpha1.")
@click.option(
    "--proxy-mode",
    type=click.Choice(["nftables", "iptables", "ipvs", "envoy"]),
    help="Which back end.  [default: mode of --config, else nftables]",
)
@click.option("--hostname-override", default="", help="Name of this node.  [default: host name]")
@click.option("--cluster-cidr", default="", metavar="CIDR[,CIDR]", help="Where pods are.")
@click.option(
    "--service-cidr",
    "service_cidrs",
    multiple=True,
    metavar="CIDR",
    help="Drop what goes to addresses in it that no Service has.",
)
def proxy(
    kubeconfig: str | None,
    context: str | None,
    config_file: str | None,
    proxy_mode: str | None,
    hostname_override: str,
    cluster_cidr: str,
    service_cidrs: tuple[str, ...],
) -> None:
    """Keep this network namespace's rules in step with Services and EndpointSlices.

    Needs CAP_NET_ADMIN. The rules stay when it ends.
    """
    config = _config(config_file, proxy_mode, hostname_override, cluster_cidr, service_cidrs)
    try:
        asyncio.run(_run(kubeconfig, context, config, service_cidrs))
    except PermissionError as error:
        raise click.ClickException(f"cannot change the rules of this namespace: {error}") from error


def _config(
    path: str | None,
    mode: str | None,
    hostname: str,
    cluster_cidr: str,
    service_cidrs: tuple[str, ...],
) -> Config:
    from kubewire.api.errors import InputError
    from kubewire.client.manifests import load
    from kubewire.kubeproxy import backends
    from kubewire.kubeproxy.config import Config, parse_network, read

    documents = load([path]) if path else []
    config = read(documents[0].obj if documents else {}, path) if path else Config()
    cidrs = tuple(c.strip() for c in cluster_cidr.split(",") if c.strip())
    for flag, values in (("--cluster-cidr", cidrs), ("--service-cidr", service_cidrs)):
        for value in values:
            if parse_network(value) is None:
                raise InputError(f"{flag}: must be a valid CIDR block, not {value!r}")
    config = replace(config, mode=mode or config.mode)
    backends.require(config.mode, "--proxy-mode" if mode else f"{path}: mode")
    if config.detect_local != "ClusterCIDR":
        raise InputError(
            f"{path}: detectLocalMode: the nftables back end has ClusterCIDR only, "
            f"not {config.detect_local}"
        )
    return replace(
        config,
        cluster_cidrs=cidrs or config.cluster_cidrs,
        hostname_override=hostname or config.hostname_override or socket.gethostname().lower(),
    )


async def _run(
    kubeconfig: str | None, context: str | None, config: Config, service_cidrs: tuple[str, ...]
) -> None:
    from kubewire.client.kubeconfig import SERVICE_ACCOUNT
    from kubewire.client.rest import Client
    from kubewire.kubeproxy.controller import KubeProxy

    in_cluster = kubeconfig is None and context is None and (SERVICE_ACCOUNT / "token").exists()
    client = Client.in_cluster() if in_cluster else Client.from_kubeconfig(kubeconfig, context)
    async with client:
        await KubeProxy(client, config.hostname_override, (), config, service_cidrs).run()
