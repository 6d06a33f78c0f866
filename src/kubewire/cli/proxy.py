"""``kubewire proxy``: the Service proxy of one node, against any API server."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from kubewire.cli.aboutservices import about, nodes
from kubewire.cli.options import echo_record, name_option, output_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubewire.api.meta import JSON
    from kubewire.client.kubeconfig import Connection
    from kubewire.kubeproxy.config import Config
    from kubewire.kubeproxy.trace import Tracer

MODES = ["nftables", "iptables", "ipvs", "envoy"]
MODE = "{mode}"
"""Stands for the section of the mode that is in force."""

FLAGS: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = (
    ("--proxy-mode", ("mode",), {"type": click.Choice(MODES), "help": "Which back end.  [default: nftables]"}),
    ("--hostname-override", ("hostnameOverride",), {"help": "Name of this node.  [default: host name]"}),
    ("--bind-address", ("bindAddress",), {"metavar": "IP", "help": "This node's primary address.  [default: its Node's]"}),
    ("--bind-address-hard-fail", ("bindAddressHardFail",), {"is_flag": True, "help": "End if a port cannot be bound."}),
    ("--cluster-cidr", ("clusterCIDR",), {"metavar": "CIDR[,CIDR]", "help": "Where pods are."}),
    ("--detect-local-mode", ("detectLocalMode",), {"help": "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix.  [default: ClusterCIDR]"}),
    ("--pod-bridge-interface", ("detectLocal", "bridgeInterface"), {"help": "For BridgeInterface."}),
    ("--pod-interface-name-prefix", ("detectLocal", "interfaceNamePrefix"), {"help": "For InterfaceNamePrefix."}),
    ("--nodeport-addresses", ("nodePortAddresses",), {"metavar": "CIDR|primary|localhost|all[,...]", "help": "Where nodePorts answer.  [default: primary (nftables, envoy), all (others)]"}),
    ("--masquerade-all", (MODE, "masqueradeAll"), {"is_flag": True, "help": "Masquerade everything to ClusterIPs."}),
    ("--healthz-bind-address", ("healthzBindAddress",), {"metavar": "IP:PORT", "help": "/healthz and /livez.  [default: 0.0.0.0:10256]"}),
    ("--metrics-bind-address", ("metricsBindAddress",), {"metavar": "IP:PORT", "help": "/metrics and /proxyMode.  [default: 127.0.0.1:10249]"}),
    ("--iptables-masquerade-bit", ("iptables", "masqueradeBit"), {"type": int, "help": "Bit of the mark, iptables and ipvs.  [default: 14]"}),
    ("--iptables-localhost-nodeports/--no-iptables-localhost-nodeports", ("iptables", "localhostNodePorts"), {"default": None, "help": "nodePorts on 127.0.0.1."}),
    ("--iptables-sync-period", ("iptables", "syncPeriod"), {"help": "How often the kernel is read back.  [default: 30s]"}),
    ("--iptables-min-sync-period", ("iptables", "minSyncPeriod"), {"help": "Changes are saved up for so long.  [default: 0s]"}),
    ("--nftables-masquerade-bit", ("nftables", "masqueradeBit"), {"type": int, "help": "Bit of the mark.  [default: 14]"}),
    ("--nftables-sync-period", ("nftables", "syncPeriod"), {"help": "How often the kernel is read back.  [default: 30s]"}),
    ("--nftables-min-sync-period", ("nftables", "minSyncPeriod"), {"help": "Changes are saved up for so long.  [default: 0s]"}),
    ("--ipvs-scheduler", ("ipvs", "scheduler"), {"help": "rr, wrr, lc, wlc, ...  [default: rr]"}),
    ("--ipvs-strict-arp", ("ipvs", "strictARP"), {"is_flag": True, "help": "Answer ARP for own addresses only."}),
    ("--ipvs-exclude-cidrs", ("ipvs", "excludeCIDRs"), {"metavar": "CIDR[,...]", "help": "Virtual servers of others."}),
    ("--ipvs-sync-period", ("ipvs", "syncPeriod"), {"help": "How often the kernel is read back.  [default: 30s]"}),
    ("--ipvs-min-sync-period", ("ipvs", "minSyncPeriod"), {"help": "Changes are saved up for so long.  [default: 0s]"}),
    ("--ipvs-tcp-timeout", ("ipvs", "tcpTimeout"), {"help": "Of idle connections; 0: the kernel's."}),
    ("--ipvs-tcpfin-timeout", ("ipvs", "tcpFinTimeout"), {"help": "After a FIN; 0: the kernel's."}),
    ("--ipvs-udp-timeout", ("ipvs", "udpTimeout"), {"help": "Of UDP; 0: the kernel's."}),
)  # fmt: skip
"""kube-proxy's flags, and the field of KubeProxyConfiguration that each of them sets."""
LISTS = ("nodePortAddresses", "excludeCIDRs")


