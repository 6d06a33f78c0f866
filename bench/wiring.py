"""Connecting pods to one node: network namespace, veth, address, routes; in one process.

Peer: the same by forking ``ip`` for every step, as a shell script would.
"""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubewire.cni.network import PodNetwork, PodRequest
from kubewire.kernel import netns, sandbox

PODS = 400
PEER_PODS = 60


def figures() -> Iterator[dict[str, Any]]:
    for figure, count, work in (
        ("kubewire", PODS, _ours),
        ("ip, a process a step", PEER_PODS, _theirs),
    ):
        seconds = sandbox.run(work)
        assert isinstance(seconds, float)
        yield {"figure": figure, "unit": "pods/s", "value": round(count / seconds, 1)}


def _ours() -> float:
    async def wire(folder: Path) -> float:
        network = PodNetwork(folder, lambda: ["10.244.0.0/16"])
        began = time.perf_counter()
        for number in range(PODS):
            path = Path(f"/run/netns/p{number}")
            netns.create(path)
            await network.add(
                PodRequest(uid=f"uid-{number}", namespace="n", name=f"p{number}", netns=path)
            )
        return time.perf_counter() - began

    with tempfile.TemporaryDirectory(dir="/run") as folder:
        return asyncio.run(wire(Path(folder)))


def _theirs() -> float:
    began = time.perf_counter()
    for number in range(PEER_PODS):
        space, address = f"p{number}", f"10.244.{number >> 8}.{number & 255}"
        for command in (
            f"ip netns add {space}",
            f"ip link add v{number} type veth peer name eth0 netns {space}",
            f"ip link set v{number} up",
            f"ip route add {address}/32 dev v{number}",
            f"ip -n {space} address add {address}/32 dev eth0",
            f"ip -n {space} link set eth0 up",
            f"ip -n {space} route add default via 169.254.1.1 dev eth0 onlink",
        ):
            subprocess.run(command.split(), check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    for line in figures():
        print(line)
