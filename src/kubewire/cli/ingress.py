"""``kubewire ingress``: the controller by itself, ``ingress explain`` and ``ingress lint``."""

from __future__ import annotations

from typing import Any

import click

from kubewire.cli.options import echo_record, kubeconfig_of, output_option, server_options

FILES = click.option(
    "-f", "--filename", "files", multiple=True, help="Objects to answer from, without a cluster."
)


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
    from pathlib import Path

    from kubewire.api.meta import Key
    from kubewire.client.rest import Client
    from kubewire.ingress.run import serve
    from kubewire.kernel import scratch

    namespace, _, service = publish_service.partition("/")
    if not (namespace and service) or "/" in service:
        raise click.BadParameter(
            f"{publish_service!r}: expected NAMESPACE/NAME", ctx, param_hint="--publish-service"
        )

    async def main(folder: Path) -> int:
        async with Client.from_kubeconfig(kubeconfig_of(name, kubeconfig), context) as client:
            return await serve(
                client, folder, agent="ingress/kubewire", service=Key(namespace, service)
            )

    with scratch.folder("kubewire-ingress-") as folder:
        status = asyncio.run(main(folder))
    raise click.exceptions.Exit(status)


@ingress.command()
@server_options
@FILES
@click.option("--flows", metavar="FILE|-", help="Many questions: JSON lines.")
@click.option("--host", default="", help="Host of the request.")
@click.option("--path", default="/", show_default=True)
@click.option("--tls", is_flag=True)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    default="json",
    show_default=True,
)
def explain(
    name: str,
    kubeconfig: str | None,
    context: str | None,
    files: tuple[str, ...],
    flows: str | None,
    host: str,
    path: str,
    tls: bool,
    output: str,
) -> None:
    """Say which route takes a request, and why the others do not. With --flows: JSON lines."""
    from kubewire.cli import batch
    from kubewire.ingress.explain import explain as answer

    if flows == "-" and "-" in files:
        raise click.UsageError("standard input cannot be both -f and --flows")
    found = _offline(files) if files else _live(kubeconfig_of(name, kubeconfig), context)
    plan, services = _planned(*found)
    if flows:
        batch.run(flows, lambda line: answer(plan, services, line), list)
        return
    record = answer(plan, services, {"host": host, "path": path, "tls": tls})
    if output == "table":
        click.echo(_table(record))
    else:
        echo_record(record, output)


def _table(record: dict[str, Any]) -> str:
    taken = record["redirect"] or record["backend"] or "nothing"
    status = f" (status {record['status']})" if record["status"] else ""
    lines = [f"{taken}{status}  {record['rule'] or 'no rule matches'}"]
    lines += [f"  not {r['rule']}: {r['why']}" for r in record["rejected"]]
    return "\n".join(lines)


@ingress.command(name="lint")
@server_options
@FILES
@output_option
def lint_(
    name: str, kubeconfig: str | None, context: str | None, files: tuple[str, ...], output: str
) -> None:
    """Say of each annotation for an Ingress controller whether it acts here, and why.

    Exit status 1 when one is refused.
    """
    from kubewire.ingress.lint import lint

    found = _offline(files) if files else _live(kubeconfig_of(name, kubeconfig), context)
    rows = lint(found[0])
    if output == "table":
        for row in rows:
            click.echo(
                f"{row['verdict']:10} {row['ingress']}  {row['annotation']}: "
                f"{' '.join(row['value'].split())}  {row['why']}"
            )
    else:
        echo_record({"annotations": rows}, output)
    if any(row["verdict"] == "refused" for row in rows):
        raise click.exceptions.Exit(1)


def _offline(files: tuple[str, ...]) -> tuple[list[Any], list[Any], list[Any]]:
    import msgspec

    from kubewire.api.errors import InputError
    from kubewire.api.fielderrors import located
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
            text, field = located(error)
            raise InputError(f"{manifest.where(field)}: {text}") from error
    return found["Ingress"], found["IngressClass"], found["Service"]


def _live(kubeconfig: str, context: str | None) -> tuple[list[Any], list[Any], list[Any]]:
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

    ingresses, classes, services = asyncio.run(fetch())
    return ingresses, classes, services


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
