"""``kubewire service``: where a packet to a Service goes, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kubewire.cli.aboutservices import about, nodes
from kubewire.cli.options import echo_record, namespace_option, output_option

if TYPE_CHECKING:
    from kubewire.api.meta import JSON
    from kubewire.kubeproxy.nodes import Nodes
    from kubewire.kubeproxy.trace import Flow


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
@click.option("--kernel", is_flag=True, help="Load the rules of that mode into a scratch namespace and send real packets.")  # fmt: skip
@about
@output_option
def trace(
    source: str | None,
    target: str | None,
    port: int | None,
    protocol: str,
    flows: str | None,
    mode: str,
    kernel: bool,
    output: str,
    **options: Any,
) -> None:
    """Say what becomes of a new connection: verdict, endpoints, masquerading and reason.

    Addresses, or [NAMESPACE/]POD of a pod that is known. Exit status 1: refused or dropped. With
    --flows: one JSON line of answer per line, status 2 if one of them is an error.
    """
    single = (source, target, port)
    if (flows is not None) == any(x is not None for x in single) or (
        flows is None and None in single
    ):
        raise click.UsageError("give --from, --to and --port, or --flows")
    if flows == "-" and "-" in options["files"]:
        raise click.UsageError("standard input cannot be both -f and --flows")
    from kubewire.cli import batch
    from kubewire.kubeproxy.trace import addressed, flow

    found = nodes(mode=mode, **options)
    if flows is not None:
        objects = found.asked.objects
        batch.run(
            flows,
            lambda line: flow(addressed(objects, line)),
            lambda asked: _answers(found, asked, kernel=kernel),
        )
        return
    question = {"from": source, "to": target, "port": port, "protocol": protocol}
    answer = _answers(found, [flow(addressed(found.asked.objects, question))], kernel=kernel)[0]
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


def _answers(nodes: Nodes, flows: list[Flow], *, kernel: bool) -> list[JSON]:
    """Ask each flow's node: its plan, the rules made from it, or these in a real kernel."""
    from kubewire.kubeproxy import backends
    from kubewire.kubeproxy.trace import Asker, Tracer

    if kernel:
        return _packets(nodes, flows)
    askers: dict[int, Asker] = {}

    def asker(tracer: Tracer) -> Asker:
        if id(tracer) not in askers:
            askers[id(tracer)] = backends.tracer(nodes.asked.mode, tracer)
        return askers[id(tracer)]

    return [asker(nodes.meeting(asked)).ask(asked).to_json() for asked in flows]


def _packets(nodes: Nodes, flows: list[Flow]) -> list[JSON]:
    """A scratch namespace for each node."""
    from kubewire.api.errors import InputError
    from kubewire.kernel import sandbox
    from kubewire.kernel.probe import Probe
    from kubewire.kubeproxy import backends
    from kubewire.kubeproxy.connect import ConnectionTracer
    from kubewire.kubeproxy.kerneltrace import KernelTracer, pods_device
    from kubewire.kubeproxy.trace import Tracer

    def ask(tracer: Tracer, indexes: list[int]) -> list[JSON]:
        made = ConnectionTracer if tracer.config.mode == "envoy" else KernelTracer
        packets = made(tracer, Probe(tracer.node.ips, pods_device(tracer.config)))
        return [packets.ask(flows[i]).to_json() for i in indexes]

    by_node: dict[int, tuple[Tracer, list[int]]] = {}
    for index, asked in enumerate(flows):
        tracer = nodes.meeting(asked)
        by_node.setdefault(id(tracer), (tracer, []))[1].append(index)
    answers: dict[int, JSON] = {}
    for tracer, indexes in by_node.values():
        backends.require_machine(tracer.config.mode, "--kernel")
        try:
            found = sandbox.run(lambda t=tracer, i=indexes: ask(t, i))  # type: ignore[misc]
        except sandbox.SandboxError as error:
            raise InputError(f"--kernel: {str(error).strip().splitlines()[-1]}") from error
        answers |= dict(zip(indexes, found, strict=True))  # type: ignore[call-overload]
    return [answers[index] for index in range(len(flows))]


@service.command()
@click.argument("service", metavar="[NS/]SVC")
@click.option("--from", "source", metavar="[NS/]POD|IP", help="Only what holds for this sender, on its node.")  # fmt: skip
@about
@namespace_option
@output_option
def explain(service: str, source: str | None, namespace: str, output: str, **options: Any) -> None:
    """Show the decision table of one Service on each node, and why each endpoint is in or out.

    Also where the back end keeps it, and (live) how many connections each endpoint has.
    """
    from kubewire.api.meta import Key
    from kubewire.kubeproxy.explain import explained
    from kubewire.kubeproxy.trace import addressed

    space, slash, name = service.rpartition("/")
    found = nodes(mode="plan", **options)
    tracers = found.all()
    if source is not None:
        source = addressed(found.asked.objects, {"from": source})["from"]
        home = found.home(source)
        tracers = [t for t in tracers if t.node.name == home] or tracers
    key = Key(space if slash else namespace, name)
    flows = _connections(options) if not options["files"] and not options["kubeconfig"] else {}
    records = [explained(t, key, source, flows.get(t.node.name)) for t in tracers]
    if output != "table":
        echo_record({"service": str(key), "nodes": records}, output)
        return
    for record in records:
        _show(record)


def _connections(options: dict[str, Any]) -> dict[str, list[list[Any]]]:
    """Tracked connections of each node of the local cluster: [address, protocol, port, end]."""
    from kubewire.cluster import inside, state
    from kubewire.kernel import netns
    from kubewire.kubeproxy.connections import tracked

    cluster = state.load(options["name"])

    def look() -> dict[str, list[list[Any]]]:
        found = {}
        for node in cluster.nodes:
            with netns.entered(inside.node_netns(cluster, node)):
                found[node] = tracked()
        return found

    return inside.call(cluster, look)  # type: ignore[no-any-return]


def _show(record: JSON) -> None:
    click.echo(f"Service {record['service']} on node {record['node'] or '(none named)'}")
    if record["note"]:
        click.echo(record["note"])
    for row in record["frontends"]:
        click.echo(f"{row['kind']:12} {row['address']}:{row['port']}/{row['protocol']}")
        for decision in row["decisions"]:
            masquerade = ", masqueraded" if decision["masquerade"] else ""
            click.echo(f"  from {decision['from']:6} {decision['action']}{masquerade}: {decision['why']}")  # fmt: skip
            click.echo("".join(f"    -> {e}\n" for e in decision["endpoints"]), nl=False)
        for end, count in (row["connections"] or {}).items():
            click.echo(f"  {count} tracked connections to {end}")
        click.echo("".join(f"  {line}\n" for line in row["kernel"]), nl=False)
    for row in record["endpoints"]:
        click.echo(f"endpoint {row['address']} {'in ' if row['in'] else 'out'} {row['why']}")
    click.echo("".join(f"conflict: {line}\n" for line in record["conflicts"]), nl=False)
