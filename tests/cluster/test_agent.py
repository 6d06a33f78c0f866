"""The agent of a node whose kubelet is another one: what its plugins answer follows from the API."""

import asyncio
from contextlib import suppress
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from cni.runtime import BIN, SOCKET, Runtime
from kubewire.api.core import Node
from kubewire.api.meta import JSON
from kubewire.api.resources import NODES
from kubewire.client.informer import Informer
from kubewire.cluster.node import AgentOptions, run_agent
from kubewire.cluster.podnetwork import NodeNetwork
from kubewire.cni import install
from kubewire.cni.blocks import ANNOTATION
from kubewire.cni.config import Fit
from kubewire.cni.routes import Mode
from kubewire.kernel import links, namespaces, netns, routes
from kubewire.kernel.links import Gso
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.testing.fakeapi import FakeApi

pytestmark = pytest.mark.kernel

MAIN: dict[str, Any] = {"type": "kubewire-cni", "ipam": {"type": "kubewire-ipam"}}


def obj(kind: str, name: str, namespace: str = "", **more: Any) -> JSON:
    annotations = more.pop("annotations", {})
    meta = {"name": name, "annotations": annotations} | ({"namespace": namespace} if namespace else {})  # fmt: skip
    return {"apiVersion": "v1", "kind": kind, "metadata": meta, **more}


OBJECTS = (
    obj(
        "Node",
        "n0",
        spec={"podCIDRs": ["10.244.0.0/24"]},
        status={"addresses": [{"type": "InternalIP", "address": "172.30.0.10"}]},
    ),
    obj("ConfigMap", "kubewire-ip-pools", "kube-system", data={"blue": "cidrs: [10.244.200.0/24]"}),
    obj("Namespace", "default"),
    obj("Namespace", "team", annotations={"kubewire.dev/ip-pool": "blue"}),
    obj("Pod", "static", "default", annotations={"kubewire.dev/ip": "10.244.0.77"}),
    obj("Pod", "in-pool", "team"),
)


def underlay() -> Gso:
    """The device with the node's own address; pods follow it. Its largest packets for TCP."""
    with RtNetlink() as netlink:
        netlink.transact([links.add_veth("eth0", "eth0-end", mtu=1400, gso=Gso(100_000, 90_000))])
        index = netlink.index("eth0")
        address = routes.add_address(index, ip_interface("172.30.0.10/16"))
        netlink.transact([*links.bring_up("eth0-end"), *links.bring_up(index), address])
        return netlink.link(index).gso


async def test_an_mtu_that_is_said_needs_no_device() -> None:
    """As where another machine has the node's address, and translates it."""
    api = FakeApi(*OBJECTS)
    nodes = Informer(api.client(), NODES, Node)
    task = asyncio.create_task(nodes.run())
    await nodes.wait_synced()
    said, found = (
        NodeNetwork(api.client(), "n0", nodes, "vxlan", (), vni=1, port=8472, mtu=mtu)
        for mtu in (1300, 0)
    )
    assert said.fit() == Fit(1300)
    with pytest.raises(LookupError, match=r"no device of this node has the address 172.30.0.10"):
        found.fit()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("way", "mtu", "is_plain"), [("vxlan", 1350, False), ("host-gw", 1400, True)]
)
async def test_addresses_pools_and_sizes_follow_from_the_api(
    way: Mode, mtu: int, is_plain: bool
) -> None:
    namespaces.mount_tmpfs("/var/lib")
    known = underlay()
    install.install_programs(BIN, socket=SOCKET)
    api = FakeApi(*OBJECTS)
    options = AgentOptions(socket=SOCKET, pod_network=way, service_proxy=False, network_policy=False)  # fmt: skip
    agent = asyncio.create_task(run_agent(api.client(), "n0", options))
    runtime = Runtime([MAIN], [BIN])

    async def add(namespace: str, name: str) -> JSON:
        netns.create(Path(f"/run/netns/{name}"))
        args = f"K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"
        config = runtime.config(MAIN, None)
        done = await asyncio.to_thread(runtime.call, "ADD", config, name, CNI_ARGS=args)
        assert done.status == 0, done.answer
        return done.answer

    await api.until(SOCKET.exists)
    assert (await add("default", "static"))["ips"][0]["address"] == "10.244.0.77/32"
    assert (await add("team", "in-pool"))["ips"][0]["address"] == "10.244.200.0/32"
    assert (await add("default", "no-such-pod"))["ips"][0]["address"] == "10.244.0.2/32"
    with RtNetlink(Path("/run/netns/static")) as pod:
        found = pod.link("eth0")
        assert found.mtu == mtu
        # A kernel before 6.3 says nothing of large IPv4 packets; IPv6 has them in sandboxes only.
        assert found.gso == Gso(known.v4 if is_plain else known.v4 and 65536, 65536)
    node = api.get(NODES, "n0")
    assert node is not None
    assert node["metadata"]["annotations"][ANNOTATION] == '{"blue":["10.244.200.0/26"]}'
    agent.cancel()
    with suppress(asyncio.CancelledError):
        await agent
