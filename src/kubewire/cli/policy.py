"""``kubewire policy``: which policy decides, what selects a pod, what a change would alter."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from kubewire.cli.options import (
    echo_record,
    kubeconfig_of,
    name_option,
    namespace_option,
    output_option,
    server_options,
)

if TYPE_CHECKING:
    from kubewire.api.meta import JSON
    from kubewire.client.rest import Client
    from kubewire.networkpolicy.objects import Objects
    from kubewire.networkpolicy.plan import PolicyId

FILES = click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    metavar="FILE|DIR|-",
    help="Objects to answer from (no cluster is asked).",
)
KINDS = {
    word: kind
    for kind, words in (
        ("NetworkPolicy", ("networkpolicy", "networkpolicies", "netpol")),
        ("ClusterNetworkPolicy", ("clusternetworkpolicy", "clusternetworkpolicies", "cnp")),
    )
    for word in words
}
"""How kubectl names the kinds of policies."""
NO_SYNC = click.option(
    "--no-sync", is_flag=True, help="Live: do not wait until all agents are up to date."
)


@click.group()
def policy() -> None:
    """Ask which NetworkPolicy decides, and why."""


@policy.command()
@click.argument("source", metavar="[FROM", required=False)
@click.argument("target", metavar="TO[:PORT[/PROTO]]]", required=False)
@FILES
@click.option("--flows", metavar="FILE|-", help='Many questions: JSON lines {"from","to","port"}.')
@click.option(
    "--dns",
    multiple=True,
    metavar="NAME=ADDRESS",
    help="What DNS answers for a name, for peers by domain name.",
)
@NO_SYNC
@server_options
@namespace_option
@output_option
def why(
    source: str | None,
    target: str | None,
    files: tuple[str, ...],
    flows: str | None,
    dns: tuple[str, ...],
    no_sync: bool,
    name: str,
    kubeconfig: str | None,
    context: str | None,
    namespace: str,
    output: str,
) -> None:
    """Say whether FROM may reach TO, and the one policy and rule that decided each direction.

    FROM and TO are [NS/]POD, a workload or a Service (which stand for their pods), or an address (of a
    pod, a node, a Service or anything else); TO may be a domain name that a policy or --dns names.
    Exit status 1: denied. With --flows: one JSON line of answer per line; exit status 2 if one of
    them is an error.
    """
    from kubewire.cli import batch
    from kubewire.networkpolicy import why as questions

    if bool(source and target) == bool(flows) or bool(source) != bool(target):
        raise click.UsageError("give FROM and TO, or --flows")
    if flows == "-" and "-" in files:
        raise click.UsageError("standard input cannot be both -f and --flows")
    objects = _objects(files, name, kubeconfig, context, namespace, sync=not no_sync)
    learned = {} if files or kubeconfig else _learned(objects, name)
    asker = questions.Asker(objects, namespace, _names(dns), learned)
    if flows:
        batch.run(flows, lambda line: asker.ask(questions.from_json(line)), list)
        return
    assert source and target
    answer = asker.ask(questions.from_text(source, target))
    if output == "table":
        click.echo(_table(f"{source} -> {target}", answer))
    else:
        echo_record(answer, output)
    if answer["verdict"] == "deny":
        raise click.exceptions.Exit(1)


def _names(dns: tuple[str, ...]) -> dict[str, list[Any]]:
    """Read NAME=ADDRESS options; a name may have several addresses."""
    from kubewire.networkpolicy.plan import parse_address

    found: dict[str, list[Any]] = {}
    for text in dns:
        name, _, address = text.partition("=")
        parsed = parse_address(address)
        if not name or parsed is None:
            raise click.UsageError(f"--dns {text}: expected NAME=ADDRESS")
        found.setdefault(name, []).append(parsed)
    return found


def _learned(objects: Objects, name: str) -> dict[str, dict[str, frozenset[bytes]]]:
    """Node -> set of a peer by name -> the addresses that are in force there now."""
    from kubewire.networkpolicy.backends import BACKENDS, enforcer, installed
    from kubewire.networkpolicy.why import sets_by_name

    wanted = sets_by_name(objects)
    if not wanted:
        return {}
    from kubewire.cluster import inside, state

    def read(path: str) -> dict[str, list[str]]:
        held: dict[str, list[str]] = {}
        for backend in filter(installed, BACKENDS):
            with enforcer(backend, path) as kernel:
                held |= {s: [a.hex() for a in found] for s, found in kernel.members(wanted).items()}
        return held

    cluster = state.load(name)
    nodes: dict[str, dict[str, list[str]]] = inside.call(
        cluster, lambda: {n: read(str(inside.node_netns(cluster, n))) for n in cluster.nodes}
    )
    return {
        node: {s: frozenset(map(bytes.fromhex, found)) for s, found in held.items()}
        for node, held in nodes.items()
    }


def _table(title: str, answer: JSON) -> str:
    lines = [f"{answer['verdict'].upper():6} {title}"]
    for way in ("egress", "ingress"):
        half = answer[way]
        who = " ".join(p for p in (half["policy"], half["rule"]) if p)
        lines.append(f"{way:8} {half['verdict']:6} {who + ': ' if who else ''}{half['reason']}")
        if half.get("audit"):
            lines.append(f"{'':15} audit: {half['audit']} would deny it")
    for pair in answer.get("pods", ()):
        lines.append(f"pods     {pair['verdict']:6} {pair['from']} -> {pair['to']}")
    for endpoint in answer.get("endpoints", ()):
        lines.append(f"endpoint {endpoint['verdict']:6} {endpoint['to']}:{endpoint['port']}")
    return "\n".join(lines)


@policy.command(name="list")
@click.argument("pod", metavar="[NS/]POD")
@FILES
@NO_SYNC
@server_options
@namespace_option
@output_option
def list_(
    pod: str,
    files: tuple[str, ...],
    no_sync: bool,
    name: str,
    kubeconfig: str | None,
    context: str | None,
    namespace: str,
    output: str,
) -> None:
    """List the policies that select a pod, in the order in which they decide.

    A workload or a Service stands for its pods: the first one is listed, others if they differ.
    """
    from kubewire.networkpolicy.listing import policies_of
    from kubewire.networkpolicy.why import Asker

    objects = _objects(files, name, kubeconfig, context, namespace, sync=not no_sync)
    asker = Asker(objects, namespace)
    record, *others = [policies_of(asker.plan, p) for p in asker.parties(pod, "POD")]
    differing = [r for r in others if {**r, "pod": record["pod"]} != record]
    if output != "table":
        echo_record({**record, "others": differing} if others else record, output)
        return
    for each in (record, *differing):
        _show_policies(each)


def _show_policies(record: JSON) -> None:
    click.echo(record["pod"])
    for way in ("egress", "ingress"):
        steps = record[way]["steps"]
        click.echo(f"{way}: " + ("isolated" if record[way]["isolated"] else "not isolated"))
        for step in steps:
            mode = " (audit)" if step["audit"] else ""
            click.echo(f"  {step['action']:7} {step['policy']} {step['rule'] or 'all else'}{mode}")


@policy.command()
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    metavar="FILE|DIR|-",
    help="Objects that would be applied.",
)
@click.option(
    "--delete",
    "deleted",
    multiple=True,
    metavar="KIND/[NS/]NAME",
    help="A policy that would be deleted: networkpolicy/shop/web, cnp/base.",
)
@click.option(
    "--old",
    "old",
    multiple=True,
    metavar="FILE|DIR|-",
    help="What there is now (default: the cluster).",
)
@NO_SYNC
@server_options
@namespace_option
@output_option
def diff(
    files: tuple[str, ...],
    deleted: tuple[str, ...],
    old: tuple[str, ...],
    no_sync: bool,
    name: str,
    kubeconfig: str | None,
    context: str | None,
    namespace: str,
    output: str,
) -> None:
    """Show the flows between existing pods that applying -f, or deleting, would open or close.

    Exit status 1 when there is any.
    """
    from kubewire.networkpolicy.objects import Objects
    from kubewire.trace.reachability import difference, matrix, overlay, ports_of, without

    if not files and not deleted:
        raise click.UsageError("give -f or --delete")
    before = _objects(old, name, kubeconfig, context, namespace, sync=not no_sync)
    new = _read(files, namespace) if files else Objects()
    after = without(overlay(before, new), [_policy_id(t, namespace) for t in deleted])
    ports = ports_of([before, after])
    was, now = matrix(before, ports), matrix(after, ports)
    opened, closed = difference(was, now)
    rows = [("opened", c, now[c]) for c in opened] + [("closed", c, now[c]) for c in closed]
    if output == "table":
        grouped: dict[tuple[str, str, str, str], list[str]] = {}
        for change, cell, decided in rows:
            mark = "+" if change == "opened" else "-"
            group = (mark, str(cell.source), str(cell.target), decided.by)
            grouped.setdefault(group, []).append(f"{cell.port}/{cell.protocol}")
        for (mark, source, target, by), packets in grouped.items():
            why_ = by or ("no policy decides" if mark == "+" else "")
            click.echo(f"{mark} {source} -> {target} {','.join(packets)}  {why_}")
        click.echo(f"{len(opened)} opened, {len(closed)} closed")
    else:
        flows = [
            {
                "change": change,
                "from": str(cell.source),
                "to": str(cell.target),
                "port": cell.port,
                "protocol": cell.protocol,
                "policy": decided.by or None,
                "reason": decided.reason,
            }
            for change, cell, decided in rows
        ]
        echo_record({"opened": len(opened), "closed": len(closed), "flows": flows}, output)
    if rows:
        raise click.exceptions.Exit(1)


def _policy_id(text: str, namespace: str) -> PolicyId:
    """Read KIND/[NS/]NAME."""
    from kubewire.api.meta import Key

    word, _, rest = text.partition("/")
    kind = KINDS.get(word.lower())
    space, _, name = rest.rpartition("/")
    if kind is None or not name or (space and kind == "ClusterNetworkPolicy"):
        raise click.UsageError(
            f"--delete {text}: expected networkpolicy/[NAMESPACE/]NAME or clusternetworkpolicy/NAME"
        )
    return kind, Key("" if kind == "ClusterNetworkPolicy" else space or namespace, name)


@policy.command()
@name_option
@click.option("--netns", type=click.Path(), help="A node's network namespace, for `netpol`.")
@NO_SYNC
@output_option
def stats(name: str, netns: str | None, no_sync: bool, output: str) -> None:
    """Count the connections that each rule decided, per node."""
    rows = _counted(name, netns, sync=not no_sync)
    if output != "table":
        echo_record({"rules": rows}, output)
        return
    click.echo(f"{'NODE':12} {'PACKETS':>9}  {'DIRECTION':9}  POLICY AND RULE")
    for row in rows:
        who = (
            f"{row['policy']} {row['rule'] or '(isolation)'}" if row["direction"] else row["policy"]
        )
        click.echo(f"{row['node']:12} {row['packets']:>9}  {row['direction']:9}  {who}")


def _counted(name: str, netns: str | None, *, sync: bool) -> list[JSON]:
    from kubewire.networkpolicy.backends import BACKENDS, enforcer, installed

    def read(path: str) -> dict[str, int]:
        counted: dict[str, int] = {}
        for backend in filter(installed, BACKENDS):
            with enforcer(backend, path) as kernel:
                counted |= kernel.counters()
        return counted

    if netns:
        found = {netns: read(netns)}
    else:
        from kubewire.cluster import inside, state

        cluster = state.load(name)
        if sync:
            asyncio.run(_synced(str(cluster.kubeconfig)))
        found = inside.call(
            cluster,
            lambda: {n: read(str(inside.node_netns(cluster, n))) for n in cluster.nodes},
        )
    rows: list[JSON] = []
    for node, counters in found.items():
        for text, packets in sorted(counters.items()):
            policy, rule, direction = (*text.split("|"), "", "")[:3]
            rows.append(
                {
                    "node": node,
                    "policy": policy,
                    "rule": rule or None,
                    "direction": direction,
                    "packets": packets,
                }
            )
    return rows


def _objects(
    files: tuple[str, ...],
    name: str,
    kubeconfig: str | None,
    context: str | None,
    namespace: str,
    *,
    sync: bool,
) -> Objects:
    if files:
        return _read(files, namespace)
    # Only the agents of a local cluster can be waited for.
    return asyncio.run(
        _live(kubeconfig_of(name, kubeconfig), context, sync=sync and not kubeconfig)
    )


def _read(files: tuple[str, ...], namespace: str) -> Objects:
    from kubewire.client.manifests import load
    from kubewire.networkpolicy.objects import Source, read

    return read((Source(m.obj, m.where) for m in load(files, namespace=namespace)), namespace)


async def _synced(kubeconfig: str) -> None:
    from kubewire.client.rest import Client

    async with Client.from_kubeconfig(kubeconfig, None) as client:
        await _sync(client)


async def _sync(client: Client) -> None:
    await client.request("POST", "/kubewire/v1/sync", params={"timeoutSeconds": "10"})


async def _live(kubeconfig: str, context: str | None, *, sync: bool) -> Objects:
    from kubewire.api import resources
    from kubewire.api.errors import StatusError
    from kubewire.client.rest import Client
    from kubewire.networkpolicy.objects import Source, read

    kinds = (
        resources.NETWORK_POLICIES,
        resources.CLUSTER_NETWORK_POLICIES,
        resources.PODS,
        resources.NAMESPACES,
        resources.NODES,
        resources.SERVICES,
        resources.ENDPOINT_SLICES,
    )

    async def listed(client: Client, kind: resources.Resource) -> list[JSON]:
        try:
            return await client.list(kind)
        except StatusError as error:
            # A cluster without the CRD has no ClusterNetworkPolicies.
            if error.code == 404 and kind is resources.CLUSTER_NETWORK_POLICIES:
                return []
            raise

    async with Client.from_kubeconfig(kubeconfig, context) as client:
        if sync:
            await _sync(client)
        found = await asyncio.gather(*(listed(client, k) for k in kinds))
    return read(Source(o, _where(o)) for objects in found for o in objects)


def _where(obj: JSON) -> Any:
    meta = obj.get("metadata") or {}
    named = f"{obj.get('kind')} {meta.get('namespace', '')}/{meta.get('name', '')}"
    return lambda field: f"{named}: {field}"
