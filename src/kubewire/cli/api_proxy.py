"""``kubewire api-proxy``: the flags and defaults of ``kubectl proxy``."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import click

from kubewire.api.errors import InputError
from kubewire.apiproxy import filter as rules
from kubewire.cli.connect import Seconds, connection
from kubewire.cli.options import server_options

DEFAULT_PORT = 8001
PATH = click.Path(path_type=Path)


@click.command()
@server_options
@click.option("-p", "--port", default=DEFAULT_PORT, show_default=True, help="0: a free one.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("-u", "--unix-socket", type=PATH, help="Listen on a Unix socket instead.")
@click.option("--api-prefix", default="/", show_default=True, help="Serve the API below this path.")
@click.option("-w", "--www", type=PATH, help="Also serve the files of this folder ...")
@click.option("-P", "--www-prefix", default="/static/", show_default=True, help="... below this.")
@click.option("--accept-paths", default=rules.ACCEPT_PATHS, show_default=True)
@click.option("--reject-paths", default=rules.REJECT_PATHS, show_default=True)
@click.option("--accept-hosts", default=rules.ACCEPT_HOSTS, show_default=True)
@click.option("--reject-methods", default=rules.REJECT_METHODS, show_default=True)
@click.option("--disable-filter", is_flag=True, help="Pass everything on. Dangerous.")
@click.option("--keepalive", type=Seconds(), default="0s", help="Keep idle connections this long.")
@click.option("--append-server-path", is_flag=True, help="Keep the path of the server's URL.")
def api_proxy(
    name: str, kubeconfig: str | None, context: str | None, port: int, **flags: Any
) -> None:
    """Serve the API on localhost, with your credentials (kubectl proxy)."""
    from kubewire.apiproxy import server

    if flags["unix_socket"] and port != DEFAULT_PORT:
        raise InputError("cannot set --unix-socket and --port at the same time")
    www = flags["www"]
    if www is not None and not www.is_dir():
        click.echo(f"Warning: static file directory {www} is not a directory", err=True)
    if flags["disable_filter"] and not flags["unix_socket"]:
        click.echo("Request filter disabled, your proxy is vulnerable to XSRF attacks, please be cautious", err=True)  # fmt: skip
    options = server.Options(
        address=flags["address"],
        port=port,
        unix_socket=flags["unix_socket"],
        api_prefix=flags["api_prefix"],
        www=www,
        www_prefix=flags["www_prefix"],
        filter=None if flags["disable_filter"] else _filter(flags),
        keepalive=flags["keepalive"],
        append_server_path=flags["append_server_path"],
    )
    found = connection(name, kubeconfig, context)
    try:
        asyncio.run(server.serve(found, options, click.echo))
    except OSError as error:
        where = flags["unix_socket"] or f"{flags['address']}:{port}"
        is_name = isinstance(error, socket.gaierror)
        text = error.strerror if is_name or not error.errno else os.strerror(error.errno)
        raise InputError(f"cannot listen on {where}: {text}") from error


def _filter(flags: dict[str, Any]) -> rules.Filter:
    return rules.Filter.of(
        flags["accept_paths"], flags["reject_paths"], flags["accept_hosts"], flags["reject_methods"]
    )
