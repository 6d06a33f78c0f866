"""A node with pods for tests that make real connections: the current namespace is the node."""

import os
import socket
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface, ip_network

from kubewire.kernel import links, netns, routes, sysctl
from kubewire.kernel.namespaces import CLONE_NEWNET, setns, unshare
from kubewire.kernel.rtnetlink import RtNetlink

NODE_IP = "192.0.2.1"
GATEWAY = ip_address("169.254.1.1")
MAC = "02:00:00:00:01:{:02x}"


class Network:
    """Pods by address, joined to the node by a veth each, as kubewire's CNI does it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.pods: dict[str, int] = {}
        sysctl.write("net.ipv4.ip_forward", 1)
        with RtNetlink() as netlink:
            # The node's own address, on a device that leads nowhere.
            netlink.transact([links.add_veth("eth0", "nowhere"), links.set_link("eth0", up=True)])
            eth0 = netlink.index("eth0")
            outside = ip_address("192.0.2.254")
            netlink.transact(
                [
                    routes.put_address(eth0, ip_interface(f"{NODE_IP}/24")),
                    routes.put_neighbour(eth0, outside, MAC.format(0xFE)),
                    routes.put_route(routes.Route(ip_network("0.0.0.0/0"), eth0, outside)),
                ]
            )

    def close(self) -> None:
        self._stack.close()

    def pod(self, ip: str) -> int:
        """Make a pod; a descriptor of its namespace."""
        number = len(self.pods) + 1
        home = netns.current()
        unshare(CLONE_NEWNET)
        pod = netns.current()
        setns(home, CLONE_NEWNET)
        os.close(home)
        self._stack.callback(os.close, pod)
        self.pods[ip] = pod
        node_mac, pod_mac = MAC.format(2 * number), MAC.format(2 * number + 1)
        address = ip_address(ip)
        with RtNetlink() as node, RtNetlink(pod) as inside:
            name = f"veth{number}"
            node.transact(
                [
                    links.add_veth(name, "eth0", peer_netns=pod, mac=node_mac, peer_mac=pod_mac),
                    links.set_link(name, up=True),
                ]
            )
            device = node.index(name)
            node.transact(
                [
                    routes.put_neighbour(device, address, pod_mac),
                    routes.put_route(routes.Route(ip_network(address), device=device)),
                ]
            )
            inside.transact([links.set_link("lo", up=True), links.set_link("eth0", up=True)])
            eth0 = inside.index("eth0")
            inside.transact(
                [
                    routes.put_address(eth0, ip_interface(address)),
                    routes.put_neighbour(eth0, GATEWAY, node_mac),
                    routes.put_route(
                        routes.Route(ip_network("0.0.0.0/0"), eth0, GATEWAY, onlink=True)
                    ),
                ]
            )
        return pod

    def listener(self, ip: str, port: int) -> socket.socket:
        """A TCP listener in a pod."""
        found = netns.socket_in(self.pods[ip])
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((ip, port))
        found.listen(4096)
        found.settimeout(10)
        self._stack.callback(found.close)
        return found

    def datagrams(self, ip: str, port: int = 0) -> socket.socket:
        """A UDP socket in a pod."""
        found = netns.socket_in(self.pods[ip], socket.AF_INET, socket.SOCK_DGRAM)
        found.bind((ip, port))
        found.settimeout(10)
        self._stack.callback(found.close)
        return found

    def connection(self, ip: str, to: tuple[str, int]) -> socket.socket:
        """A TCP connection from a pod."""
        found = netns.socket_in(self.pods[ip])
        found.settimeout(10)
        self._stack.callback(found.close)
        found.connect(to)
        return found
