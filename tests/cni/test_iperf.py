"""iperf3 between pods: traffic of some length passes, on one node and across, in both families."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cni.lab import Lab, node

pytestmark = [pytest.mark.kernel, pytest.mark.tool("iperf3", "nsenter")]

BYTES = 4 << 20


@contextmanager
def server(lab: Lab, pod: str, address: str) -> Iterator[None]:
    command = ["iperf3", "--server", "--one-off", "--bind", address, "--forceflush"]
    with subprocess.Popen(
        ["nsenter", f"--net={lab.pods[pod]}", *command], stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        # The first of its lines that says so means that a connection will be accepted.
        assert any(b"listening" in line for line in running.stdout)
        yield
        running.kill()


def stream(lab: Lab, source: str, target: str, address: str) -> None:
    """All was sent and some of it was counted; the receiver stops counting when the sender ends.

    The sender ends with the block in which it reaches the number, and not every write takes a whole one.
    """
    with server(lab, target, address):
        command = ["iperf3", "--client", address, "--bytes", str(BYTES), "--json"]
        done = subprocess.run(
            ["nsenter", f"--net={lab.pods[source]}", *command], capture_output=True, check=False
        )
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    sent, received = (found["end"][f"sum_{way}"]["bytes"] for way in ("sent", "received"))
    assert sent >= BYTES, found
    assert 0 < received <= sent, found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["same node", "host-gw", "vxlan"])
async def test_traffic_passes(lab: Lab, way: str, version: int) -> None:
    networks = [lab.network(0), lab.network(1)]
    await networks[0].add(lab.request("a"))
    other = networks[0 if way == "same node" else 1]
    target = await other.add(lab.request("b"))
    if way != "same node":
        for number in (0, 1):
            lab.table(number, way).apply([node(0), node(1)])
    stream(lab, "a", "b", target.ips[0 if version == 4 else 1])
    for network in networks:
        await network.close()