def configuration_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--config and every flag that says what a field of it says."""
    for flag, _, told in reversed(FLAGS):
        function = click.option(flag, _parameter(flag), **told)(function)
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help="KubeProxyConfiguration v1alpha1; flags go over it.",
    )(function)


def _parameter(flag: str) -> str:
    return flag.partition("/")[0].lstrip("-").replace("-", "_")


def configured(path: str | None, flags: dict[str, Any]) -> Config:
    """The file and the flags above it, read as one; InputError names the field."""
    from kubewire.kubeproxy import backends
    from kubewire.kubeproxy.config import read

    document = _document(path)
    mode = flags.get("proxy_mode") or document.get("mode") or "nftables"
    for flag, field, told in FLAGS:
        value = flags.get(_parameter(flag))
        if value is None or (told.get("is_flag") and not value):
            continue
        value = [v.strip() for v in value.split(",")] if field[-1] in LISTS else value
        _set(document, [mode if part == MODE else part for part in field], value)
    config = read(document, path or "flags")
    backends.require(
        config.mode, f"{path}: mode" if document.get("mode") and path else "--proxy-mode"
    )
    hostname = config.hostname_override or socket.gethostname().lower()
    return replace(config, hostname_override=hostname)


def _document(path: str | None) -> JSON:
    from kubewire.client.manifests import load
    from kubewire.kubeproxy.configfile import GROUP, KIND

    if path is None:
        return {"apiVersion": GROUP, "kind": KIND}
    documents = load([path])
    return dict(documents[0].obj) if documents else {}


def _set(document: JSON, field: list[str], value: Any) -> None:
    if field[0] == "ipvs" and field[-1] == "masqueradeAll":  # As upstream: one section for both.
        field = ["iptables", field[-1]]
    *sections, name = field
    for section in sections:
        document[section] = dict(document.get(section) or {})
        document = document[section]
    document[name] = value


def _networks(service_cidrs: tuple[str, ...]) -> None:
    from kubewire.api.errors import InputError
    from kubewire.kubeproxy.config import parse_network

    for value in service_cidrs:
        if parse_network(value) is None:
            raise InputError(f"--service-cidr: must be a valid CIDR block, not {value!r}")


@click.group(invoke_without_command=True)
@click.option("--kubeconfig", type=click.Path(), help="Default: in-cluster, else kubectl's rules.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--master", default="", help="URL of the API server; replaces the kubeconfig's.")
@configuration_options
@click.option("--service-cidr", "service_cidrs", multiple=True, metavar="CIDR", help="Drop what goes to addresses in it that no Service has, besides ServiceCIDR objects.")  # fmt: skip
@click.option("--cleanup", is_flag=True, help="Remove the rules of every mode from this namespace, and end.")  # fmt: skip
@click.option("-v", "--v", "verbosity", type=int, default=2, help="Log level; 4 and up: debug.")
@click.pass_context
def proxy(
    ctx: click.Context,
    /,
    kubeconfig: str | None,
    context: str | None,
    master: str,
    config_file: str | None,
    service_cidrs: tuple[str, ...],
    cleanup: bool,
    verbosity: int,
    **flags: Any,
) -> None:
    """Keep this network namespace's rules in step with Services and EndpointSlices.

    Needs CAP_NET_ADMIN. The rules stay when it ends; rules of another mode go once the new are in.
    """
    if ctx.invoked_subcommand is not None:
        return
    level = logging.DEBUG if verbosity >= 4 else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = configured(config_file, flags)
    _networks(service_cidrs)
    try:
        if cleanup:
            from kubewire.kubeproxy import backends

            backends.clear_others("", config)
            return
        found = kubeconfig or config.kubeconfig or None
        asyncio.run(_run(found, context, master, config, service_cidrs))
    except PermissionError as error:
        raise click.ClickException(f"cannot change the rules of this namespace: {error}") from error


async def _run(
    kubeconfig: str | None,
    context: str | None,
    master: str,
    config: Config,
    service_cidrs: tuple[str, ...],
) -> None:
    from kubewire.client.kubeconfig import SERVICE_ACCOUNT
    from kubewire.client.rest import Client
    from kubewire.kubeproxy.controller import KubeProxy

    in_cluster = kubeconfig is None and context is None and (SERVICE_ACCOUNT / "token").exists()
    if in_cluster and not master:
        client = Client.in_cluster()
    else:
        client = Client.from_connection(connection_to(kubeconfig, context, master))
    async with client:
        await KubeProxy(client, config.hostname_override, (), config, service_cidrs).run()


def connection_to(kubeconfig: str | None, context: str | None, master: str) -> Connection:
    """How the server is reached; one that ``--master`` names may need no kubeconfig at all."""
    from kubewire.client import kubeconfig as files

    own = kubeconfig is not None or context is not None
    if master and not own and not any(p.exists() for p in files.default_paths()):
        return files.Connection(server=master.rstrip("/"))
    found = files.connection(files.load(kubeconfig), context)
    return replace(found, server=master.rstrip("/")) if master else found


@proxy.command()
@click.option("--diff", is_flag=True, help="Only where they differ: -desired, +actual. Exit status 1 if anywhere.")  # fmt: skip
@click.option("--here", is_flag=True, help="This network namespace instead of the local cluster's nodes.")  # fmt: skip
@about
@output_option
def dump(diff: bool, here: bool, output: str, **options: Any) -> None:
    """Show what the kernel of each node holds of the proxy, or how it differs from what it should.

    With --here or --kubeconfig: of the namespace that the command runs in.
    """
    from kubewire.kubeproxy.inspect import differences

    found = nodes(mode="plan", **options)
    here = here or bool(options["kubeconfig"]) or bool(options["files"])
    tracers = found.all()
    if here and len(tracers) != 1:
        raise click.UsageError("which node is this? give --node")
    listed = {t.node.name: _listed(t, options["name"], here=here, both=diff) for t in tracers}
    differing = False
    for node, (wanted, actual) in listed.items():
        lines = list(differences(wanted, actual)) if diff else actual
        differing |= diff and bool(lines)
        if output == "table":
            click.echo(f"# node {node}")
            click.echo("".join(f"{line}\n" for line in lines), nl=False)
    if output != "table":
        records = [
            {"node": node, "actual": actual} | ({"desired": wanted, "differs": wanted != actual} if diff else {})
            for node, (wanted, actual) in listed.items()
        ]  # fmt: skip
        echo_record({"nodes": records}, output)
    if differing:
        raise click.exceptions.Exit(1)


@proxy.command()
@click.argument("mode", type=click.Choice(MODES))
@name_option
def switch(mode: str, name: str) -> None:
    """Change the proxy mode of a running cluster on every node.

    Established connections stay; the rules of the old mode go once the new ones are in. It edits
    ``mode`` in ConfigMap kube-system/kube-proxy, as kubectl could.
    """
    from kubewire.client.rest import Client
    from kubewire.cluster import proxymode, state

    cluster = state.load(name)

    async def run() -> None:
        async with Client.from_kubeconfig(str(cluster.kubeconfig), None) as client:
            await proxymode.switch(client, cluster, mode)

    asyncio.run(run())
    click.echo(f"cluster {name}: every node's proxy is in mode {mode}")


@proxy.command()
@click.option("--here", is_flag=True, help="This network namespace instead of the local cluster's nodes.")  # fmt: skip
@about
@output_option
def connections(here: bool, output: str, **options: Any) -> None:
    """Show the connection table of mode ipvs: clients, virtual servers, destinations, states.

    Client port 0: a client's place with its destination, kept by session affinity.
    """
    found = nodes(mode="plan", **options)
    here = here or bool(options["kubeconfig"]) or bool(options["files"])
    listed = {t.node.name: _connections(t, options["name"], here=here) for t in found.all()}
    if output != "table":
        records = [{"node": node, "connections": rows} for node, rows in listed.items()]
        echo_record({"nodes": records}, output)
        return
    for node, rows in listed.items():
        click.echo(f"# node {node}")
        for row in rows:
            click.echo("{protocol:4} {client} -> {virtual} -> {destination} {state} {expires}s".format(**row))  # fmt: skip


def _connections(tracer: Tracer, name: str, *, here: bool) -> list[JSON]:
    from kubewire.cluster import inside, state
    from kubewire.kernel import netns
    from kubewire.kubeproxy.inspect import connection_table

    if here:
        return connection_table(tracer.config)
    cluster = state.load(name)

    def look() -> list[JSON]:
        with netns.entered(inside.node_netns(cluster, tracer.node.name)):
            return connection_table(tracer.config)

    rows: list[JSON] = inside.call(cluster, look)
    return rows


def _listed(tracer: Tracer, name: str, *, here: bool, both: bool) -> tuple[list[str], list[str]]:
    """(desired, actual) of a node."""
    from kubewire.cluster import inside, state
    from kubewire.kernel import netns, sandbox
    from kubewire.kubeproxy.inspect import actual, desired

    if here:
        there = actual(tracer.config)
        wanted = sandbox.run(lambda: desired(tracer, there)) if both else []
        return wanted, there  # type: ignore[return-value]
    cluster = state.load(name)

    def look() -> list[list[str]]:
        own = cluster.run_dir / "nodes" / tracer.node.name / "kube-proxy"
        with netns.entered(inside.node_netns(cluster, tracer.node.name)):
            there = actual(replace(tracer.config, run_dir=str(own)))
        return [desired(tracer, there) if both else [], there]

    wanted, there = inside.call(cluster, look)
    return wanted, there
