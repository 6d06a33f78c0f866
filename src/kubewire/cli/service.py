"""``kubewire service``: where a packet to a Service goes, and why."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubewire.cli.options import (
    echo_record,
    kubeconfig_of,
    namespace_option,
    output_option,
    server_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kubewire.api.meta import JSON
    from kubewire.kubeproxy.config import Config
    from kubewire.kubeproxy.objects import Objects
    from kubewire.kubeproxy.trace import Flow, Tracer


def _about(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which objects and which node are asked about."""
    for option in reversed(
        (
            click.option("-f", "--filename", "files", multiple=True, metavar="FILE|DIR|-", help="Objects to answer from (no cluster is asked)."),
            click.option("--config", "config_file", metavar="FILE", help="KubeProxyConfiguration of that node."),
            click.option("--node", default="", help="The node that the packet passes.  [default: hostnameOverride, the node of --node-ip, the only one]"),
            click.option("--node-ip", "node_ips", multiple=True, metavar="ADDR", help="Addresses of that node, primary first.  [default: its InternalIPs]"),
            click.option("--service-cidr", "service_cidrs", multiple=True, metavar="CIDR", help="Where ClusterIPs come from, besides ServiceCIDR objects."),
        )
    ):  # fmt: skip
        function = option(function)
    return server_options(function)


@click.group()
def service() -> None:
    """Ask where a packet to a Service goes, and why."""


@service.command()
@click.option("--from", "source", metavar="ADDR", help="Who sends: a pod, a node, anybody.")
@click.option("--to", "target", metavar="ADDR", help="Where to.")
@click.option("--port", type=int)
@click.option("--protocol", default="TCP", show_default=True)
@click.option("--flows", metavar="FILE|-", help='Many questions: JSON lines {"from","to","port"}.')
@click.option("--mode", type=click.Choice(["plan", "nftables", "iptables", "ipvs", "envoy"]), default="plan", show_default=True, help="Ask the plan, or the rules that are made from it.")  # fmt: skip
@_about
@output_option
def trace(
    source: str | None,
    target: str | None,
    port: int | None,
    protocol: str,
    flows: str | None,
    mode: str,
    output: str,
    **about: Any,
) -> None:
    """Say what becomes of a new connection: verdict, endpoints, masquerading and reason.

    Exit status 1: refused or dropped. With --flows: one JSON line of answer per line, status 0.
    """
    single = (source, target, port)
    if (flows is not None) == any(x is not None for x in single) or (
        flows is None and None in single
    ):
        raise click.UsageError("give --from, --to and --port, or --flows")
    if flows == "-" and "-" in about["files"]:
        raise click.UsageError("standard input cannot be both -f and --flows")
    ask = _asker(_tracer(mode=mode, **about), mode)
    if flows is not None:
        answers = [ask(question) for question in list(_questions(flows))]
        sys.stdout.write("".join(json.dumps(answer) + "\n" for answer in answers))
        return
    from kubewire.kubeproxy.trace import flow

    answer = ask(flow({"from": source, "to": target, "port": port, "protocol": protocol}))
    if output == "table":
        click.echo(f"{answer['verdict'].upper()} {source} -> {target}:{port}/{protocol}")
        click.echo(answer["reason"])
        for endpoint in answer["endpoints"]:
            click.echo(f"  {endpoint}")
        click.echo(f"masquerade: {'yes' if answer['masquerade'] else 'no'}, sticky: {answer['sticky'] or 'no'}")  # fmt: skip
    else:
        echo_record(answer, output)
    if answer["verdict"] in ("reject", "drop"):
        raise click.exceptions.Exit(1)


def _asker(tracer: Tracer, mode: str) -> Callable[[Flow], JSON]:
    from kubewire.kubeproxy import backends

    rules = backends.tracer(mode, tracer)
    return lambda asked: rules.ask(asked).to_json()


