"""``kubewire exec`` and ``kubewire node-exec``."""

import sys

import click

from kubewire.cli.options import name_option, pod_of


@click.command("exec")
@name_option
@click.option("-n", "--namespace", default="default", help="The pod's namespace.")
@click.option("-c", "--container", default="", help="Whose files and variables to see.")
@click.argument("pod", metavar="[NS/]POD")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, namespace: str, container: str, pod: str, command: tuple[str, ...]) -> None:
    """Run a program of this machine inside a pod: kubewire exec POD -- CMD..."""
    from kubewire.cluster import inside, state

    namespace, pod = pod_of(pod, namespace)
    sys.exit(inside.exec_in_pod(state.load(name), namespace, pod, container, command))


@click.command("node-exec")
@name_option
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def node_exec(name: str, node: str, command: tuple[str, ...]) -> None:
    """Run a program of this machine inside a node: kubewire node-exec NODE -- CMD..."""
    from kubewire.cluster import inside, state

    sys.exit(inside.exec_in_node(state.load(name), node, command))
