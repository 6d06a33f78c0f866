"""One node: kubelet, pod network, kube-proxy and NetworkPolicy in one event loop.

The components do not know each other; this module fills the seams between them. It runs in the
node's network namespace, with the credentials of the node.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from kubewire.api.core import Node
from kubewire.api.resources import NODES
from kubewire.client.informer import Informer
from kubewire.client.rest import Client
from kubewire.cluster.addons import DNS_IMAGE, INGRESS_IMAGE, PROXY_CONFIG
from kubewire.cluster.addresses import networks
from kubewire.cluster.options import DOMAIN, Options
from kubewire.cluster.podnetwork import PROGRAMS, NodeNetwork, PodNetwork
from kubewire.cni import masquerade
from kubewire.cni.config import Fit
from kubewire.cni.ipam import Network
from kubewire.cni.plugin import Plugin
from kubewire.cni.routes import VXLAN_PORT, VXLAN_VNI, Mode
from kubewire.cni.server import Server
from kubewire.dns import run as dns
from kubewire.ingress import run as ingress
from kubewire.kubelet.agent import Kubelet
from kubewire.kubelet.files import Resolver
from kubewire.kubelet.runtime import BuiltinPod
from kubewire.kubelet.serving.server import Tls
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.controller import KubeProxy
from kubewire.networkpolicy import backends as policy_backends
from kubewire.networkpolicy.controller import PolicyAgent


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What the agent of a node is told, whose kubelet is another one."""

    socket: Path
    """Where the CNI plugins find it."""
    pod_network: Mode
    cluster_cidrs: tuple[Network, ...] = ()
    """Where pods are: podCIDRs outside are refused, and packets to it keep their source."""
    vxlan_vni: int = VXLAN_VNI
    vxlan_port: int = VXLAN_PORT
    mtu: int = 0
    """Of pods; 0: what fits the way between nodes."""
    masquerade: bool = True
    non_masquerade_cidrs: tuple[Network, ...] = ()
    cni: bool = True
    """Answer the CNI plugins and lead to the pods of other nodes."""
    service_proxy: bool = True
    network_policy: bool = True
    policy_backend: policy_backends.Backend = "nftables"
    metrics_port: int = 0


async def run_agent(client: Client, name: str, options: AgentOptions) -> None:
    """Run it for ever: CNI calls, routes, Services, policies."""
    async with asyncio.TaskGroup() as group:
        if options.network_policy:
            enforcer = policy_backends.enforcer(options.policy_backend)
            policies = PolicyAgent(client, name, enforcer)
            group.create_task(policies.run(), name="networkpolicy")
        if options.service_proxy:
            proxy = KubeProxy(client, name, (), Config(cluster_cidrs=tuple(map(str, options.cluster_cidrs))))  # fmt: skip
            group.create_task(proxy.run(), name="kube-proxy")
        if options.cni:
            group.create_task(_serve_cni(client, name, options), name="pod network")


async def _serve_cni(client: Client, name: str, options: AgentOptions) -> None:
    """CNI calls, and the ways to the pods of other nodes."""
    nodes: Informer[Node] = Informer(client, NODES, Node, agent=f"pod-network/{name}")
    network = NodeNetwork(
        client, name, nodes, options.pod_network, options.cluster_cidrs,
        vni=options.vxlan_vni, port=options.vxlan_port, mtu=options.mtu,
    )  # fmt: skip

    def fit() -> Fit:
        # Somewhere a machine may have a way of a smaller MTU (a VPN): by the size that TCP finds for
        # it, long IPv6 packets would always be too big by their header, see `cni.wiring.ways`.
        found = network.fit()
        return replace(found, gso=replace(found.gso, v6=0))

    plugin = Plugin(
        network.pod_cidrs,
        cluster_cidrs=tuple(map(str, options.cluster_cidrs)),
        fit=fit,
        identify=network.pools.identify,
        pools=network.pools,
    )
    server = Server(plugin, options.socket)
    if options.masquerade and options.cluster_cidrs:
        masquerade.cover(options.cluster_cidrs, options.non_masquerade_cidrs)
    async with asyncio.TaskGroup() as group:
        group.create_task(nodes.run(), name="nodes")
        group.create_task(network.routes.run(), name="routes")
        group.create_task(network.pools.config.run(), name="ip pools")
        await nodes.wait_synced()
        await server.start()
        group.create_task(network.pools.run(plugin.in_use), name="ip blocks")
        if options.metrics_port:
            from kubewire.cni.metrics import serve as serve_metrics

            group.create_task(serve_metrics(plugin, options.metrics_port), name="metrics")


async def run_node(client: Client, options: Options, index: int, run_dir: Path, tls: Tls) -> None:
    """Run everything that a node runs, for ever; ``run_dir`` is the cluster's tmpfs."""
    name = options.node_names[index]
    folder = run_dir / "nodes" / name
    # An agent before this one may have left rules of another proxy mode.
    first = not (folder / "names").exists()
    nodes: Informer[Node] = Informer(client, NODES, Node, agent=f"pod-network/{name}")
    pods = options.addresses.pods
    network = NodeNetwork(
        client, name, nodes, options.pod_network, pods,
        vni=options.vxlan_vni, port=options.vxlan_port, mtu=options.mtu,
    )  # fmt: skip
    programs = run_dir / PROGRAMS if options.cni == "exec" else None
    pod_network = PodNetwork(folder, network, pods, programs=programs)
    masquerade.cover(pods, networks("--non-masquerade-cidr", options.non_masquerade_cidr))
    enforcer = policy_backends.enforcer(options.policy_backend)
    policies = PolicyAgent(client, name, enforcer, strict=options.policy_strict)
    kubelet = Kubelet(
        client,
        name,
        options.node_ips(index),
        folder,
        pod_network,
        policies,
        node_netns=run_dir / "netns" / name,
        builtins={DNS_IMAGE: _dns, INGRESS_IMAGE: _ingress},
        images=options.images,
        # The first family's only, as kubeadm has it: a pod may add two more nameservers (of three).
        cluster_dns=options.dns_ips[:1],
        cluster_domain=DOMAIN,
        # The way out of the sandbox refuses at once: a query for a foreign name fails quickly.
        host_resolver=Resolver(nameservers=options.gateways),
        max_container_restart_period=options.max_container_restart_period,
        tls=tls,
    )
    await pod_network.start()
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
                alone=first,
                config_map=PROXY_CONFIG,
            )
            group.create_task(proxy.run(), name="kube-proxy")
        group.create_task(policies.run(), name="networkpolicy")
        group.create_task(nodes.run(), name="nodes")
        group.create_task(network.routes.run(), name="routes")
        group.create_task(network.pools.config.run(), name="ip pools")
        group.create_task(network.pools.run(pod_network.in_use), name="ip blocks")
        group.create_task(kubelet.run(), name="kubelet")


def _dns(pod: BuiltinPod) -> None:
    raise SystemExit(dns.run(pod.args[pod.args.index("--conf") + 1], agent=f"dns/{pod.name}"))


def _ingress(pod: BuiltinPod) -> None:
    raise SystemExit(ingress.run(pod.folder, agent=f"ingress/{pod.name}"))
