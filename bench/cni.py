"""The plugins as a runtime executes them, and what pods get through their cables.

Peers, in the same run: the reference ``bridge`` with ``host-local`` for ADD and DEL, and two plain
namespaces joined by one veth for throughput and round trips.
"""

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from cni.lab import Lab, node
from cni.runtime import BIN, REFERENCE, SOCKET, Runtime, agent
from kubewire.cni import install
from kubewire.kernel import links, namespaces, netns, process, routes, sandbox
from kubewire.kernel.rtnetlink import RtNetlink

CALLS = 50
PARALLEL = 40
SEQUENCE = 1000
ROUNDS = 9
SENT = "200M"
PINGS = 2000

OURS = {"type": "kubewire-cni", "ipam": {"type": "kubewire-ipam", "subnet": "10.1.0.0/16"}}
THEIRS = {
    "type": "bridge",
    "bridge": "br0",
    "isGateway": True,
    "ipam": {"type": "host-local", "subnet": "10.2.0.0/16"},
}
DUAL = {
    "type": "kubewire-cni",
    "ipam": {
        "type": "kubewire-ipam",
        "ranges": [[{"subnet": "10.1.0.0/16"}], [{"subnet": "fd00:1::/64"}]],
    },
}
Figures = list[dict[str, Any]]


def figures() -> Iterator[dict[str, Any]]:
    for part in (_calls, _parallel, _sequence, _dual_sequence, _reference_sequence, _traffic):
        yield from sandbox.run(part, user_namespace=True)  # type: ignore[misc]


# -- calls -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _installed() -> Iterator[tuple[Runtime, int]]:
    namespaces.mount_tmpfs("/var/lib")
    install.install_programs(BIN, socket=SOCKET)
    with agent() as child:
        yield Runtime([OURS], [BIN]), child.pid


def _timed(
    runtime: Runtime, command: str, container: str, previous: Any = None
) -> tuple[float, Any]:
    config = runtime.config(runtime.plugins[0], previous)
    began = time.perf_counter()
    done = runtime.call(command, config, container)
    seconds = time.perf_counter() - began
    assert done.status == 0, done.answer
    return seconds, done.answer


def _calls() -> Figures:
    with _installed() as (ours, _):
        theirs = Runtime([THEIRS], [REFERENCE], name="reference")
        taken: dict[str, list[float]] = {}
        for number in range(CALLS):
            for name, runtime in (("kubewire", ours), ("bridge", theirs)):
                container = f"{name}{number}"
                netns.create(Path(f"/run/netns/{container}"))
                seconds, result = _timed(runtime, "ADD", container)
                taken.setdefault(f"{name} ADD", []).append(seconds)
                seconds, _ = _timed(runtime, "DEL", container, result)
                taken.setdefault(f"{name} DEL", []).append(seconds)
    found = {name: statistics.median(values) for name, values in taken.items()}
    return [
        {
            "figure": f"{command}, median of {CALLS}",
            "ms": round(found[f"kubewire {command}"] * 1000, 2),
            "bridge + host-local ms": round(found[f"bridge {command}"] * 1000, 2),
            "ratio": round(found[f"kubewire {command}"] / found[f"bridge {command}"], 3),
        }
        for command in ("ADD", "DEL")
    ]


def _parallel() -> Figures:
    with _installed() as (ours, _):
        theirs = Runtime([THEIRS], [REFERENCE], name="reference")
        seconds = {}
        for name, runtime in (("kubewire", ours), ("bridge", theirs)):
            spaces = [f"{name}{number}" for number in range(PARALLEL)]
            for space in spaces:
                netns.create(Path(f"/run/netns/{space}"))
            began = time.perf_counter()
            children = [
                process.fork_into(lambda s=space, r=runtime: sys.exit(_status(r, s)))  # type: ignore[misc]
                for space in spaces
            ]
            assert [child.wait_blocking() for child in children] == [0] * PARALLEL
            seconds[name] = time.perf_counter() - began
    return [
        {
            "figure": f"{PARALLEL} parallel ADDs",
            "ms": round(seconds["kubewire"] * 1000),
            "bridge + host-local ms": round(seconds["bridge"] * 1000),
            "ratio": round(seconds["kubewire"] / seconds["bridge"], 3),
        }
    ]


def _status(runtime: Runtime, container: str) -> int:
    return runtime.call("ADD", runtime.config(runtime.plugins[0], None), container).status


def _sequence() -> Figures:
    return _grown("ADDs in sequence", OURS)


def _dual_sequence() -> Figures:
    return _grown("dual-stack ADDs in sequence", DUAL)


def _grown(title: str, plugin: dict[str, Any]) -> Figures:
    with _installed() as (ours, agent_pid):
        ours.plugins = [plugin]
        taken, used = _filled(ours, lambda: _cpu(agent_pid))
    first, last = _ends(taken)
    early, late = ((used[end] - used[end - 99]) / 99 * 1000 for end in (99, SEQUENCE - 1))
    return [
        {
            "figure": f"{SEQUENCE} {title}",
            "first hundred ms": round(first, 2),
            "last hundred ms": round(last, 2),
            "ratio": round(last / first, 3),
            "first hundred agent CPU ms": round(early, 2),
            "last hundred agent CPU ms": round(late, 2),
            "CPU ratio": round(late / early, 3),
        }
    ]


