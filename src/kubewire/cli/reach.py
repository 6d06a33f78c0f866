"""``kubewire reach``."""

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from kubewire.cli.connect import Seconds, client
from kubewire.cli.options import name_option, output_option

if TYPE_CHECKING:
    from kubewire.cluster.reach import Flow, Question
    from kubewire.cluster.state import ClusterState


@click.command()
@name_option
@output_option
@click.option("-n", "--namespace", default="", help="Only this namespace.")
@click.option("-A", "--all-namespaces", is_flag=True, help="kube-system, too.")
@click.option("--from", "sources", multiple=True, metavar="[NS/]POD", help="Only from these.")
@click.option(
    "--to", "targets", multiple=True, metavar="[NS/]NAME", help="Only to these pods or Services."
)
@click.option("--ports", default="", metavar="80,81", help="These instead of the declared ones.")
@click.option("--protocols", default="", metavar="TCP,UDP", help="Only these.")
@click.option("--pods", is_flag=True, help="Only pods as targets (with --services: both).")
@click.option("--services", is_flag=True, help="Only Services as targets.")
# The kernel repeats a lost SYN after 1 s: the default has time for the answer to that.
@click.option("--timeout", type=Seconds(), default="1300ms", show_default=True, help="Per flow.")
@click.option("--expect", metavar="FILE", help="Compare with the JSON of an earlier run.")
@click.option("--no-sync", is_flag=True, help="Do not wait until all agents are up to date.")
def reach(
    name: str,
    output: str,
    namespace: str,
    all_namespaces: bool,
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    ports: str,
    protocols: str,
    pods: bool,
    services: bool,
    timeout: float,
    expect: str | None,
    no_sync: bool,
) -> None:
    """Try real connections between pods and Services, all at once.

    Exit status 1 if --expect is given and something differs from it.
    """
    from kubewire.cluster import reach as trial
    from kubewire.cluster import state

    question = trial.Question(
        sources=sources,
        targets=targets,
        ports=parse_ports(ports),
        protocols=parse_protocols(protocols),
        pods=pods or not services,
        services=services or not pods,
        namespace=namespace,
        all_namespaces=all_namespaces,
    )
    expected = None if expect is None else trial.read_expected(expect)
    found = state.load(name)
    wanted, mode = asyncio.run(_ask(found, question, sync=not no_sync))
    records = trial.attempt(found, wanted, timeout, behind_envoy=mode == "envoy")
    if output == "table":
        click.echo(trial.matrix(records))
    else:
        from kubewire.cli.options import echo_record

        echo_record({"flows": records}, output)
    lines = [] if expected is None else trial.differences(expected, records)
    for line in lines:
        click.echo(line, err=True)
    sys.exit(1 if lines else 0)


async def _ask(
    found: "ClusterState", question: "Question", *, sync: bool
) -> tuple[list["Flow"], str]:
    """What to try, and the proxy mode that it goes through."""
    import msgspec

    from kubewire.api.core import Pod
    from kubewire.api.resources import PODS, SERVICES
    from kubewire.api.service import Service
    from kubewire.cluster import proxymode
    from kubewire.cluster import reach as trial

    async with client(found.name, None, None) as server:
        if sync:
            await server.request("POST", "/kubewire/v1/sync", params={"timeoutSeconds": "10"})
        pods = msgspec.convert(await server.list(PODS), list[Pod])
        services = msgspec.convert(await server.list(SERVICES), list[Service])
        mode = (await proxymode.live(server, found)).mode
    return trial.flows(question, pods, services), mode


def parse_ports(text: str) -> tuple[int, ...]:
    """Read ``80,81``."""
    try:
        found = tuple(int(part) for part in text.split(",") if part)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of port numbers") from error
    if not all(0 < port < 65536 for port in found):
        raise click.BadParameter(f"{text!r}: a port is between 1 and 65535")
    return found


def parse_protocols(text: str) -> tuple[str, ...]:
    """Read ``TCP,UDP``."""
    found = tuple(part.upper() for part in text.split(",") if part)
    if not set(found) <= {"TCP", "UDP", "SCTP"}:
        raise click.BadParameter(f"{text!r}: protocols are TCP, UDP and SCTP")
    return found
