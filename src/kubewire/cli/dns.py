"""``kubewire dns``: serve from a Corefile; ``kubewire dns explain``: say what is answered and why."""

import json
from pathlib import Path
from typing import Any

import click

from kubewire.api.errors import InputError


@click.group(invoke_without_command=True)
@click.option("--conf", "-conf", type=click.Path(), help="Corefile (default: ./Corefile).")
@click.option("--dns.port", "-dns.port", "-p", "port", type=int, default=53, help="Default port.")
@click.option("--kubeconfig", type=click.Path(), help="API server, unless the Corefile names one.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--agent", default="", help="Name to report applied changes under.")
@click.option("--quiet", "-quiet", is_flag=True, help="Do not print the zones at the start.")
@click.option("--plugins", "-plugins", is_flag=True, help="List the plugins and leave.")
@click.option("--node-local", is_flag=True, help="Be this node's NodeLocal DNSCache.")
@click.option(
    "--localip",
    "-localip",
    default="169.254.20.10",
    show_default=True,
    metavar="ADDR[,ADDR]",
    help="Where the node's cache answers: link-local, then ClusterIPs of the DNS Service.",
)
@click.option(
    "--interfacename",
    "-interfacename",
    "interface",
    default="nodelocaldns",
    show_default=True,
    help="Dummy device that holds them.",
)
@click.option(
    "--upstreamsvc",
    "-upstreamsvc",
    "upstream_service",
    default="kube-dns-upstream",
    show_default=True,
    help="Service in kube-system that leads to cluster DNS itself.",
)
@click.option(
    "--upstream",
    default="",
    metavar="ADDR[,ADDR]",
    help="Cluster DNS itself, instead of --upstreamsvc.",
)
@click.option(
    "--cluster-domain",
    default="cluster.local",
    show_default=True,
    help="Zone that goes to cluster DNS.",
)
@click.option(
    "--metrics-listen-address",
    "-metrics-listen-address",
    "metrics",
    default="0.0.0.0:9353",
    show_default=True,
    help="Where the node's cache counts what it could not put in place; empty: nowhere.",
)
@click.option(
    "--syncinterval",
    "-syncinterval",
    "interval",
    default=60,
    show_default=True,
    help="Seconds between looks at device and rules.",
)
@click.option(
    "--skipteardown", "-skipteardown", "stays", is_flag=True, help="Leave them at the end."
)
@click.option("--health-port", "-health-port", type=int, default=8080, show_default=True)
@click.pass_context
def dns(
    ctx: click.Context,
    /,
    conf: str | None,
    port: int,
    kubeconfig: str | None,
    context: str | None,
    agent: str,
    quiet: bool,
    plugins: bool,
    node_local: bool,
    **cache: Any,
) -> int:
    """Serve DNS as CoreDNS does, from its Corefile.

    With --node-local: a cache for the pods of this node, at addresses of its own that bypass
    conntrack; --conf may name the add-on's Corefile with its placeholders.
    """
    ctx.obj = {"conf": conf, "port": port, "kubeconfig": kubeconfig, "context": context}
    if ctx.invoked_subcommand is not None:
        return 0
    if plugins:
        from kubewire.dns.registry import order

        for name in order():
            click.echo(f"dns.{name}")
        return 0
    from kubewire.dns.run import run

    kubeconfig, context = kubeconfig or "", context or ""
    try:
        if node_local:
            where = {"kubeconfig": kubeconfig, "context": context, "agent": agent}
            return _node_local(conf, where, quiet=quiet, **cache)
        return run(
            conf, port=port, quiet=quiet, kubeconfig=kubeconfig, context=context, agent=agent
        )
    except (InputError, OSError) as error:
        # CoreDNS ends with 1 on a Corefile that it cannot use, and so do its users' scripts expect.
        click.echo(str(error), err=True)
        raise SystemExit(1) from error