def _reference_sequence() -> Figures:
    namespaces.mount_tmpfs("/var/lib")
    taken, _ = _filled(Runtime([THEIRS], [REFERENCE], name="reference"), float)
    first, last = _ends(taken)
    return [
        {
            "figure": f"{SEQUENCE} ADDs in sequence, bridge + host-local",
            "first hundred ms": round(first, 2),
            "last hundred ms": round(last, 2),
            "ratio": round(last / first, 3),
        }
    ]


def _filled(runtime: Runtime, used: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Seconds of each ADD, and what ``used`` says after it."""
    taken, after = [], []
    for number in range(SEQUENCE):
        netns.create(Path(f"/run/netns/c{number}"))
        taken.append(_timed(runtime, "ADD", f"c{number}")[0])
        after.append(used())
    return taken, after


def _ends(taken: list[float]) -> tuple[float, float]:
    """Milliseconds at the start and at the end: lower quartiles, so that neighbours do not count."""
    first, last = (statistics.quantiles(part)[0] * 1000 for part in (taken[:100], taken[-100:]))
    return first, last


def _cpu(pid: int) -> float:
    """Seconds that a process has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


# -- traffic ---------------------------------------------------------------------------------------


def _traffic() -> Figures:
    return asyncio.run(_measure())


async def _measure() -> Figures:
    _plain()
    lab = Lab()
    networks = [lab.network(0), lab.network(1)]
    await networks[0].add(lab.request("a"))
    pairs = {"same node": ("a", (await networks[0].add(lab.request("b"))).ips)}
    far = (await networks[1].add(lab.request("c"))).ips
    tables: dict[str, Any] = {}
    found: dict[tuple[str, str], list[float]] = {}
    ways: list[tuple[str, Path, Path, str]] = []
    plain = (Path("/run/netns/plain0"), Path("/run/netns/plain1"))
    for version in (0, 1):
        family = f"IPv{(4, 6)[version]}"
        ways = [
            ("plain", *plain, ("192.0.2.2", "2001:db8::2")[version]),
            ("same node", lab.pods["a"], lab.pods["b"], pairs["same node"][1][version]),
            ("host-gw", lab.pods["a"], lab.pods["c"], far[version]),
            ("vxlan", lab.pods["a"], lab.pods["c"], far[version]),
        ]
        for _ in range(ROUNDS):
            for name, source, target, address in ways:
                if name in ("host-gw", "vxlan") and tables.get("now") != name:
                    for number in (0, 1):
                        lab.table(number, name).apply([node(0), node(1)])
                    tables["now"] = name
                for kind, measure in (("throughput", _throughput), ("round trip", _round_trip)):
                    value = measure(source, target, address)
                    found.setdefault((f"{kind}, {family}", name), []).append(value)
    for network in networks:
        await network.close()
    return list(_compared(found))


def _compared(found: dict[tuple[str, str], list[float]]) -> Iterator[dict[str, Any]]:
    """Each round is a ratio to the plain cable a second before: neighbours slow both alike."""
    for (kind, name), values in found.items():
        if name == "plain":
            continue
        plain = found[(kind, "plain")]
        more = kind.startswith("throughput")
        pairs = zip(values, plain, strict=True)
        ratios = [ours / theirs if more else theirs / ours for ours, theirs in pairs]
        low, middle, high = statistics.quantiles(ratios)
        unit, scale = ("Gbit/s", 1e-9) if more else ("us", 1e6)
        yield {
            "figure": f"{kind}, {name}, median of {len(ratios)} rounds",
            unit: round(statistics.median(values) * scale, 2),
            f"plain veth {unit}": round(statistics.median(plain) * scale, 2),
            "ratio": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
        }


def _plain() -> None:
    """Two namespaces with one veth between them and nothing else."""
    for number in (0, 1):
        netns.create(Path(f"/run/netns/plain{number}"))
    with netns.opened("/run/netns/plain1") as fd, RtNetlink("/run/netns/plain0") as first:
        first.transact([links.add_veth("eth0", "eth0", peer_netns=fd)])
        for number, netlink in ((0, first), (1, RtNetlink(fd))):
            index = netlink.index("eth0")
            netlink.transact(
                [
                    links.set_link(index, up=True, no_autoconf=True),
                    routes.add_address(index, ip_interface(f"192.0.2.{number + 1}/24")),
                    routes.add_address(index, ip_interface(f"2001:db8::{number + 1}/64")),
                ]
            )


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


def _round_trip(source: Path, target: Path, address: str) -> float:
    """Median seconds for one byte there and back, by UDP; each end is a process with its own core."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    with (
        netns.socket_in(target, family, socket.SOCK_DGRAM) as there,
        netns.socket_in(source, family, socket.SOCK_DGRAM) as here,
    ):
        there.bind((address, 0))
        near, far = _cores()
        echo = process.fork_into(lambda: _echo(there, far), keep_fds=[there.fileno()])
        everywhere = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {near})
        here.connect(there.getsockname()[:2])
        here.settimeout(5)
        taken = []
        for _ in range(PINGS):
            began = time.perf_counter()
            here.send(b"x")
            here.recv(1)
            taken.append(time.perf_counter() - began)
        os.sched_setaffinity(0, everywhere)
        echo.kill()
        echo.wait_blocking()
    return statistics.median(taken)


def _cores() -> tuple[int, int]:
    """Of the two ends, always the same: where the scheduler puts them counts more than the way."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def _echo(served: socket.socket, core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        data, sender = served.recvfrom(1)
        served.sendto(data, sender)


if __name__ == "__main__":
    for line in figures():
        print(json.dumps(line))
