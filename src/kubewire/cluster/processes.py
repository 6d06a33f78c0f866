"""PID 1 of the sandbox: lays the underlay, starts the API server, then everything else.

The order is that of waiting: the API server takes longest until it answers, so it is forked before
the other parts are imported, and both go on side by side.
"""

from __future__ import annotations

import socket
import time
from functools import partial

from kubewire.cluster.options import API_PORT, Start
from kubewire.cluster.sandbox import make_underlay
from kubewire.cluster.supervisor import Process, Supervisor
from kubewire.kernel import process

KUBECONFIG = "sandbox.kubeconfig"
"""Credentials of the cluster's own parts; its server is the address inside the sandbox."""


def run_cluster(start: Start) -> None:
    """Prepare, then supervise until the end."""
    process.give_memory_back()
    lifeline = start.lifeline if start.lifeline >= 0 else None
    supervisor = Supervisor(start.directory, lifeline=lifeline)
    make_underlay(start.options, start.directory / "run")
    inside = tuple(_listen(address) for address in start.options.gateways)
    supervisor.start([Process("apiserver", partial(_api_server, start, inside))])
    from kubewire.cluster import parts

    # Its listeners are open already: who connects now is answered as soon as it can.
    while not (start.directory / KUBECONFIG).exists():
        time.sleep(0.002)
    supervisor.start(parts.processes(start))
    supervisor.run()


def _listen(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, API_PORT), family=family, backlog=1024)


def _api_server(start: Start, inside: tuple[socket.socket, ...]) -> None:
    from kubewire.apiserver import pki, server

    gateways, services = start.options.gateways, start.options.addresses.services
    ips = [*gateways, "127.0.0.1", *(str(network[1]) for network in services)]
    keys = pki.ensure(start.directory / "pki", ips=ips)
    names = start.options.node_names
    addresses = [ip for index in range(len(names)) for ip in start.options.node_ips(index)]
    pki.ensure_kubelet(keys, names, addresses)
    host = f"https://127.0.0.1:{start.api.getsockname()[1]}"
    here = f"[{gateways[0]}]" if ":" in gateways[0] else gateways[0]
    for name, url in (("kubeconfig", host), (KUBECONFIG, f"https://{here}:{API_PORT}")):
        fresh = start.directory / f"{name}.new"
        fresh.touch(mode=0o600)
        fresh.write_text(keys.kubeconfig(url, start.options.name))
        fresh.rename(start.directory / name)
    server.run(
        server.Options(
            pki_dir=start.directory / "pki",
            data_dir=start.directory / "store",
            port=-1,
            sockets=(*inside, start.api),
            advertise_address=gateways[0],
            advertise_port=API_PORT,
            service_cidrs=start.options.addresses.service_cidrs,
        )
    )