def _node_local(
    template: str | None, where: dict[str, str], *, quiet: bool, localip: str, upstream: str,
    cluster_domain: str, health_port: int, interface: str, upstream_service: str,
    interval: int, stays: bool, metrics: str,
) -> int:  # fmt: skip
    from kubewire.dns.nodelocal.plan import NodeLocal
    from kubewire.dns.nodelocal.run import run

    plan = NodeLocal(
        local_ips=tuple(ip.strip() for ip in localip.split(",") if ip.strip()),
        domain=cluster_domain.strip("."),
        upstream=tuple(ip.strip() for ip in upstream.split(",") if ip.strip()),
        health_port=health_port,
    )
    conf = Path(template) if template else None
    return run(
        plan, upstream_service, interface=interface, template=conf, quiet=quiet,
        interval=interval, stays=stays, metrics=metrics, **where,
    )  # fmt: skip


@dns.command()
@click.argument("name", required=False)
@click.argument("rtype", metavar="[TYPE]", required=False, default="A")
@click.option("--from", "source", metavar="[NS/]POD", help="Ask as this pod: its search path.")
@click.option("-n", "--namespace", default="default", help="Namespace of --from.")
@click.option("-f", "--filename", "files", multiple=True, help="Objects: file, folder or -.")
@click.option(
    "--conf", type=click.Path(), help="Corefile (default: the cluster's, else kubeadm's)."
)
@click.option("--flows", type=click.Path(), help="Questions as JSON lines; - is standard input.")
@click.option("--name", "cluster", default="kubewire", help="Local cluster to ask.")
@click.option("--kubeconfig", type=click.Path(), help="Another API server.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--cluster-domain", default="cluster.local", help="Zone of the search path.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="json")
@click.option("--no-sync", is_flag=True, help="Do not wait for the agents first.")
@click.pass_context
def explain(
    ctx: click.Context,
    name: str | None,
    rtype: str,
    source: str | None,
    namespace: str,
    files: tuple[str, ...],
    conf: str | None,
    flows: str | None,
    cluster: str,
    kubeconfig: str | None,
    context: str | None,
    cluster_domain: str,
    output: str,
    no_sync: bool,
) -> None:
    """Say what DNS answers to NAME, which plugin does so, and why."""
    from kubewire.cli import batch
    from kubewire.dns.explain import Explainer

    if (name is None) == (flows is None):
        raise InputError("give either NAME or --flows FILE")
    parent: dict[str, Any] = ctx.obj or {}
    config = kubeconfig or parent.get("kubeconfig")
    objects = _objects(files, cluster, config, context, sync=not no_sync and not config)
    explainer = Explainer(objects, conf or parent.get("conf"), cluster_domain)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        pod = question.get("from") or source
        if pod and "/" not in str(pod):
            pod = f"{namespace}/{pod}"
        return explainer.answer({**question, "from": pod})

    if name is not None:
        _show(answer({"name": name, "type": rtype}), output)
        return
    batch.run(flows or "-", answer, list)


def _objects(
    files: tuple[str, ...], cluster: str, kubeconfig: str | None, context: str | None, *, sync: bool
) -> list[dict[str, Any]]:
    if files:
        from kubewire.client.manifests import load

        return [m.obj for m in load(files)]
    import asyncio

    return asyncio.run(_live(kubeconfig or _local(cluster), context, sync=sync))


async def _live(kubeconfig: str, context: str | None, *, sync: bool) -> list[dict[str, Any]]:
    from kubewire.client.rest import Client
    from kubewire.dns.explain import fetch

    async with Client.from_kubeconfig(kubeconfig, context) as client:
        if sync:
            await client.request("POST", "/kubewire/v1/sync", params={"timeoutSeconds": "10"})
        return await fetch(client)


def _local(cluster: str) -> str:
    from kubewire.cluster import state

    return str(state.load(cluster).kubeconfig)


def _show(answer: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    if output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(answer, sort_keys=False), nl=False)
        return
    click.echo(f"{answer['rcode']}  by {answer['plugin'] or '-'}: {answer['reason']}")
    for tried in answer["searched"]:
        click.echo(f"  tried {tried['name']}: {tried['rcode']} ({tried['reason']})")
    for section in ("answer", "authority", "additional"):
        for owner, ttl, kind, rdata in answer[section]:
            click.echo(f"  {section:<10} {owner} {ttl} {kind} {rdata}")
