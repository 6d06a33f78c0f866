"""``kubewire up``: from manifests to a running network."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from kubewire.api.errors import InputError, system_text
from kubewire.cli.options import name_option, network_options


@click.command()
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    help="Manifest file or folder, or - for standard input.",
)
@name_option
@click.option(
    "-n", "--namespace", default="default", show_default=True, help="For objects that name none."
)
@click.option("--nodes", default=2, show_default=True, help="How many nodes.")
@click.option("--detach", is_flag=True, help="Return when everything is Ready.")
@click.option(
    "--publish",
    multiple=True,
    metavar="HOSTPORT:[NS/]SVC:PORT",
    help="Reach a Service from this machine.",
)
@click.option(
    "--publish-ingress", metavar="HTTP[:HTTPS]", help="Reach the Ingresses from this machine."
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="IMAGE=COMMAND",
    help="Run a program of this machine for an image.",
)
@network_options("host-gw", "the pods' own ranges")
@click.option(
    "--ip-family", type=click.Choice(["ipv4", "ipv6", "dual"]), default="ipv4", show_default=True
)
@click.option(
    "--pod-cidr",
    default="",
    metavar="CIDR[,CIDR]",
    help="Addresses of pods, one range per family.  [default: 10.244.0.0/16, fd00:10:244::/56]",
)
@click.option(
    "--service-cidr",
    default="",
    metavar="CIDR[,CIDR]",
    help="Addresses of Services, one range per family.  [default: 10.96.0.0/16, fd00:10:96::/112]",
)
@click.option("--node-cidr-mask-size", default=0, help="A node's pod range, with one family.")
@click.option("--node-cidr-mask-size-ipv4", default=24, show_default=True)
@click.option("--node-cidr-mask-size-ipv6", default=64, show_default=True)
@click.option(
    "--cni",
    type=click.Choice(["library", "exec"]),
    default="library",
    show_default=True,
    help="How kubelets call the CNI plugin: in process, or as an installed program.",
)
@click.option(
    "--proxy-mode",
    type=click.Choice(["nftables", "iptables", "ipvs", "envoy", "none"]),
    default="nftables",
    show_default=True,
)
@click.option(
    "--lb-pool",
    multiple=True,
    metavar="CIDR|RANGE|ADDR[,...]",
    help="Addresses for Services of type LoadBalancer.  [default: they get none]",
)
@click.option(
    "--max-container-restart-period",
    type=click.FloatRange(1, 300),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="The longest wait before a crashed container starts again.",
)
@click.option(
    "--policy-strict", is_flag=True, help="A changed policy cuts flows that it no longer allows."
)
@click.option(
    "--wait-timeout",
    default=60.0,
    show_default=True,
    help="Seconds to wait for everything to be Ready.",
)
def up(
    files: tuple[str, ...],
    name: str,
    namespace: str,
    nodes: int,
    detach: bool,
    publish: tuple[str, ...],
    publish_ingress: str | None,
    runs: tuple[str, ...],
    lb_pool: tuple[str, ...],
    wait_timeout: float,
    **network: Any,
) -> None:
    """Start a cluster on this machine, apply the manifests, wait until everything is Ready."""
    from kubewire.client import manifests
    from kubewire.cluster import launch
    from kubewire.cluster.down import down
    from kubewire.cluster.options import Options, Publish, parse_publish_ingress
    from kubewire.cluster.support import refuse_unsupported

    started = time.monotonic()
    published = [Publish.parse(p) for p in publish]
    if publish_ingress:
        published += parse_publish_ingress(publish_ingress)
    options = Options(
        name=name,
        nodes=nodes,
        publish=tuple(published),
        images=_images(runs),
        lb_pool=tuple(p.strip() for given in lb_pool for p in given.split(",") if p.strip()),
        foreground=not detach,
        **network,
    )
    refuse_unsupported(options.pod_network)
    launched = launch.launch(
        options,
        manifests.load(files, namespace=namespace),
        namespace=namespace,
        patience=wait_timeout,
    )
    try:
        last = _follow(launched)
        if last.get("event") != "ready":
            _failed(launched, last, name, keep=detach and not last.get("bad_input"))
        click.echo(f'cluster "{name}" is Ready after {time.monotonic() - started:.1f} s')
        _describe(name)
        if not detach:
            click.echo("Ctrl-C stops it.")
            _wait(name)
    except KeyboardInterrupt:
        down(name)
        raise
    if not detach:
        down(name)


def _images(runs: tuple[str, ...]) -> dict[str, list[str]]:
    """Image -> argv, from kubewire.yaml in the current folder and from ``--run``."""
    images: dict[str, list[str]] = {}
    config = Path("kubewire.yaml")
    if config.exists():
        images |= _written_images(config)
    for run in runs:
        image, _, command = run.partition("=")
        if not image or not command:
            raise InputError(f"--run {run}: expected IMAGE=COMMAND")
        images[image] = _words(command, f"--run {run}")
    return images


def _written_images(config: Path) -> dict[str, list[str]]:
    import yaml

    try:
        written = yaml.safe_load(config.read_text()) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{config}: cannot be read: {system_text(error)}") from error
    except yaml.YAMLError as error:
        text = " ".join(str(error).split())
        raise InputError(f"{config}: error parsing YAML: {text}") from error
    found = (written.get("images") or {}) if isinstance(written, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"{config}: images: a map of image to command is expected")
    return {
        image: list(map(str, command))
        if isinstance(command, list)
        else _words(str(command), f"{config}: images: {image}")
        for image, command in found.items()
    }


def _words(command: str, where: str) -> list[str]:
    import shlex

    try:
        return shlex.split(command)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _follow(launched: Any) -> dict[str, Any]:
    """Show progress until the bootstrap is over; the last event."""
    terminal = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    last: dict[str, Any] = {}
    for event in launched.read():
        last = event
        if event["event"] == "progress":
            _progress(event, terminal)
    if terminal:
        click.echo("\r\x1b[K", nl=False, err=True)
    return last


def _progress(event: dict[str, Any], terminal: bool) -> None:
    if event["stage"] == "waiting":
        if terminal:
            text = f"{event['pods']} pods, waiting for {event['waiting']} objects"
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)
    elif terminal:
        click.echo(f"\r\x1b[Kapplied {event['objects']} objects", nl=False, err=True)


def _failed(launched: Any, last: dict[str, Any], name: str, *, keep: bool) -> None:
    """Report why and exit; a cluster that is merely not Ready is kept for a look if detached."""
    from kubewire.cluster.down import down

    lines = last.get("lines") or [f"the cluster ended while starting; see {launched.directory}/log"]
    for line in lines:
        plain = last.get("bad_input") or last.get("never_started")
        click.echo(line if plain else f"not ready: {line}", err=True)
    if keep and not last.get("never_started") and last:
        click.echo(
            f'cluster "{name}" is left running for a look; "kubewire down --name {name}" removes it',
            err=True,
        )
    elif last:
        down(name)
    raise click.exceptions.Exit(2 if last.get("bad_input") else 1)


def _describe(name: str) -> None:
    from kubewire.cluster import state

    found = state.load(name)
    click.echo(f"  API server   {found.server}")
    click.echo(f"  kubeconfig   export KUBECONFIG={found.kubeconfig}")
    for host_port, namespace, service, port in found.options.get("publish", ()):
        click.echo(f"  published    127.0.0.1:{host_port} -> {namespace}/{service}:{port}")


def _wait(name: str) -> None:
    """Stay until Ctrl-C, SIGTERM, or the end of the cluster."""
    import select

    from kubewire.cluster import state

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    fd = os.pidfd_open(state.load(name).pid)
    try:
        select.select([fd], [], [])
    finally:
        os.close(fd)
    click.echo("the cluster ended", err=True)
    raise click.exceptions.Exit(1)
