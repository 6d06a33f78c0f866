"""A node's pod network: what it follows from, and how the kubelet uses it.

The kubelet and the CNI room do not know each other; `PodNetwork` fills the kubelet's seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kubewire.api.core import Node
from kubewire.api.meta import Key
from kubewire.api.resources import NODES
from kubewire.client.informer import Informer
from kubewire.client.loop import Loop
from kubewire.client.rest import Client
from kubewire.cluster.ippools import IpPools
from kubewire.cni import install
from kubewire.cni import network as cni
from kubewire.cni.config import Fit
from kubewire.cni.ipam import Address, Network
from kubewire.cni.routes import Mode, addresses, fit
from kubewire.cni.routing import NodeRoutes, RouteTable, underlay
from kubewire.cni.server import Server
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubelet import network as kubelet

PROGRAMS = "cni-bin"
"""Folder of the plugins within the cluster's tmpfs, for ``--cni exec``."""


def install_programs(run_dir: Path) -> None:
    """Install the plugins once for all nodes: each finds the agent by the folder it is run in."""
    install.install_programs(run_dir / PROGRAMS, socket=Path(cni.SOCKET))


class NodeNetwork:
    """What the pod network of a node follows from: its Node, those of others, the way to them."""

    def __init__(
        self,
        client: Client,
        node: str,
        nodes: Informer[Node],
        mode: Mode,
        cluster: Sequence[Network],
        *,
        vni: int,
        port: int,
        mtu: int = 0,
    ) -> None:
        self.node = node
        self._nodes = nodes
        self._mode = mode
        self._mtu = mtu

        async def annotate(name: str, value: str) -> None:
            await client.patch(NODES, node, {"metadata": {"annotations": {name: value}}})

        table = RouteTable(node, mode, cluster=cluster, vni=vni, port=port)
        reconcile = NodeRoutes(table, nodes, annotate).reconcile
        self.pools = IpPools(client, node, nodes)
        # Pools have nothing to be applied to; but who waits for a sync waits for them, too.
        self.routes = Loop(f"pod-network/{node}", [nodes, self.pools.config], reconcile)

    def pod_cidrs(self) -> tuple[str, ...]:
        """The node's own ranges; none before the controllers have given it some."""
        node = self._own()
        return node.pod_cidrs if node else ()

    def fit(self) -> Fit:
        """What a pod may send so that it fits the way to every other node."""
        node = self._own()
        held = addresses(node) if node else []
        if not held:
            return Fit(self._mtu)
        outer = held[0]
        try:
            with RtNetlink() as netlink:
                found = fit(self._mode, underlay(netlink, outer), version=outer.version)
        except LookupError:
            if not self._mtu:
                raise
            return Fit(self._mtu)
        return found.at(self._mtu)

    def _own(self) -> Node | None:
        return self._nodes.store.get(Key("", self.node))


class PodNetwork:
    """The kubelet's view of the CNI room; ready once the node has its podCIDRs."""

    def __init__(
        self,
        folder: Path,
        network: NodeNetwork,
        cluster: Sequence[Network],
        *,
        programs: Path | None = None,
    ) -> None:
        self._of_node = network
        self._pods = cni.PodNetwork(
            folder,
            network.pod_cidrs,
            cluster_cidrs=tuple(map(str, cluster)),
            fit=network.fit,
            programs=programs,
            pools=network.pools,
        )
        self._server = Server(self._pods.plugin, self._pods.socket) if programs else None

    def in_use(self) -> set[Address]:
        """Every address that a pod has."""
        return self._pods.plugin.in_use()

    async def start(self) -> None:
        """Answer the programs, if such are executed."""
        if self._server:
            await self._server.start()

    async def add(self, request: kubelet.PodRequest) -> kubelet.PodResult:
        """Wire a pod."""
        if not self._of_node.pod_cidrs():
            raise kubelet.NetworkError(f"node {self._of_node.node} has no podCIDR yet")
        try:
            result = await self._pods.add(
                cni.PodRequest(
                    uid=request.uid,
                    namespace=request.namespace,
                    name=request.name,
                    netns=request.netns,
                    annotations=request.annotations,
                    ports=[
                        cni.PodPort(
                            host_port=p.host_port,
                            container_port=p.container_port,
                            protocol=p.protocol,
                            host_ip=p.host_ip,
                        )
                        for p in request.ports
                        if p.host_port
                    ],
                )
            )
        except cni.PodNetworkError as error:
            raise kubelet.NetworkError(str(error)) from error
        return kubelet.PodResult(ips=result.ips)

    async def remove(self, uid: str) -> None:
        """Undo it."""
        try:
            await self._pods.remove(uid)
        except cni.PodNetworkError as error:
            raise kubelet.NetworkError(str(error)) from error
