"""The switch between the nodes' network namespaces.

Each node gets a macvlan of one wire that ends nowhere: a frame goes from one node straight into the
other, in one step. A kernel without macvlan gets a bridge, where each frame takes a step into the
bridge and another out of it, which is felt in round trips.

Packets of TCP may be five times as large here as the kernel has it by default ("BIG TCP"): each
has to pass several devices and two routers, whatever its size, and the next one is cut only by a
device that takes less. Pods take the size over from their node's device (`cni.routing`).
"""

import errno

from kubewire.kernel import links, sysctl
from kubewire.kernel.netlink import Message, NetlinkError
from kubewire.kernel.rtnetlink import RtNetlink

GATEWAY = "underlay"
"""The switch's own device in its namespace."""
UPLINK = "eth0"
"""A node's device."""
_GSO = links.Gso(320 * 1024, 320 * 1024)
_WIRE = "wire"
_WIRE_END = "wire-end"
_BRIDGE_FILTERS = ("iptables", "ip6tables", "arptables")


class Switch:
    """A switch in the current network namespace, which is also that of ``netlink``."""

    def __init__(self, netlink: RtNetlink, mac: str = "", *, macvlan: bool = True) -> None:
        self._netlink = netlink
        self._wire = 0
        self._ports = 0
        if not (macvlan and self._lay_wire(mac)):
            self._make_bridge(mac)
        netlink.transact(links.bring_up(GATEWAY))
        self._gateway = netlink.index(GATEWAY)

    def join(self, netns: int, mac: str) -> None:
        """Give a node's namespace (a descriptor) its uplink, which is down."""
        if self._wire:
            uplink = links.add_macvlan(UPLINK, self._wire, netns=netns, mac=mac)
            self._netlink.transact([uplink])
        else:
            port = f"n{self._ports}"
            self._ports += 1
            self._netlink.transact(
                [
                    links.add_veth(port, UPLINK, peer_netns=netns, peer_mac=mac),
                    _big(port),
                    links.set_link(port, master=self._gateway),
                    *links.bring_up(port),
                ]
            )
        with RtNetlink(netns) as inside:
            # A macvlan learns only after its creation what the wire can take.
            inside.transact([_big(UPLINK)])

    def _lay_wire(self, mac: str) -> bool:
        self._netlink.transact(
            [
                links.add_veth(_WIRE, _WIRE_END),
                *links.bring_up(_WIRE),
                *links.bring_up(_WIRE_END),
            ]
        )
        wire = self._netlink.index(_WIRE)
        try:
            self._netlink.transact([links.add_macvlan(GATEWAY, wire, mac=mac)])
        except NetlinkError as error:
            self._netlink.transact([links.delete_link(_WIRE)])
            if error.errno != errno.EOPNOTSUPP:
                raise
            return False
        self._wire = wire
        return True

    def _make_bridge(self, mac: str) -> None:
        self._netlink.transact([links.add_bridge(GATEWAY, mac=mac)])
        for filters in _BRIDGE_FILTERS:
            # The kernel would take every frame through the hooks of IP; nothing filters here.
            name = f"net.bridge.bridge-nf-call-{filters}"
            if sysctl.exists(name):
                sysctl.write(name, 0)


def _big(device: str) -> Message:
    """Allow a device large packets; kernels before 5.19 know none."""
    return links.set_link(device, gso=_GSO).tolerate(errno.EINVAL)
