"""Which objects, which configuration and which node a question about Services is about."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from kubewire.cli.options import kubeconfig_of, server_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubewire.api.meta import JSON
    from kubewire.kubeproxy.config import Config
    from kubewire.kubeproxy.nodes import Nodes
    from kubewire.kubeproxy.objects import Objects


def about(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options; ``nodes`` takes what they give."""
    for option in reversed(
        (
            click.option("-f", "--filename", "files", multiple=True, metavar="FILE|DIR|-", help="Objects to answer from (no cluster is asked)."),
            click.option("--config", "config_file", metavar="FILE", help="KubeProxyConfiguration of that node.  [default: as the local cluster's]"),
            click.option("--node", default="", help="The node that the packet passes.  [default: hostnameOverride, the node of --node-ip, the only one, the sender's]"),
            click.option("--node-ip", "node_ips", multiple=True, metavar="ADDR", help="Addresses of that node, primary first.  [default: its InternalIPs]"),
            click.option("--service-cidr", "service_cidrs", multiple=True, metavar="CIDR", help="Where ClusterIPs come from, besides ServiceCIDR objects."),
            click.option("--no-sync", is_flag=True, help="Live: do not wait until all agents are up to date."),
        )
    ):  # fmt: skip
        function = option(function)
    return server_options(function)


def nodes(
    *,
    mode: str,
    files: tuple[str, ...],
    config_file: str | None,
    node: str,
    node_ips: tuple[str, ...],
    service_cidrs: tuple[str, ...],
    no_sync: bool,
    name: str,
    kubeconfig: str | None,
    context: str | None,
) -> Nodes:
    """What the options mean; InputError names the one that means nothing."""
    from kubewire.api.errors import InputError
    from kubewire.kubeproxy.config import parse_network
    from kubewire.kubeproxy.nodes import Asked, Nodes
    from kubewire.kubeproxy.objects import is_address

    for ip in node_ips:
        if not is_address(ip):
            raise InputError(f"--node-ip: must be a valid IP address, not {ip!r}")
    for cidr in service_cidrs:
        if parse_network(cidr) is None:
            raise InputError(f"--service-cidr: must be a valid CIDR block, not {cidr!r}")
    config = _config(config_file)
    if not files and not kubeconfig and config is None:
        config, own_cidrs = local(name)
        service_cidrs = (*service_cidrs, *own_cidrs)
    objects = _objects(files, name, kubeconfig, context, sync=not no_sync and not kubeconfig)
    return Nodes(Asked(objects, config, node, node_ips, service_cidrs, mode))


def local(name: str) -> tuple[Config, tuple[str, ...]]:
    """How the proxies of a local cluster are configured, and where its ClusterIPs come from."""
    from kubewire.client.rest import Client
    from kubewire.cluster import proxymode, state

    cluster = state.load(name)

    async def ask() -> Config:
        async with Client.from_kubeconfig(str(cluster.kubeconfig), None) as client:
            return await proxymode.live(client, cluster)

    return asyncio.run(ask()), tuple(cluster.options.get("serviceCIDRs", ()))


def _config(path: str | None) -> Config | None:
    if path is None:
        return None
    from kubewire.client.manifests import load
    from kubewire.kubeproxy.config import read

    documents = load([path])
    return read(documents[0].obj if documents else {}, path)


def _objects(
    files: tuple[str, ...], name: str, kubeconfig: str | None, context: str | None, *, sync: bool
) -> Objects:
    from kubewire.kubeproxy.objects import read

    if files:
        from kubewire.client.manifests import load

        return read((m.obj, m.where) for m in load(files))
    return asyncio.run(_live(kubeconfig_of(name, kubeconfig), context, sync=sync))


async def _live(kubeconfig: str, context: str | None, *, sync: bool) -> Objects:
    from kubewire.api import resources
    from kubewire.api.errors import StatusError
    from kubewire.client.rest import Client
    from kubewire.kubeproxy.objects import read

    kinds = (resources.SERVICES, resources.ENDPOINT_SLICES, resources.NODES, resources.PODS)
    async with Client.from_kubeconfig(kubeconfig, context) as client:
        if sync:
            await client.request("POST", "/kubewire/v1/sync", params={"timeoutSeconds": "10"})
        found = await asyncio.gather(*(client.list(kind) for kind in kinds))
        try:
            found.append(await client.list(resources.SERVICE_CIDRS))
        except StatusError as error:
            if error.code != 404:
                raise
    return read((obj, _where(obj)) for objects in found for obj in objects)


def _where(obj: JSON) -> Callable[[str], str]:
    meta = obj.get("metadata") or {}
    named = f"{obj.get('kind')} {meta.get('namespace', '')}/{meta.get('name', '')}"
    return lambda field: f"{named}: {field}"
