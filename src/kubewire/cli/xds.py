"""``kubewire xds``: Services and their endpoints for Envoys that somebody else runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

import click

from kubewire.cli.options import kubeconfig_of, server_options

if TYPE_CHECKING:
    from kubewire.kubeproxy.backends.envoy.server import XdsServer


@click.command()
@click.option("-f", "--filename", "files", multiple=True, metavar="FILE|DIR|-", help="Tell these objects (no cluster is asked).")  # fmt: skip
@click.option("--listen", default="127.0.0.1:18000", show_default=True, metavar="ADDR:PORT", help="Where Envoys ask.")  # fmt: skip
@server_options
def xds(
    files: tuple[str, ...], listen: str, name: str, kubeconfig: str | None, context: str | None
) -> None:
    """Serve clusters, endpoints and routes to Envoys: sidecars, edges (xDS v3 over REST).

    An Envoy's bootstrap names this server as an api_config_source of type REST. Nobody is
    authenticated: whoever reaches the address can read which Services and endpoints there are.
    """
    host, port = _place(listen)
    config = "" if files else kubeconfig_of(name, kubeconfig)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve(files, host, port, config, context))


def _place(text: str) -> tuple[str, int]:
    from kubewire.api.errors import InputError

    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InputError(f"--listen {text}: expected ADDRESS:PORT")
    return host.strip("[]"), int(port)


async def _serve(
    files: tuple[str, ...], host: str, port: int, kubeconfig: str, context: str | None
) -> None:
    from kubewire.client.rest import Client
    from kubewire.kubeproxy.backends.envoy.server import XdsServer, follow

    main = asyncio.current_task()
    assert main is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, main.cancel)
    server = XdsServer()
    if files:
        _show(server, files)
    async with contextlib.AsyncExitStack() as stack:
        try:
            address, bound = await stack.enter_async_context(server.serving(host, port))
        except OSError as error:
            raise click.ClickException(f"--listen {host}:{port}: {error}") from error
        click.echo(f"xDS for Envoys on http://{address}:{bound}", err=True)
        if files:
            await asyncio.Event().wait()
        async with Client.from_kubeconfig(kubeconfig, context) as client:
            await follow(client, server, "xds/kubewire")


def _show(server: XdsServer, files: tuple[str, ...]) -> None:
    from kubewire.client.manifests import load
    from kubewire.kubeproxy.objects import read

    objects = read((m.obj, m.where) for m in load(files))
    server.show(objects.services, objects.slices)
