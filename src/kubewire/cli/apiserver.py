"""``kubewire apiserver``: the Kubernetes API by itself, a replacement for envtest."""

import errno
import ipaddress
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubewire.api.errors import InputError

if TYPE_CHECKING:
    from kubewire.apiserver.server import Running

PATH = click.Path(path_type=Path)


@click.command()
@click.option(
    "--port",
    "--secure-port",
    type=click.IntRange(0, 65535),
    default=6443,
    show_default=True,
    help="0: a free one.",
)
@click.option("--bind-address", default="127.0.0.1", show_default=True)
@click.option("--advertise-address", default="", help="Where the Service `kubernetes` leads.")
@click.option("--data-dir", type=PATH, help="Keep the state here; default: in memory.")
@click.option("--cert-dir", type=PATH, help="Keys and certificates; default: DATA_DIR/pki.")
@click.option(
    "--kubeconfig-out",
    type=PATH,
    help="Write the administrator's kubeconfig here; default: DATA_DIR/kubeconfig.",
)
@click.option(
    "--service-cluster-ip-range", default="10.96.0.0/16", show_default=True, help="CIDR[,CIDR]"
)
@click.option("--controllers", is_flag=True, help="Run the controllers, too.")
def apiserver(
    port: int, bind_address: str, data_dir: Path | None, cert_dir: Path | None, **flags: Any
) -> None:
    """Serve the Kubernetes API by itself."""
    import contextlib

    from kubewire.kernel import scratch

    with contextlib.ExitStack() as stack:
        files = data_dir or stack.enter_context(scratch.folder("kubewire-"))
        # After the folder: its keeper is a copy of this process.
        from kubewire.apiserver import server

        folder = cert_dir or files / "pki"
        kubeconfig = flags["kubeconfig_out"] or files / "kubeconfig"
        options = server.Options(
            pki_dir=folder,
            data_dir=data_dir / "store" if data_dir else None,
            host=bind_address,
            port=port,
            advertise_address=flags["advertise_address"],
            service_cidrs=_cidrs(flags["service_cluster_ip_range"]),
            ready=lambda running: _announce(running, kubeconfig),
        )
        try:
            server.run(options, _controllers if flags["controllers"] else None)
        except socket.gaierror as error:
            raise InputError(f"--bind-address {bind_address}: {error.strerror}") from error
        except OSError as error:
            if error.filename:
                raise InputError(f"{error.filename}: {error.strerror}") from error
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
                raise
            raise InputError(f"--port {port}: cannot listen on {bind_address}: {os.strerror(error.errno)}") from error  # fmt: skip


def _cidrs(text: str) -> list[str]:
    cidrs = [part.strip() for part in text.split(",")]
    try:
        versions = [ipaddress.ip_network(cidr).version for cidr in cidrs]
    except ValueError as error:
        raise InputError(f"--service-cluster-ip-range: {error}") from error
    if len(versions) > 2 or len(set(versions)) != len(versions):
        raise InputError("--service-cluster-ip-range: at most one range of each IP family")
    return cidrs


def _announce(running: "Running", kubeconfig: Path) -> None:
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    # Whoever waits for the file finds a whole one.
    fresh = kubeconfig.with_name(f".{kubeconfig.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(running.kubeconfig())
    fresh.replace(kubeconfig)
    click.echo(f"{running.url} (kubeconfig: {kubeconfig})")


async def _controllers(running: "Running") -> None:
    from kubewire.client.kubeconfig import Connection
    from kubewire.client.rest import Client
    from kubewire.controllermanager import manager

    certificate, key = running.pki.admin
    connection = Connection(
        server=running.url,
        ca=running.pki.ca.read_bytes(),
        certificate=certificate.read_bytes(),
        key=key.read_bytes(),
    )
    async with Client.from_connection(connection) as client:
        await manager.run(client, manager.Options(root_ca=running.pki.ca.read_text()))
