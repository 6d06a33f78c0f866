"""``kubewire cni``: install the plugins, and serve them by an agent."""

from ipaddress import ip_network
from pathlib import Path

import click

ALONE_SUBNET = "10.244.0.0/24"
"""What plugins without an agent give from; there is nobody to ask for a podCIDR."""


@click.group()
def cni() -> None:
    """Install the CNI plugins, or serve them."""


@cni.command()
@click.option(
    "--bin-dir", type=click.Path(path_type=Path), default="/opt/cni/bin", show_default=True
)
@click.option(
    "--conf-dir", type=click.Path(path_type=Path), default="/etc/cni/net.d", show_default=True
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default="/run/kubewire/cni.sock",
    show_default=True,
    help="Where the agent listens.",
)
@click.option("--standalone", is_flag=True, help="Plugins that work without an agent.")
@click.option("--name", default="kubewire", show_default=True, help="Name of the network.")
@click.option(
    "--subnet",
    "subnets",
    multiple=True,
    help="Give addresses from this CIDR (one for each family).  "
    f"[default: the agent's podCIDRs; with --standalone {ALONE_SUBNET}]",
)
@click.option(
    "--mtu",
    type=click.IntRange(0, 65535),
    default=0,
    help="MTU of the pods' interfaces.  [default: what fits the way between nodes, if the agent knows]",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=None,
    help="Where addresses in use are recorded.",
)
@click.option(
    "--chain",
    "chained",
    multiple=True,
    type=click.Choice(["portmap", "bandwidth"]),
    help="Add a reference plugin after ours, and leave its work to it.",
)
@click.option("--ip-masq", is_flag=True, help="Pods leave the node with the node's address.")
@click.option(
    "--non-masquerade-cidr",
    "kept",
    multiple=True,
    help="Destinations that see the pods' own addresses, with --ip-masq.",
)
def install(
    bin_dir: Path,
    conf_dir: Path,
    socket: Path,
    standalone: bool,
    name: str,
    subnets: tuple[str, ...],
    mtu: int,
    data_dir: Path | None,
    chained: tuple[str, ...],
    ip_masq: bool,
    kept: tuple[str, ...],
) -> None:
    """Write the plugins and a network configuration."""
    from kubewire.api.errors import InputError
    from kubewire.cni import install as installer
    from kubewire.cni.ipam import IpamError, Range
    from kubewire.cni.spec import CniError

    for subnet in subnets:
        try:
            Range.of(subnet)
        except IpamError as error:
            raise InputError(f"--subnet: {error}") from None
    for cidr in kept:
        try:
            ip_network(cidr)
        except ValueError as error:
            raise InputError(f"--non-masquerade-cidr: {error}") from None
    if kept and not ip_masq:
        raise InputError("--non-masquerade-cidr: needs --ip-masq")
    if standalone and not subnets:
        subnets = (ALONE_SUBNET,)
    config = installer.network_config(
        name,
        subnets=subnets,
        mtu=mtu,
        data_dir=data_dir.absolute() if data_dir else None,
        chained=chained,
        masquerade=ip_masq,
        not_masqueraded=kept,
    )
    try:
        installer.check_config(config)
        installer.check_socket(socket.absolute())
    except CniError as error:
        raise InputError(error.message) from None
    except installer.InstallError as error:
        raise InputError(f"--{error}") from None
    try:
        for path in installer.install_programs(
            bin_dir, socket=socket.absolute(), standalone=standalone
        ):
            click.echo(path)
        click.echo(installer.install_config(conf_dir, config))
        if others := installer.preferred(conf_dir):
            click.echo(
                f"{conf_dir}: a runtime that takes one configuration takes {others[0]}", err=True
            )
    except installer.InstallError as error:
        raise click.ClickException(str(error)) from None


@cni.command()
@click.option(
    "--socket", type=click.Path(path_type=Path), default="/run/kubewire/cni.sock", show_default=True
)
@click.option(
    "--pod-cidr",
    "pod_cidrs",
    multiple=True,
    help="Addresses for networks that name no range; one for each family.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Serve /metrics on this port; 0: nowhere.",
)
def serve(socket: Path, pod_cidrs: tuple[str, ...], metrics_port: int) -> None:
    """Answer the installed plugins until a signal comes."""
    import asyncio

    from kubewire.api.errors import InputError
    from kubewire.cni.install import InstallError, check_socket
    from kubewire.cni.ipam import IpamError, check, range_sets
    from kubewire.cni.server import serve_forever

    try:
        if pod_cidrs:
            check(range_sets(pod_cidrs), pod_cidrs)
        check_socket(socket.absolute())
    except IpamError as error:
        raise InputError(f"--pod-cidr: {error}") from None
    except InstallError as error:
        raise InputError(f"--{error}") from None
    try:
        asyncio.run(serve_forever(socket.absolute(), pod_cidrs, metrics_port=metrics_port))
    except OSError as error:
        raise click.ClickException(f"cannot serve at {socket}, port {metrics_port}: {error}") from error  # fmt: skip
