"""Options that many commands share, named as Kubernetes' tools name them."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def name_option(function: F) -> F:
    """``--name``: which local cluster."""
    return click.option("--name", default="kubewire", show_default=True, help="The local cluster.")(
        function
    )


def server_options(function: F) -> F:
    """``--name``, ``--kubeconfig``, ``--context``: which API server."""
    function = click.option("--context", help="Context of the kubeconfig.")(function)
    function = click.option(
        "--kubeconfig", type=click.Path(), help="Another API server than the local cluster's."
    )(function)
    return name_option(function)


def namespace_option(function: F) -> F:
    """``-n/--namespace``."""
    return click.option("-n", "--namespace", default="default", show_default=True)(function)


def output_option(function: F) -> F:
    """``-o table|json|yaml``."""
    choice = click.Choice(["table", "json", "yaml"])
    return click.option("-o", "--output", type=choice, default="table", show_default=True)(function)


def network_options(pod_network: str, own: str) -> Callable[[F], F]:
    """The way between nodes, and what it does to packets; ``own``: ranges without masquerade."""
    modes = click.Choice(["host-gw", "vxlan", "auto", "wireguard"])
    vni, port = click.IntRange(1, (1 << 24) - 1), click.IntRange(1, 65535)
    options = (
        click.option("--pod-network", type=modes, default=pod_network, show_default=True, help="How packets get to the pods of other nodes."),
        click.option("--vxlan-vni", type=vni, default=1, show_default=True),
        click.option("--vxlan-port", type=port, default=8472, show_default=True),
        click.option("--mtu", type=click.IntRange(0, 65535), default=0, help="Of pods.  [default: what fits the way between nodes]"),
        click.option("--non-masquerade-cidr", default="", metavar="CIDR[,CIDR]", help=f"Where pods go with their own address, beside {own}."),
        click.option("--policy-backend", type=click.Choice(["nftables", "iptables"]), default="nftables", show_default=True, help="What enforces NetworkPolicies."),
    )  # fmt: skip

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def pod_of(text: str, namespace: str) -> tuple[str, str]:
    """Read ``POD``, ``pod/POD`` (as kubectl prints it) or ``NS/POD``: namespace and name."""
    space, _, pod = text.rpartition("/")
    return (namespace if space in ("", "pod", "pods") else space), pod


def kubeconfig_of(name: str, kubeconfig: str | None) -> str:
    """Path of the kubeconfig to use; InputError if the local cluster does not run."""
    if kubeconfig:
        return kubeconfig
    from kubewire.cluster import state

    return str(state.load(name).kubeconfig)


def echo_record(record: Any, output: str) -> None:
    """Print a value as JSON or YAML."""
    if output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(record, sort_keys=False), nl=False)
    else:
        import json

        click.echo(json.dumps(record))
