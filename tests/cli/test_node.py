"""``kubewire node`` beside ``kubewire apiserver``: two parts by themselves, in one sandbox."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_interface
from pathlib import Path

import pytest

from kubewire.api.resources import NODES
from kubewire.client.rest import Client
from kubewire.kernel import links, routes, wireguard
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kernel.rtnetlink import RtNetlink

pytestmark = pytest.mark.kernel

KUBEWIRE = [sys.executable, "-m", "kubewire"]


def until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for a process to do something; the test's timeout bounds it."""
    while not holds():
        assert process.poll() is None
        os.sched_yield()


def node(name: str, address: str, cidr: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


async def test_the_agent_leads_to_the_other_nodes_and_answers_cni(tmp_path: Path) -> None:
    kubeconfig, calls = tmp_path / "kubeconfig", tmp_path / "cni.sock"
    with RtNetlink() as netlink:
        netlink.transact([links.add_veth("up0", "up1")])
        address = routes.add_address(netlink.index("up0"), ip_interface("192.0.2.1/24"))
        netlink.transact([address, links.set_link("up0", up=True), links.set_link("up1", up=True)])
    server = subprocess.Popen(
        [*KUBEWIRE, "apiserver", "--port", "0", "--kubeconfig-out", str(kubeconfig)],
        stdout=subprocess.DEVNULL,
    )
    try:
        until(kubeconfig.exists, server)
        async with Client.from_kubeconfig(kubeconfig) as client:
            await client.create(NODES, node("a", "192.0.2.1", "10.244.0.0/24"))
            await client.create(NODES, node("b", "192.0.2.2", "10.244.1.0/24"))
            await client.create(NODES, node("thief", "192.0.2.3", "10.96.0.0/24"))
        agent = subprocess.Popen(
            [
                *KUBEWIRE,
                "node",
                "--kubeconfig",
                str(kubeconfig),
                "--node-name",
                "a",
                "--pod-network",
                "host-gw",
                "--cluster-cidr",
                "10.244.0.0/16",
                "--non-masquerade-cidr",
                "192.0.2.0/24",
                "--cni-socket",
                str(calls),
            ]
        )
        try:
            until(calls.exists, agent)
            with RtNetlink() as netlink:
                until(
                    lambda: "10.244.1.0/24" in {str(r.destination) for r in netlink.routes()}, agent
                )
                destinations = {str(r.destination) for r in netlink.routes()}
                assert "10.96.0.0/24" not in destinations
            with Nfnetlink() as nftables:
                assert "kubewire-masquerade" in nftables.tables()
            with socket.socket(socket.AF_UNIX) as call:
                call.connect(str(calls))
        finally:
            agent.kill()
            agent.wait()
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("command", ["up", "node"])
def test_a_kernel_without_wireguard_is_told_in_one_line(command: str, tmp_path: Path) -> None:
    if wireguard.available():
        return
    environment = os.environ | {"KUBEWIRE_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [*KUBEWIRE, command, "--pod-network", "wireguard"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("wireguard: this kernel has no WireGuard devices")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()
