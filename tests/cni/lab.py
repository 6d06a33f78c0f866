"""Nodes and pods as network namespaces, for tests that send real packets."""

import socket
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from kubewire.api.core import Node, NodeAddress, NodeSpec, NodeStatus
from kubewire.api.meta import ObjectMeta
from kubewire.cluster.underlay import Switch
from kubewire.cni.config import Fit
from kubewire.cni.network import PodNetwork, PodRequest, PodResult
from kubewire.cni.routes import Mode, fit
from kubewire.cni.routing import RouteTable, underlay
from kubewire.kernel import links, netns, routes, sysctl
from kubewire.kernel.routes import Route
from kubewire.kernel.rtnetlink import RtNetlink

OTHER = ("0a:00:00:00:00:01", "0a:00:00:00:00:00")


def node(
    number: int, *, cidrs: list[str] | None = None, addresses: list[str] | None = None
) -> Node:
    held = addresses or [f"172.30.0.1{number}", f"fd30::1{number}"]
    return Node(
        metadata=ObjectMeta(name=f"n{number}"),
        spec=NodeSpec(pod_cidrs=cidrs or [f"10.244.{number}.0/24", f"fd00:{number}::/64"]),
        status=NodeStatus(
            addresses=[NodeAddress(type="InternalIP", address=address) for address in held]
        ),
    )


def _static(destination: str, via: str) -> Route:
    return Route(ip_network(destination), via=ip_address(via), protocol=4)


class NodePods(PodNetwork):
    """A pod network whose calls are made in the node's namespace, as its agent would."""

    def __init__(self, path: Path, *arguments: Any, **options: Any) -> None:
        self._path = path
        with netns.entered(path):
            super().__init__(*arguments, **options)

    async def add(self, pod: PodRequest) -> PodResult:
        # Nothing else runs in a test's loop that minds where the thread is.
        with netns.entered(self._path):
            return await super().add(pod)

    async def remove(self, uid: str) -> None:
        with netns.entered(self._path):
            await super().remove(uid)


class Lab:
    """Two nodes on one switch, each in its own namespace."""

    def __init__(self) -> None:
        self.pods: dict[str, Path] = {}
        self._stack = ExitStack()
        with RtNetlink() as switch:
            underlay = Switch(switch)
            for number in (0, 1):
                self._add_node(underlay, number)

    def _add_node(self, switch: Switch, number: int) -> None:
        path = self.node_path(number)
        netns.create(path)
        with netns.entered(path):
            sysctl.write("net.ipv4.ip_forward", 1)
            sysctl.write("net.ipv6.conf.all.forwarding", 1)
            # As the nodes of `up`, see `cluster.sandbox`.
            sysctl.write("net.ipv4.ip_early_demux", 0)
        with netns.opened(path) as fd, RtNetlink(fd) as inside:
            mac = f"0a:00:00:00:00:0{number}"
            switch.join(fd, mac)
            index = inside.index("eth0")
            inside.transact(
                [
                    *links.bring_up(index),
                    routes.add_address(index, routes.link_local(mac)),
                    routes.add_address(index, ip_interface(f"172.30.0.1{number}/16")),
                    routes.add_address(index, ip_interface(f"fd30::1{number}/64")),
                    # Known neighbours: the machine's table for unknown ones may be full.
                    routes.put_neighbour(
                        index, ip_address(f"172.30.0.1{1 - number}"), OTHER[number]
                    ),
                    routes.put_neighbour(index, ip_address(f"fd30::1{1 - number}"), OTHER[number]),
                ]
            )

    def add_far_node(self) -> None:
        """A third node behind the second, which is its router."""
        path = self.node_path(2)
        netns.create(path)
        with netns.entered(path):
            sysctl.write("net.ipv4.ip_forward", 1)
            sysctl.write("net.ipv6.conf.all.forwarding", 1)
        with netns.opened(path) as fd:
            near, router, far = self.netlink(0), self.netlink(1), self.netlink(2)
            router.transact([links.add_veth("far", "eth0", peer_netns=fd)])
        for netlink, name, number in ((router, "far", 1), (far, "eth0", 2)):
            index = netlink.index(name)
            held = [
                routes.link_local(f"0a:00:00:00:01:0{number}"),
                *map(ip_interface, (f"172.31.0.1{number}/24", f"fd31::1{number}/64")),
            ]
            netlink.transact([*links.bring_up(index), *(routes.add_address(index, one) for one in held)])  # fmt: skip
        for destination, via in (("172.31.0.0/24", "172.30.0.11"), ("fd31::/64", "fd30::11")):
            near.transact([routes.add_route(_static(destination, via))])
        for destination, via in (("172.30.0.0/24", "172.31.0.11"), ("fd30::/64", "fd31::11")):
            far.transact([routes.add_route(_static(destination, via))])

    def node_path(self, number: int) -> Path:
        return Path(f"/run/netns/n{number}")

    def fit(self, number: int, mode: Mode = "host-gw") -> Fit:
        """What a pod of the node may send."""
        with RtNetlink(self.node_path(number)) as netlink:
            return fit(mode, underlay(netlink, ip_address(f"172.30.0.1{number}")))

    def network(self, number: int, known: Node | None = None, **options: Any) -> PodNetwork:
        folder, cidrs = Path(f"/run/n{number}"), (known or node(number)).pod_cidrs
        if known is None:
            options.setdefault("fit", lambda: self.fit(number))
        return NodePods(self.node_path(number), folder, lambda: cidrs, **options)

    def table(self, number: int, mode: str) -> RouteTable:
        with netns.entered(self.node_path(number)):
            table = RouteTable(f"n{number}", mode)  # type: ignore[arg-type]
        self._stack.callback(table.close)
        return table

    def netlink(self, number: int) -> RtNetlink:
        return self._stack.enter_context(RtNetlink(self.node_path(number)))

    def request(self, uid: str, **options: object) -> PodRequest:
        path = Path(f"/run/netns/{uid}")
        if not path.exists():
            netns.create(path)
        self.pods[uid] = path
        return PodRequest(uid=uid, namespace="default", name=uid, netns=path, **options)  # type: ignore[arg-type]

    def connects(self, source: str, target: str, ip: str) -> bool:
        """Open a TCP connection from one pod to an address that another pod holds."""
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with (
            netns.socket_in(self.pods[target], family) as server,
            netns.socket_in(self.pods[source], family) as client,
        ):
            server.bind((ip, 0))
            server.listen()
            client.settimeout(2)
            try:
                client.connect((ip, server.getsockname()[1]))
            except OSError:
                return False
            return True

    def routed(self, source: str, ip: str) -> bool:
        """Somewhere there is a way from a pod: nobody says that there is none."""
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with netns.socket_in(self.pods[source], family) as client:
            client.settimeout(2)
            try:
                client.connect((ip, 1))
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
            return True

    def close(self) -> None:
        self._stack.close()
