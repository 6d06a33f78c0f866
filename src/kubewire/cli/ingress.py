"""``kubewire ingress``: the controller by itself, and ``ingress explain``."""

from __future__ import annotations

import json
from typing import Any

import click

from kubewire.cli.options import kubeconfig_of, server_options


@click.group(invoke_without_command=True)
@server_options
@click.option(
    "--publish-service",
    default="kube-system/kubewire-ingress",
    show_default=True,
    help="Its address goes into the Ingresses' status.",
)
@click.pass_context
def ingress(
    ctx: click.Context, name: str, kubeconfig: str | None, context: str | None, publish_service: str
) -> None:
    """Run the Ingress controller and its Envoy, or ask it a question."""
    if ctx.invoked_subcommand:
        return
    import asyncio

    from kubewire.api.meta import Key
    from kubewire.client.rest import Client
    from kubewire.ingress.run import serve

    namespace, _, service = publish_service.rpartition("/")

    async def main() -> int:
        async with Client.from_kubeconfig(kubeconfig_of(name, kubeconfig), context) as client:
            return await serve(client, agent="ingress/kubewire", service=Key(namespace, service))

    raise click.exceptions.Exit(asyncio.run(main()))


@ingress.command()
@server_options
@click.option(
    "-f", "--filename", "files", multiple=True, help="Objects to answer from, without a cluster."
)
@click.option("--flows", help="File of JSON lines, or - for standard input.")
@click.option("--host", default="", help="Host of the request.")
@click.option("--path", default="/", show_default=True)
@click.option("--tls", is_flag=True)
def explain(
    name: str,
    kubeconfig: str | None,
    context: str | None,
    files: tuple[str, ...],
    flows: str | None,
    host: str,
    path: str,
    tls: bool,
) -> None:
    """Say which route takes a request, and why the others do not. Output: JSON lines."""
    from kubewire.cli import batch
    from kubewire.ingress.explain import explain as answer

    plan, services = _offline(files) if files else _live(kubeconfig_of(name, kubeconfig), context)
    if flows:
        batch.run(flows, lambda line: answer(plan, services, line), list)
    else:
        question = {"host": host, "path": path, "tls": tls}
        click.echo(json.dumps(answer(plan, services, question)))


def _offline(files: tuple[str, ...]) -> tuple[Any, Any]:
    import msgspec

    from kubewire.api.errors import InputError
    from kubewire.api.ingress import Ingress, IngressClass
    from kubewire.api.service import Service
    from kubewire.client.manifests import load

    types = {"Ingress": Ingress, "IngressClass": IngressClass, "Service": Service}
    found: dict[str, list[Any]] = {kind: [] for kind in types}
    for manifest in load(files):
        if manifest.kind not in types:
            continue
        meta = dict(manifest.obj.get("metadata") or {})
        if manifest.kind != "IngressClass":
            meta.setdefault("namespace", "default")
        try:
            found[manifest.kind].append(
                msgspec.convert(manifest.obj | {"metadata": meta}, types[manifest.kind])
            )
        except msgspec.ValidationError as error:
            raise InputError(f"{manifest.where()}: {error}") from error
    return _planned(found["Ingress"], found["IngressClass"], found["Service"])


def _live(kubeconfig: str, context: str | None) -> tuple[Any, Any]:
    import asyncio

    import msgspec

    from kubewire.api.ingress import Ingress, IngressClass
    from kubewire.api.resources import INGRESS_CLASSES, INGRESSES, SERVICES
    from kubewire.api.service import Service
    from kubewire.client.rest import Client

    async def fetch() -> list[list[Any]]:
        async with Client.from_kubeconfig(kubeconfig, context) as client:
            pairs = ((INGRESSES, Ingress), (INGRESS_CLASSES, IngressClass), (SERVICES, Service))
            return [msgspec.convert(await client.list(r), list[t]) for r, t in pairs]  # type: ignore[valid-type]

    return _planned(*asyncio.run(fetch()))


def _planned(ingresses: list[Any], classes: list[Any], services: list[Any]) -> tuple[Any, Any]:
    from kubewire.api.ingress import IngressClass, IngressClassSpec
    from kubewire.api.meta import ObjectMeta
    from kubewire.ingress.plan import CONTROLLER, plan

    if not classes:
        # Objects alone, without their cluster's classes: take every class that they name as ours.
        named = {i.spec.ingress_class_name or "kubewire" for i in ingresses}
        spec = IngressClassSpec(controller=CONTROLLER)
        annotations = {"ingressclass.kubernetes.io/is-default-class": "true"}
        classes = [
            IngressClass(
                metadata=ObjectMeta(name=n, annotations=annotations if n == "kubewire" else None),
                spec=spec,
            )
            for n in named | {"kubewire"}
        ]
    return plan(ingresses, classes), {s.key: s for s in services}
