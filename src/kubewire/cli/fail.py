"""``kubewire fail``."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from kubewire.cli.connect import Seconds, client
from kubewire.cli.options import namespace_option, pod_of, server_options

if TYPE_CHECKING:
    from kubewire.client.rest import Client

KINDS = ("readiness", "liveness", "startup")


@click.command()
@server_options
@namespace_option
@click.option("--probe", "kind", type=click.Choice(KINDS), required=True, help="Which probe fails.")
@click.option(
    "--for",
    "seconds",
    type=Seconds(),
    default="30s",
    show_default=True,
    help="How long; 0s ends it.",
)
@click.argument("pod", metavar="[NS/]POD")
def fail(
    name: str,
    kubeconfig: str | None,
    context: str | None,
    namespace: str,
    kind: str,
    seconds: float,
    pod: str,
) -> None:
    """Rehearse a failing probe of a pod: it fails at once, and recovers by itself.

    A container that is restarted meanwhile (liveness, startup) gets its failureThreshold.
    """
    namespace, pod = pod_of(pod, namespace)
    asyncio.run(_fail(client(name, kubeconfig, context), namespace, pod, kind, seconds))


async def _fail(server: "Client", namespace: str, pod: str, kind: str, seconds: float) -> None:
    from kubewire.api.resources import PODS
    from kubewire.kubelet.rehearsal import annotation

    end = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
    value = end.replace("+00:00", "Z") if seconds > 0 else None
    async with server:
        found = await server.get(PODS, pod, namespace)
        probe = f"{kind}Probe"
        containers = found["spec"]["containers"] + (found["spec"].get("initContainers") or [])
        if not any(probe in c for c in containers):
            raise click.ClickException(f"pod {namespace}/{pod}: no container has a {probe}")
        patch = {"metadata": {"annotations": {annotation(kind): value}}}
        await server.patch(PODS, pod, patch, namespace)
    click.echo(
        f"pod {namespace}/{pod}: {kind} probe fails until {value}"
        if value
        else f"pod {namespace}/{pod}: {kind} probe is made again"
    )
