"""The API server as a process: TLS, listeners, start-up objects, periodic work, a graceful end."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from kubewire.apiserver import auth, bootstrap, pki
from kubewire.apiserver.allocate import ServiceAddresses
from kubewire.apiserver.app import Api
from kubewire.apiserver.catalog import Catalog
from kubewire.apiserver.kubelet import Kubelets
from kubewire.apiserver.proxy import Proxy
from kubewire.apiserver.rest import Rest
from kubewire.apiserver.store import Store
from kubewire.apiserver.strategy import Admission

HOUSEKEEPING_SECONDS = 10.0


class Options(msgspec.Struct, kw_only=True):
    """What a server needs to know."""

    pki_dir: Path
    data_dir: Path | None = None
    """Where the log lies; None keeps everything in memory only."""
    host: str = "127.0.0.1"
    port: int = 6443
    """0 takes a free one; -1 listens on ``sockets`` only."""
    sockets: Sequence[socket.socket] = ()
    """Listening sockets made elsewhere (in another network namespace)."""
    advertise_address: str = ""
    """Where the ``kubernetes`` Service leads; the first listener by default."""
    advertise_port: int = 0
    service_cidrs: Sequence[str] = ("10.96.0.0/16",)
    hosts: Sequence[str] = ()
    """More names for the server's certificate."""
    event_ttl: float = 3600.0
    ready: Callable[["Running"], None] | None = None
    """Called once requests are answered."""
    ready_fd: int = -1
    """Written one line (the URL) and closed once requests are answered."""


class Running:
    """A server that answers."""

    def __init__(self, api: Api, keys: pki.Pki, addresses: list[tuple[str, int]]) -> None:
        self.api = api
        self.pki = keys
        self.addresses = addresses

    @property
    def url(self) -> str:
        """URL of the first listener."""
        host, port = self.addresses[0]
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    def kubeconfig(self, name: str = "kubewire") -> str:
        """The administrator's kubeconfig."""
        return self.pki.kubeconfig(self.url, name)


Beside = Callable[[Running], Coroutine[Any, Any, None]]
"""Something that runs in the server's event loop, such as the controllers."""


def build(options: Options, keys: pki.Pki) -> Api:
    """Open the store and put the parts together."""
    store = Store(options.data_dir)
    catalog = Catalog()
    addresses = ServiceAddresses(options.service_cidrs)
    for revision in store.collection("services").objects.values():
        addresses.adopt(revision.obj)
    definitions = store.collection("customresourcedefinitions.apiextensions.k8s.io")
    for key, revision in definitions.objects.items():
        catalog.define(key.name, revision.obj)
    rest = Rest(store, Admission(catalog, addresses, store))
    tokens = auth.Tokens(pki.load_service_account_key(keys), store)
    return Api(store, catalog, rest, tokens, options.advertise_address)


@contextlib.asynccontextmanager
async def serving(options: Options) -> AsyncIterator[Running]:
    """Serve while the body runs."""
    ips = [a for a in (options.advertise_address, options.host) if _is_address(a)]
    ips += [str(s.getsockname()[0]) for s in options.sockets]
    ips = [i for i in ips if i not in ("0.0.0.0", "::")]
    ips += [ServiceAddresses(options.service_cidrs).first]
    keys = pki.ensure(options.pki_dir, options.hosts, ips)
    api = build(options, keys)
    proxy = Proxy(api, keys.server)
    api.verbs.streams["proxy"] = proxy.handle
    for name in ("log", "exec", "attach", "portforward"):
        api.verbs.streams[name] = Kubelets(api, proxy).handle
    # A client that goes away ends what it follows: a watch, a log, a connection through the proxy.
    server = web.Server(
        api.handle,
        access_log=None,
        tcp_keepalive=True,
        keepalive_timeout=3600.0,
        handler_cancellation=True,
    )
    context = tls_context(keys)
    loop = asyncio.get_running_loop()
    listeners = [
        await loop.create_server(server, sock=sock, ssl=context, backlog=1024)
        for sock in options.sockets
    ]
    if options.port >= 0:
        listeners.append(await loop.create_server(
            server, options.host, options.port, ssl=context, backlog=1024, reuse_address=True,
        ))  # fmt: skip
    addresses = [s.getsockname()[:2] for listener in listeners for s in listener.sockets]
    host = options.advertise_address or addresses[0][0]
    port = options.advertise_port or addresses[0][1]
    api.address = f"{host}:{port}"
    bootstrap.ensure(api.rest, api.catalog, host, port)
    keeper = asyncio.create_task(_housekeeping(api, options.event_ttl, host, port))
    try:
        yield Running(api, keys, addresses)
    finally:
        keeper.cancel()
        api.watching.stopping = True
        for listener in listeners:
            listener.close()
        for watch in tuple(api.convergence.watches):
            watch.close()
        await server.shutdown(2.0)
        await proxy.close()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        api.store.close()


async def serve(options: Options, beside: Beside | None = None) -> None:
    """Serve until SIGTERM or SIGINT; ``beside`` runs in the same loop for as long."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with serving(options) as running:
        if options.ready is not None:
            options.ready(running)
        if options.ready_fd >= 0:
            os.write(options.ready_fd, f"{running.url}\n".encode())
            os.close(options.ready_fd)
        if beside is None:
            await ended.wait()
            return
        waiting = asyncio.create_task(ended.wait())
        working = asyncio.create_task(beside(running))
        await asyncio.wait({waiting, working}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, working):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


def run(options: Options, beside: Beside | None = None) -> None:
    """Serve in an event loop of its own; blocks."""
    # Stored objects live long and hold no cycles: the collector would walk them all for nothing.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    asyncio.run(serve(options, beside))


def tls_context(keys: pki.Pki) -> ssl.SSLContext:
    """TLS that asks for a client certificate and accepts none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*keys.server)
    context.load_verify_locations(keys.ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _housekeeping(api: Api, event_ttl: float, host: str, port: int) -> None:
    """Old events go, and the ``kubernetes`` Service comes back when someone deletes it."""
    while True:
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
        bootstrap.ensure(api.rest, api.catalog, host, port)
        bootstrap.expire_events(api.store, event_ttl)


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
