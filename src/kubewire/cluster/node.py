"""One node: kubelet, pod network, kube-proxy and NetworkPolicy in one event loop.

The components do not know each other; this module fills the seams between them. It runs in the
node's network namespace, with the credentials of the node.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from pathlib import Path

from kubewire.api.core import Node
from kubewire.api.meta import Key
from kubewire.api.resources import NODES
from kubewire.client.informer import Informer
from kubewire.client.loop import Loop
from kubewire.client.rest import Client
from kubewire.cluster.addons import DNS_IMAGE, INGRESS_IMAGE
from kubewire.cluster.options import DOMAIN, Options
from kubewire.cni import network as cni
from kubewire.cni.plugin import Plugin
from kubewire.cni.routes import Mode, pod_mtu
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
from kubewire.networkpolicy.controller import PolicyAgent
from kubewire.networkpolicy.netfilter import Netfilter


class PodNetwork:
    """The kubelet's view of the CNI room; ready once the node has its podCIDRs."""

    def __init__(self, node: str, run_dir: Path, nodes: Informer[Node], mtu: int) -> None:
        self._node = node
        self._mtu = mtu
        self._run_dir = run_dir
        self._nodes = nodes
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
            node = self._nodes.store.get(Key("", self._node))
            if node is None or not node.pod_cidrs:
                raise kubelet_network.NetworkError(f"node {self._node} has no podCIDR yet")
            self._opened = cni.PodNetwork(self._node, self._run_dir, node.pod_cidrs, mtu=self._mtu)
        return self._opened


async def run_agent(
    client: Client,
    name: str,
    *,
    socket: Path,
    pod_network: Mode,
    cluster_cidrs: tuple[str, ...],
    service_proxy: bool,
    network_policy: bool,
) -> None:
    """The agent of a node whose kubelet is another one: CNI calls, routes, Services, policies."""
    agent = f"pod-network/{name}"
    nodes: Informer[Node] = Informer(client, NODES, Node, agent=agent)
    table = RouteTable(name, pod_network)
    routes = Loop(agent, [nodes], NodeRoutes(table, nodes).reconcile)
    own = Key("", name)
    plugin = Plugin(lambda: nodes.store[own].pod_cidrs if own in nodes.store else ())
    server = Server(plugin, socket)
    async with asyncio.TaskGroup() as group:
        group.create_task(nodes.run(), name="nodes")
        group.create_task(routes.run(), name="routes")
        if network_policy:
            policies = PolicyAgent(client, name, Netfilter())
            group.create_task(policies.run(), name="networkpolicy")
        await nodes.wait_synced()
        if service_proxy:
            ips = nodes.store[own].internal_ips if own in nodes.store else ()
            proxy = KubeProxy(client, name, ips, Config(cluster_cidrs=cluster_cidrs))
            group.create_task(proxy.run(), name="kube-proxy")
        await server.start()


async def run_node(client: Client, options: Options, index: int, run_dir: Path) -> None:
    """Run everything that a node runs, for ever; ``run_dir`` is the cluster's tmpfs."""
    name = options.node_names[index]
    folder = run_dir / "nodes" / name
    agent = f"pod-network/{name}"
    nodes: Informer[Node] = Informer(client, NODES, Node, agent=agent)
    table = RouteTable(name, options.pod_network)
    routes = Loop(agent, [nodes], NodeRoutes(table, nodes).reconcile)
    policies = PolicyAgent(client, name, Netfilter())
    kubelet = Kubelet(
        client,
        name,
        (options.node_ip(index),),
        folder,
        PodNetwork(name, folder, nodes, _pod_mtu(options, index)),
        policies,
        node_netns=run_dir / "netns" / name,
        builtins={DNS_IMAGE: _dns, INGRESS_IMAGE: _ingress},
        images=options.images,
        cluster_dns=(options.dns_ip,),
        cluster_domain=DOMAIN,
        # The way out of the sandbox refuses at once: a query for a foreign name fails quickly.
        host_resolver=Resolver(nameservers=(options.gateway,)),
    )
    async with asyncio.TaskGroup() as group:
        if options.proxy_mode != "none":
            proxy = KubeProxy(
                client,
                name,
                (options.node_ip(index),),
                Config(
                    mode=options.proxy_mode,
                    cluster_cidrs=(options.pod_cidr,),
                    run_dir=str(folder / "kube-proxy"),
                ),
                service_cidrs=(options.service_cidr,),
            )
            group.create_task(proxy.run(), name="kube-proxy")
        group.create_task(policies.run(), name="networkpolicy")
        group.create_task(nodes.run(), name="nodes")
        group.create_task(routes.run(), name="routes")
        group.create_task(kubelet.run(), name="kubelet")


def _pod_mtu(options: Options, index: int) -> int:
    with RtNetlink() as netlink:
        underlay = underlay_mtu(netlink, ip_address(options.node_ip(index)))
    return pod_mtu(options.pod_network, underlay)


def _dns(pod: BuiltinPod) -> None:
    raise SystemExit(dns.run(pod.args[pod.args.index("--conf") + 1], agent=f"dns/{pod.name}"))


def _ingress(pod: BuiltinPod) -> None:
    raise SystemExit(ingress.run(agent=f"ingress/{pod.name}"))