def _questions(path: str) -> Iterator[Flow]:
    from kubewire.api.errors import InputError
    from kubewire.kubeproxy.trace import flow

    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        place = f"{'STDIN' if path == '-' else path}[line {number}]"
        try:
            parsed = json.loads(line)
        except ValueError as error:
            raise InputError(f"{place}: not JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise InputError(f"{place}: an object is expected")
        try:
            yield flow(parsed)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error


@service.command()
@click.argument("service", metavar="[NS/]SVC")
@click.option("--from", "source", metavar="ADDR", help="Only what holds for this sender.")
@_about
@namespace_option
@output_option
def explain(service: str, source: str | None, namespace: str, output: str, **about: Any) -> None:
    """Show the decision table of one Service on a node, and why each endpoint is in or out."""
    from kubewire.api.meta import Key
    from kubewire.kubeproxy.explain import explained

    space, slash, name = service.rpartition("/")
    record = explained(
        _tracer(mode="plan", **about), Key(space if slash else namespace, name), source
    )
    if output != "table":
        echo_record(record, output)
        return
    click.echo(f"Service {record['service']} on node {record['node'] or '(none named)'}")
    if record["note"]:
        click.echo(record["note"])
    for row in record["frontends"]:
        click.echo(f"{row['kind']:12} {row['address']}:{row['port']}/{row['protocol']}")
        for decision in row["decisions"]:
            masquerade = ", masqueraded" if decision["masquerade"] else ""
            click.echo(f"  from {decision['from']:6} {decision['action']}{masquerade}: {decision['why']}")  # fmt: skip
            click.echo("".join(f"    -> {e}\n" for e in decision["endpoints"]), nl=False)
    for row in record["endpoints"]:
        click.echo(f"endpoint {row['address']} {'in ' if row['in'] else 'out'} {row['why']}")


def _tracer(
    *,
    mode: str,
    files: tuple[str, ...],
    config_file: str | None,
    node: str,
    node_ips: tuple[str, ...],
    service_cidrs: tuple[str, ...],
    name: str,
    kubeconfig: str | None,
    context: str | None,
) -> Tracer:
    from kubewire.api.errors import InputError
    from kubewire.kubeproxy.config import parse_network
    from kubewire.kubeproxy.objects import is_address
    from kubewire.kubeproxy.trace import Tracer

    for ip in node_ips:
        if not is_address(ip):
            raise InputError(f"--node-ip: must be a valid IP address, not {ip!r}")
    for cidr in service_cidrs:
        if parse_network(cidr) is None:
            raise InputError(f"--service-cidr: must be a valid CIDR block, not {cidr!r}")
    config = _config(config_file)
    if config and mode != "plan":
        config = replace(config, mode=mode)
    objects = _objects(files, name, kubeconfig, context)
    return Tracer(objects, config, node, node_ips, service_cidrs)


def _config(path: str | None) -> Config | None:
    if path is None:
        return None
    from kubewire.client.manifests import load
    from kubewire.kubeproxy.config import read

    documents = load([path])
    return read(documents[0].obj if documents else {}, path)


def _objects(
    files: tuple[str, ...], name: str, kubeconfig: str | None, context: str | None
) -> Objects:
    from kubewire.kubeproxy.objects import read

    if files:
        from kubewire.client.manifests import load

        return read((m.obj, m.where) for m in load(files))
    return asyncio.run(_live(kubeconfig_of(name, kubeconfig), context))


async def _live(kubeconfig: str, context: str | None) -> Objects:
    from kubewire.api import resources
    from kubewire.client.rest import Client
    from kubewire.kubeproxy.objects import read

    kinds = (resources.SERVICES, resources.ENDPOINT_SLICES, resources.NODES, resources.PODS)
    async with Client.from_kubeconfig(kubeconfig, context) as client:
        found = await asyncio.gather(*(client.list(kind) for kind in kinds))
    return read((obj, _where(obj)) for objects in found for obj in objects)


def _where(obj: JSON) -> Callable[[str], str]:
    meta = obj.get("metadata") or {}
    named = f"{obj.get('kind')} {meta.get('namespace', '')}/{meta.get('name', '')}"
    return lambda field: f"{named}: {field}"
