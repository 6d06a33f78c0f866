"""One node: kubelet, pod network, kube-proxy and NetworkPolicy in one event loop.

The components do not know each other; this module fills the seams between them. It runs in the
node's network namespace, with the credentials of the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from kubewire.api.core import Node
from kubewire.api.meta import Key
from kubewire.api.resources import NODES
from kubewire.client.informer import Informer
from kubewire.client.loop import Loop
from kubewire.client.rest import Client
from kubewire.cluster.addons import DNS_IMAGE, INGRESS_IMAGE
from kubewire.cluster.addresses import networks
from kubewire.cluster.options import DOMAIN, Options
from kubewire.cni import egress
from kubewire.cni import network as cni
from kubewire.cni.ipam import IpamError, Network
from kubewire.cni.plugin import Plugin
from kubewire.cni.routes import Mode, judged, pod_mtu
from kubewire.cni.routing import NodeRoutes, RouteTable, underlay_mtu
from kubewire.cni.server import Server
from kubewire.dns import run as dns
from kubewire.ingress import run as ingress
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubelet import network as kubelet_network
from kubewire.kubelet.agent import Kubelet
from kubewire.kubelet.files import Resolver
from kubewire.kubelet.runtime import BuiltinPod
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.controller import KubeProxy
from kubewire.networkpolicy import backends as policy_backends
from kubewire.networkpolicy.controller import PolicyAgent


class NodeNetwork:
    """What the pod network of a node follows from: its Node, those of others, and the way to them."""

    def __init__(
        self,
        client: Client,
        node: str,
        nodes: Informer[Node],
        mode: Mode,
        cluster: Sequence[Network],
    ) -> None:
        self._node = node
        self._nodes = nodes
        self._mode = mode
        self._cluster = cluster
        table = RouteTable(node, mode, cluster=cluster)

        async def annotate(name: str, value: str) -> None:
            await client.patch(NODES, node, {"metadata": {"annotations": {name: value}}})

        reconcile = NodeRoutes(table, nodes, annotate).reconcile
        self.routes = Loop(f"pod-network/{node}", [nodes], reconcile)

    def pod_cidrs(self) -> tuple[str, ...]:
        """The node's own ranges; IpamError if one is not the cluster's."""
        node = self._own()
        for _, fault in judged(node, self._cluster) if node else ():
            if fault:
                raise IpamError(fault)
        return node.pod_cidrs if node else ()

    def mtu(self) -> int:
        """The largest packet of a pod that fits the way to every other node; 0: not known yet."""
        node = self._own()
        if node is None or not node.internal_ips:
            return 0
        outer = ip_address(node.internal_ips[0])
        with RtNetlink() as netlink:
            return pod_mtu(self._mode, underlay_mtu(netlink, outer), version=outer.version)

    def _own(self) -> Node | None:
        return self._nodes.store.get(Key("", self._node))


class PodNetwork:
    """The kubelet's view of the CNI room; ready once the node has its podCIDRs."""

    def __init__(self, node: str, run_dir: Path, network: NodeNetwork, mtu: int) -> None:
        self._node = node
        self._mtu = mtu
        self._run_dir = run_dir
        self._network_of_node = network
        self._opened: cni.PodNetwork | None = None

    async def add(self, request: kubelet_network.PodRequest) -> kubelet_network.PodResult:
        """Wire a pod."""
        try:
            result = await self._network().add(
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
            raise kubelet_network.NetworkError(str(error)) from error
        return kubelet_network.PodResult(ips=result.ips)

    async def remove(self, uid: str) -> None:
        """Undo it."""
        await self._network().remove(uid)

    def _network(self) -> cni.PodNetwork:
        if self._opened is None:
            try:
                cidrs = self._network_of_node.pod_cidrs()
            except IpamError as error:
                raise kubelet_network.NetworkError(str(error)) from error
            if not cidrs:
                raise kubelet_network.NetworkError(f"node {self._node} has no podCIDR yet")
            mtu = self._mtu or self._network_of_node.mtu()
            self._opened = cni.PodNetwork(self._node, self._run_dir, cidrs, mtu=mtu)
        return self._opened


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What the agent of a node is told, whose kubelet is another one."""

    socket: Path
    """Where the CNI plugins find it."""
    pod_network: Mode
    cluster_cidrs: tuple[Network, ...] = ()
    """Where pods are: podCIDRs outside are refused, and packets to it keep their source."""
    mtu: int = 0
    """Of pods; 0: what fits the way between nodes."""
    masquerade: bool = True
    non_masquerade_cidrs: tuple[Network, ...] = ()
    service_proxy: bool = True
    network_policy: bool = True
    policy_backend: policy_backends.Backend = "nftables"


async def run_agent(client: Client, name: str, options: AgentOptions) -> None:
    """Run it for ever: CNI calls, routes, Services, policies."""
    nodes: Informer[Node] = Informer(client, NODES, Node, agent=f"pod-network/{name}")
    network = NodeNetwork(client, name, nodes, options.pod_network, options.cluster_cidrs)
    own = Key("", name)
    plugin = Plugin(network.pod_cidrs)
    server = Server(plugin, options.socket)
    if options.masquerade and options.cluster_cidrs:
        egress.apply(options.cluster_cidrs, options.non_masquerade_cidrs)
    async with asyncio.TaskGroup() as group:
        group.create_task(nodes.run(), name="nodes")
        group.create_task(network.routes.run(), name="routes")
        if options.network_policy:
            enforcer = policy_backends.enforcer(options.policy_backend)
            policies = PolicyAgent(client, name, enforcer)
            group.create_task(policies.run(), name="networkpolicy")
        await nodes.wait_synced()
        if options.service_proxy:
            ips = nodes.store[own].internal_ips if own in nodes.store else ()
            config = Config(cluster_cidrs=tuple(map(str, options.cluster_cidrs)))
            proxy = KubeProxy(client, name, ips, config)
            group.create_task(proxy.run(), name="kube-proxy")
        await server.start()


async def run_node(client: Client, options: Options, index: int, run_dir: Path) -> None:
    """Run everything that a node runs, for ever; ``run_dir`` is the cluster's tmpfs."""
    name = options.node_names[index]
    folder = run_dir / "nodes" / name
    nodes: Informer[Node] = Informer(client, NODES, Node, agent=f"pod-network/{name}")
    pods = options.addresses.pods
    network = NodeNetwork(client, name, nodes, options.pod_network, pods)
    egress.apply(pods, networks("--non-masquerade-cidr", options.non_masquerade_cidr))
    enforcer = policy_backends.enforcer(options.policy_backend)
    policies = PolicyAgent(client, name, enforcer, strict=options.policy_strict)
    kubelet = Kubelet(
        client,
        name,
        options.node_ips(index),
        folder,
        PodNetwork(name, folder, network, options.mtu),
        policies,
        node_netns=run_dir / "netns" / name,
        builtins={DNS_IMAGE: _dns, INGRESS_IMAGE: _ingress},
        images=options.images,
        # The first family's only, as kubeadm has it: a pod may add two more nameservers (of three).
        cluster_dns=options.dns_ips[:1],
        cluster_domain=DOMAIN,
        # The way out of the sandbox refuses at once: a query for a foreign name fails quickly.
        host_resolver=Resolver(nameservers=options.gateways),
    )
    async with asyncio.TaskGroup() as group:
        if options.proxy_mode != "none":
            proxy = KubeProxy(
                client,
                name,
                options.node_ips(index),
                Config(
                    mode=options.proxy_mode,
                    cluster_cidrs=options.addresses.cluster_cidrs,
                    run_dir=str(folder / "kube-proxy"),
                ),
                service_cidrs=options.addresses.service_cidrs,
            )
            group.create_task(proxy.run(), name="kube-proxy")
        group.create_task(policies.run(), name="networkpolicy")
        group.create_task(nodes.run(), name="nodes")
        group.create_task(network.routes.run(), name="routes")
        group.create_task(kubelet.run(), name="kubelet")


def _dns(pod: BuiltinPod) -> None:
    raise SystemExit(dns.run(pod.args[pod.args.index("--conf") + 1], agent=f"dns/{pod.name}"))


def _ingress(pod: BuiltinPod) -> None:
    raise SystemExit(ingress.run(agent=f"ingress/{pod.name}"))
