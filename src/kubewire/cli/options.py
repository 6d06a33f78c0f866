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
