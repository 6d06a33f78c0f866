"""What pods get through their cables, beside two plain namespaces joined by one veth.

All ways stand side by side and are measured in turns, some packets or one stream at a time, so that
what else the machine does falls on all alike; each turn of a way is a ratio to the plain veth in the
same turn. The plain veth is as the kernel makes it. Three more ways say what a figure can be:
routers without a rule (that is: what the kernel takes for the same number of hops), and a plain veth
with the packet size that pods have. The first figures are of the pod network alone, the last ones of
a cluster: its nodes track connections, and have the rules of Services and of a policy.

Round trips are measured twice: the two ends on two cores, where waking a core is most of the time and
most of the noise, and on one, which leaves the way itself and gives the same figure each time.
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from tests.cni.lab import Lab, node

from bench.cluster import running, unique
from kubewire.cluster import inside, state
from kubewire.cluster.state import ClusterState
from kubewire.cni.routes import Mode
from kubewire.kernel import links, netns, process, routes, sandbox, sysctl
from kubewire.kernel.links import DEFAULT_GSO, Gso
from kubewire.kernel.routes import Route
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubelet.enter import describe

STREAMS = 11
"""Rounds of one iperf3 each."""
SENT = "200M"
TURNS = 200
"""Rounds of round trips, and how many make one."""
PINGS = 20

Figures = list[dict[str, Any]]
SPACES = Path("/run/netns")
PLAIN = "plain veth"
BIG = "plain veth with the packets of pods"
ONE, TWO = "a router without a rule", "two routers without a rule"
ROUTERS = {
    "same node": ONE,
    "host-gw": TWO,
    "same node in a cluster": ONE,
    "host-gw in a cluster": TWO,
}
MANIFEST = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        *(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {"nodeName": node, "containers": [{"name": "c", "image": "idle"}]},
            }
            for name, node in (("a", "node-1"), ("b", "node-1"), ("c", "node-2"))
        ),
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "among-themselves"},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": {}}]}],
                "egress": [{"to": [{"podSelector": {}}]}],
            },
        },
    ],
}


@dataclass(frozen=True, slots=True)
class Way:
    """From one namespace to an address (IPv4, IPv6) in another."""

    name: str
    source: Path
    target: Path
    addresses: Sequence[str]


def figures() -> Iterator[dict[str, Any]]:
    for mode in ("host-gw", "vxlan"):
        yield from sandbox.run(lambda m=mode: asyncio.run(_measured(m)), user_namespace=True)  # type: ignore[misc]
    yield from _cluster()


async def _measured(mode: Mode) -> Figures:
    lab = Lab()
    networks = [lab.network(n, fit=lambda n=n: lab.fit(n, mode)) for n in (0, 1)]
    for number in (0, 1):
        lab.table(number, mode).apply([node(0), node(1)])
    await networks[0].add(lab.request("a"))
    here = (await networks[0].add(lab.request("b"))).ips
    there = (await networks[1].add(lab.request("c"))).ips
    across = Way(mode, lab.pods["a"], lab.pods["c"], there)
    ways = [_plain(SPACES, PLAIN), across]
    if mode == "host-gw":
        gso = lab.fit(0).gso
        same = Way("same node", lab.pods["a"], lab.pods["b"], here)
        ways[1:1] = [_plain(SPACES, BIG, gso), *_routers(SPACES), same]
    found = [figure for version in (0, 1) for figure in _compared(ways, version)]
    for network in networks:
        await network.close()
    return found


def _cluster() -> Figures:
    name = unique("bench-path")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as manifest:
        json.dump(MANIFEST, manifest)
        manifest.flush()
        options = (
            "--nodes",
            "2",
            "--ip-family",
            "dual",
            "--run",
            "idle=sleep 1000",
            "-f",
            manifest.name,
        )
        with running(name, *options):
            found = state.load(name)
            figures: Figures = inside.call(found, lambda: _in_cluster(found))
            return figures


def _in_cluster(cluster: ClusterState) -> Figures:
    spaces = cluster.run_dir / "bench"
    spaces.mkdir()
    pods = {name: inside.pod_folder(cluster, "default", name) for name in "abc"}

    def way(name: str, target: str) -> Way:
        ips = describe(pods[target])["ips"]
        return Way(name, pods["a"] / "netns", pods[target] / "netns", ips)

    ways = [
        _plain(spaces, PLAIN),
        *_routers(spaces),
        way("same node in a cluster", "b"),
        way("host-gw in a cluster", "c"),
    ]
    return [figure for version in (0, 1) for figure in _compared(ways, version)]


def _compared(ways: Sequence[Way], version: int) -> Iterator[dict[str, Any]]:
    family = f"IPv{(4, 6)[version]}"
    near, far = _cores()
    pinged = [way for way in ways if way.name != BIG]
    yield from _ratios(f"throughput, {family}", _streams(ways, version))
    for place, cores in (("two cores", (near, far)), ("one core", (near, near))):
        found = _round_trips(pinged, version, cores)
        yield from _ratios(f"round trip, {family}, ends on {place}", found)


def _ratios(kind: str, found: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    """Of each round to the plain veth, and to as many routers."""
    more = kind.startswith("throughput")
    unit, scale = ("Gbit/s", 1e-9) if more else ("us", 1e6)

    def against(name: str, other: str) -> list[float]:
        pairs = zip(found[name], found[other], strict=True)
        return [a / b if more else b / a for a, b in pairs]

    for name, values in found.items():
        if name == PLAIN:
            continue
        low, middle, high = statistics.quantiles(against(name, PLAIN))
        line = {
            "figure": f"{kind}, {name}, median of {len(values)} rounds",
            unit: round(statistics.median(values) * scale, 2),
            f"{PLAIN} {unit}": round(statistics.median(found[PLAIN]) * scale, 2),
            "ratio": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
        }
        if other := ROUTERS.get(name):
            line[f"ratio to {other}"] = round(statistics.median(against(name, other)), 3)
        yield line


# -- the other ways --------------------------------------------------------------------------------


def _plain(spaces: Path, name: str, gso: Gso = DEFAULT_GSO) -> Way:
    """Two namespaces with one veth between them and nothing else."""
    number = 0 if gso == DEFAULT_GSO else 10
    first, second = _space(spaces / f"plain{number}"), _space(spaces / f"plain{number + 1}")
    _join(number, first, second, gso)
    return Way(name, first, second, _addresses(number, 2))


def _routers(spaces: Path) -> list[Way]:
    """Two namespaces that forward, with one end at the first's and one end at both's sides."""
    source, near, far = (_space(spaces / f"end{number}") for number in (1, 2, 3))
    first, second = (_space(spaces / name, forwards=True) for name in ("router1", "router2"))
    for number, (one, other) in enumerate(
        ((first, source), (first, near), (second, far), (first, second)), 1
    ):
        _join(number, one, other)
    for number, end in enumerate((source, near, far), 1):
        _lead(end, ("0.0.0.0/0", "::/0"), _addresses(number, 1))
    _lead(first, ("198.18.3.0/24", "2001:db8:3::/64"), _addresses(4, 2))
    _lead(second, ("198.18.1.0/24", "2001:db8:1::/64"), _addresses(4, 1))
    return [
        Way(ONE, source, near, _addresses(2, 2)),
        Way(TWO, source, far, _addresses(3, 2)),
    ]


def _space(path: Path, *, forwards: bool = False) -> Path:
    netns.create(path)
    if forwards:
        with netns.entered(path):
            sysctl.write("net.ipv4.ip_forward", 1)
            sysctl.write("net.ipv6.conf.all.forwarding", 1)
    return path


def _addresses(number: int, end: int) -> tuple[str, str]:
    return f"198.18.{number}.{end}", f"2001:db8:{number}::{end}"


def _join(number: int, first: Path, second: Path, gso: Gso = DEFAULT_GSO) -> None:
    """A veth with an address of each family at both ends, which know each other."""
    name = f"v{number}"
    with netns.opened(second) as fd, RtNetlink(first) as one, RtNetlink(fd) as other:
        one.transact([links.add_veth(name, name, peer_netns=fd, gso=gso)])
        for end, netlink, peer in ((1, one, other), (2, other, one)):
            index, mac = netlink.index(name), peer.link(name).mac
            v4, v6 = _addresses(number, end)
            netlink.transact(
                [
                    *links.bring_up(index),
                    routes.add_address(index, ip_interface(f"{v4}/24")),
                    routes.add_address(index, ip_interface(f"{v6}/64")),
                    *(
                        routes.put_neighbour(index, ip_address(address), mac)
                        for address in _addresses(number, 3 - end)
                    ),
                ]
            )


def _lead(path: Path, destinations: Sequence[str], hops: Sequence[str]) -> None:
    with RtNetlink(path) as netlink:
        for destination, hop in zip(destinations, hops, strict=True):
            route = Route(ip_network(destination), via=ip_address(hop))
            netlink.transact([routes.add_route(route)])


# -- measuring -------------------------------------------------------------------------------------


def _streams(ways: Sequence[Way], version: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(STREAMS):
        for way in ways:
            found[way.name].append(_throughput(way.source, way.target, way.addresses[version]))
    return found


def _throughput(source: Path, target: Path, address: str) -> float:
    """Bits per second that iperf3 gets through one TCP connection."""
    command = ["nsenter", f"--net={target}", "iperf3", "--server", "--one-off", "--bind", address, "--forceflush"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert any(b"listening" in line for line in server.stdout)
        done = subprocess.run(
            [
                *("nsenter", f"--net={source}", "iperf3", "--client", address, "--json"),
                *("--bytes", SENT, "--affinity", "{},{}".format(*_cores())),
            ],
            capture_output=True,
            check=True,
        )  # fmt: skip
        server.wait()
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"])


def _round_trips(
    ways: Sequence[Way], version: int, cores: tuple[int, int]
) -> dict[str, list[float]]:
    """Median seconds of each turn for one byte there and back, by UDP between two processes."""
    near, far = cores
    everywhere = os.sched_getaffinity(0)
    echoes, clients = [], []
    for way in ways:
        client, served = _connected(way, version)
        echoes.append(process.fork_into(lambda s=served: _echo(s, far), keep_fds=[served.fileno()]))  # type: ignore[misc]
        served.close()
        clients.append(client)
    os.sched_setaffinity(0, {near})
    found: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(TURNS):
        for way, client in zip(ways, clients, strict=True):
            found[way.name].append(statistics.median(_ping(client) for _ in range(PINGS)))
    os.sched_setaffinity(0, everywhere)
    for echo, client in zip(echoes, clients, strict=True):
        echo.kill()
        echo.wait_blocking()
        client.close()
    return found


def _connected(way: Way, version: int) -> tuple[socket.socket, socket.socket]:
    family = (socket.AF_INET, socket.AF_INET6)[version]
    served = netns.socket_in(way.target, family, socket.SOCK_DGRAM)
    client = netns.socket_in(way.source, family, socket.SOCK_DGRAM)
    served.bind((way.addresses[version], 0))
    client.connect(served.getsockname()[:2])
    client.settimeout(5)
    return client, served


def _ping(client: socket.socket) -> float:
    began = time.perf_counter()
    client.send(b"x")
    client.recv(1)
    return time.perf_counter() - began


def _cores() -> tuple[int, int]:
    """Always the same: where the scheduler puts the ends counts more than the way."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def _echo(served: socket.socket, core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        data, sender = served.recvfrom(1)
        served.sendto(data, sender)
