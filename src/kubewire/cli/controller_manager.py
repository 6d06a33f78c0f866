"""``kubewire controller-manager``: every controller and the scheduler, against any API server."""

import asyncio
import logging
import signal
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubewire.api.errors import InputError
from kubewire.cli.connect import Seconds, connection
from kubewire.cli.options import server_options

if TYPE_CHECKING:
    from kubewire.client.kubeconfig import Connection
    from kubewire.controllermanager.manager import Options


@click.command()
@server_options
@click.option("--master", default="", help="URL of the API server; replaces the kubeconfig's.")
@click.option("--controllers", default="*", help='Which to run: "*", "NAME", "-NAME" (commas).')
@click.option("--cluster-cidr", default="", help="Pod ranges, one per family (commas).")
@click.option("--allocate-node-cidrs/--no-allocate-node-cidrs", default=True, show_default=True)
@click.option("--node-cidr-mask-size", type=int, default=0, help="Range of a node, one family.")
@click.option("--node-cidr-mask-size-ipv4", type=int, default=24, show_default=True)
@click.option("--node-cidr-mask-size-ipv6", type=int, default=64, show_default=True)
@click.option("--node-monitor-grace-period", type=Seconds(), default="40s", show_default=True)
@click.option("--root-ca-file", type=click.Path(path_type=Path), help="For kube-root-ca.crt.")
@click.option("--lb-pool", default="", help="Addresses for LoadBalancer Services (commas).")
@click.option("--leader-elect/--no-leader-elect", default=False, show_default=True)
@click.option("--leader-elect-lease-duration", type=Seconds(), default="15s", show_default=True)
@click.option("--leader-elect-renew-deadline", type=Seconds(), default="10s", show_default=True)
@click.option("--leader-elect-retry-period", type=Seconds(), default="2s", show_default=True)
@click.option("-v", "--v", "verbosity", type=int, default=2, help="Log level; 4 and up: debug.")
def controller_manager(
    name: str,
    kubeconfig: str | None,
    context: str | None,
    master: str,
    verbosity: int,
    **flags: Any,
) -> None:
    """Run the controllers: workloads, scheduler, EndpointSlices, node ranges, garbage."""
    logging.basicConfig(
        level=logging.DEBUG if verbosity >= 4 else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    found = connection(name, kubeconfig, context)
    if master:
        found = replace(found, server=master.rstrip("/"))
    asyncio.run(_until_signal(_run(found, _options(found, flags), flags)))


def _options(found: "Connection", flags: dict[str, Any]) -> "Options":
    from kubewire.controllermanager.loadbalancer import Pool
    from kubewire.controllermanager.manager import Options, chosen

    masks = {4: flags["node_cidr_mask_size_ipv4"], 6: flags["node_cidr_mask_size_ipv6"]}
    if size := flags["node_cidr_mask_size"]:
        masks = {4: size, 6: size}
    cidrs = _cidrs(flags["cluster_cidr"], masks, size) if flags["allocate_node_cidrs"] else ()
    root_ca = flags["root_ca_file"]
    options = Options(
        controllers=_listed(flags["controllers"]),
        cluster_cidrs=cidrs,
        node_masks=masks,
        root_ca=root_ca.read_text() if root_ca else (found.ca or b"").decode(),
        lb_pool=_listed(flags["lb_pool"]),
        node_grace=flags["node_monitor_grace_period"],
    )
    chosen(options.controllers)
    Pool(options.lb_pool)
    return options


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _cidrs(text: str, masks: dict[int, int], single: int) -> tuple[str, ...]:
    """Read the cluster's ranges; ``single``: the mask that is of one family only."""
    from kubewire.cluster.addresses import networks, node_ranges

    found = networks("--cluster-cidr", text)
    versions = [network.version for network in found]
    if len(set(versions)) < len(versions):
        raise InputError(f"--cluster-cidr {text}: has two ranges of one family")
    if single and len(found) > 1:
        raise InputError(f"--node-cidr-mask-size {single}: of one family only; use --node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6")  # fmt: skip
    for network in found:
        mask = masks[network.version]
        flag = f"--node-cidr-mask-size{'' if single else f'-ipv{network.version}'} {mask}"
        node_ranges(flag, f"--cluster-cidr {network}", network, mask)
    return _listed(text)


async def _run(found: "Connection", options: "Options", flags: dict[str, Any]) -> None:
    from kubewire.client.leader import Election, lead
    from kubewire.client.rest import Client
    from kubewire.controllermanager.manager import run

    async with Client.from_connection(found) as client:
        if not flags["leader_elect"]:
            await run(client, options)
            return
        election = Election(
            namespace="kube-system",
            name="kube-controller-manager",
            lease_seconds=flags["leader_elect_lease_duration"],
            renew_seconds=flags["leader_elect_renew_deadline"],
            retry_seconds=flags["leader_elect_retry_period"],
        )
        await lead(client, election, lambda: run(client, options))


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        if asyncio.current_task().cancelling():  # type: ignore[union-attr]
            raise
