"""Real packets through the real rules of a scratch namespace: what becomes of a connection there.

``Probe`` makes the current network namespace a node: it forwards, it has the node's addresses, and
one device leads to a "world" where every other address is. A flow is asked about by sending its
first packet: from the world's end of the device, or from the node itself if it has the source. What
comes out into the world, or up to the node's own sockets, is the verdict. Then a packet follows
that always comes out: until that is seen everything of the flow has been seen, so nothing waits for
time to pass.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from ipaddress import IPv6Address, ip_address, ip_interface, ip_network

from kubewire.kernel import links, netns, routes, sysctl
from kubewire.kernel.conntrack import Conntrack
from kubewire.kernel.namespaces import CLONE_NEWNET, setns, unshare
from kubewire.kernel.netlink import Message
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.config import Config, contains
from kubewire.kubeproxy.plan import Frontend, FrontendKey
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.trace import LOOPBACK, Answer, Flow, Tracer, endpoint_name
from kubewire.lang import datagram
from kubewire.lang.datagram import Seen

NODE_MAC, WORLD_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
PODS_MAC, PODS_WORLD_MAC = "02:00:00:00:00:03", "02:00:00:00:00:04"
BARRIER = ("198.18.255.254", "198.18.255.253")
"""From, to: addresses for benchmarks (RFC 2544), which nobody else uses here."""
FALLBACK = ("192.0.2.254", "2001:db8:ffff::fe")
"""The node's address of a family of which it has none: masquerading needs one."""
_ETH_P_ALL, _OUTGOING = 3, 4
_IPV6_HDRINCL = 36
_SETTINGS = {
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.router_solicitations": 0,
    # A refusal is an answer here, however many there are.
    "net.ipv4.icmp_ratelimit": 0,
    "net.ipv6.icmp.ratelimit": 0,
    "net.ipv4.icmp_msgs_per_sec": 1_000_000,
    "net.ipv4.icmp_msgs_burst": 1_000_000,
}


class Probe:
    """A node in the current network namespace, which must be nobody else's."""

    def __init__(self, node_ips: tuple[str, ...], pods_device: str = "pods0") -> None:
        self._node_ips = node_ips
        self._stack = ExitStack()
        self.port = 20000
        """From which the last packet was sent."""
        # One processor: what is sent first is through first.
        processors = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(processors)})
        self._stack.callback(os.sched_setaffinity, 0, processors)
        _configure()
        world = self._namespace()
        self._wire(world, pods_device)
        self.world = world
        """The namespace where everybody else is."""
        self._world = self._packets(world, "world1")
        self._pods = self._packets(world, "pods1")
        self._own = [self._raw(f, p) for f in _FAMILIES for p in (*datagram.PORTS, _icmp(f))]
        self._senders = {f: self._sender(f) for f in _FAMILIES}

    def close(self) -> None:
        """Take the devices away again."""
        self._stack.close()

    def forget(self) -> None:
        """Forget every connection of earlier rules."""
        with Conntrack() as conntrack:
            conntrack.delete_where(lambda _: True)

    def send(self, flow: Flow, *, pod: bool = False) -> list[Seen]:
        """Send the first packet of a flow from a fresh port; everything that was seen of it."""
        self.port = self.port + 1 if self.port < 60000 else 20000
        packet = datagram.first_packet(
            flow.source, self.port, flow.target, flow.port, flow.protocol
        )
        if flow.source in self._node_ips or contains(LOOPBACK, flow.source):
            self._from_node(packet, flow.target)
        elif pod:
            self._pods.send(_frame(PODS_MAC, PODS_WORLD_MAC, packet))
        else:
            self._world.send(_frame(NODE_MAC, WORLD_MAC, packet))
        barrier = datagram.first_packet(BARRIER[0], 9, BARRIER[1], 9, "udp")
        self._world.send(_frame(NODE_MAC, WORLD_MAC, barrier))
        return [*self._outside(), *self._inside()]

    def _from_node(self, packet: bytes, target: str) -> None:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        try:
            self._senders[family].sendto(packet, (target, 0))
        except OSError as error:
            # The kernel says so where it drops (EPERM), or where no process could send (EINVAL).
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.ECONNREFUSED):
                raise

    def _outside(self) -> Iterator[Seen]:
        """What the node sent out, up to the barrier."""
        while True:
            frame, address = self._world.recvfrom(65536)
            if address[2] == _OUTGOING or frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
                continue
            seen = datagram.read(frame[14:])
            if seen is None:
                continue
            if (seen.source, seen.target) == BARRIER:
                return
            yield seen

    def _inside(self) -> Iterator[Seen]:
        """What reached the node's own sockets."""
        for family, protocol, own in self._own:
            while True:
                try:
                    data, ancillary, _, address = own.recvmsg(65536, 256)
                except BlockingIOError:
                    break
                if family == socket.AF_INET:
                    seen = datagram.read(data)
                else:
                    target = next(
                        (str(IPv6Address(v[:16])) for _, kind, v in ancillary if kind == 50), ""
                    )
                    source = str(address[0]).partition("%")[0]
                    seen = datagram.read_payload(protocol, source, target, data)
                if seen:
                    yield seen

    def _namespace(self) -> int:
        home = netns.current()
        self._stack.callback(os.close, home)
        unshare(CLONE_NEWNET)
        world = netns.current()
        self._stack.callback(os.close, world)
        setns(home, CLONE_NEWNET)
        return world

    def _wire(self, world: int, pods_device: str) -> None:
        with RtNetlink(world) as other, RtNetlink() as netlink:
            for name, peer, mac, peer_mac in (
                ("world0", "world1", NODE_MAC, WORLD_MAC),
                (pods_device, "pods1", PODS_MAC, PODS_WORLD_MAC),
            ):
                netlink.transact(
                    [
                        links.add_veth(name, peer, peer_netns=world, mac=mac, peer_mac=peer_mac),
                        links.set_link(name, up=True),
                    ]
                )
                other.transact([links.set_link(peer, up=True)])
                self._stack.callback(_unwire, name)
            device = netlink.index("world0")
            netlink.transact(list(_addresses(device, self._node_ips)))

    def _packets(self, world: int, device: str) -> socket.socket:
        found = netns.socket_in(world, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._stack.callback(found.close)
        found.bind((device, 0))
        found.settimeout(5)
        return found

    def _raw(self, family: int, protocol: int) -> tuple[int, int, socket.socket]:
        found = socket.socket(family, socket.SOCK_RAW, protocol)
        self._stack.callback(found.close)
        found.setblocking(False)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        return family, protocol, found

    def _sender(self, family: int) -> socket.socket:
        found = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._stack.callback(found.close)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        return found


_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def _icmp(family: int) -> int:
    return datagram.ICMP if family == socket.AF_INET else datagram.ICMPV6


def _configure() -> None:
    for name, value in _SETTINGS.items():
        if sysctl.exists(name):
            try:
                sysctl.write(name, value)
            except PermissionError:  # Older kernels have some of them for the whole machine.
                continue


def _addresses(device: int, node_ips: tuple[str, ...]) -> Iterator[Message]:
    """The node's addresses, and the way to everybody else."""
    for gateway, everything, fallback in (
        ("169.254.1.1", "0.0.0.0/0", FALLBACK[0]),
        ("fe80::1", "::/0", FALLBACK[1]),
    ):
        via = ip_address(gateway)
        own = [ip for ip in map(ip_address, node_ips) if ip.version == via.version]
        for ip in own or [ip_address(fallback)]:
            yield routes.put_address(device, ip_interface(f"{ip}/{ip.max_prefixlen}"))
        yield routes.put_neighbour(device, via, WORLD_MAC)
        yield routes.put_route(
            routes.Route(ip_network(everything), device=device, via=via, onlink=True)
        )


def _unwire(device: str) -> None:
    with RtNetlink() as netlink:
        netlink.transact([links.delete_link(device)])


def _frame(target: str, source: str, packet: bytes) -> bytes:
    kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    return links.mac_bytes(target) + links.mac_bytes(source) + struct.pack("!H", kind) + packet


class KernelTracer:
    """The rules of a tracer's plan in the kernel, asked by real packets.

    It takes the current network namespace for itself.
    """

    def __init__(self, tracer: Tracer, probe: Probe | None = None) -> None:
        self._tracer = tracer
        self._probe = probe or Probe(tracer.node.ips, pods_device(tracer.config))
        self._probe.forget()
        self._proxier = backends.proxier(tracer.config, tracer.service_cidrs)
        self._load()

    def close(self) -> None:
        """Give up sockets; the rules go with the namespace, or with the next ones."""
        self._proxier.close()

    def _load(self) -> None:
        self._sync(self._tracer.plan.frontends.values())

    def _sync(self, frontends: Iterable[Frontend]) -> None:
        changes = [Change(frontend.key, None, frontend) for frontend in frontends]
        self._proxier.sync(changes, self._tracer.plan.addresses)

    def ask(self, asked: Flow) -> Answer:
        """Send packets until every endpoint that there should be has been seen, or none more."""
        expected = self._tracer.ask(asked)
        if contains(LOOPBACK, asked.target) and self._tracer.source_class(asked.source) != "node":
            return expected
        frontend = self._tracer.plan.frontends.get(
            FrontendKey(asked.target, asked.protocol, asked.port)
        )
        verdict, found, masquerade = "drop", set[str](), False
        for _ in range(_tries(len(expected.endpoints))):
            verdict, target, masked = self._once(asked)
            masquerade |= masked
            if verdict != "accept":
                break
            found.add(target)
            if len(found) >= len(expected.endpoints):
                break
            if frontend and frontend.affinity is not None:
                self._load()  # Or the client stays where it is.
        return self._answer(verdict, found, masquerade, frontend, expected)

    def _once(self, asked: Flow) -> tuple[str, str, bool]:
        pod = self._tracer.source_class(asked.source) == "pod"
        seen = self._probe.send(asked, pod=pod)
        return judged(seen, asked, self._probe.port)

    @staticmethod
    def _answer(
        verdict: str,
        found: set[str],
        masquerade: bool,
        frontend: Frontend | None,
        expected: Answer,
    ) -> Answer:
        reason = expected.reason
        if verdict != expected.verdict:
            reason = f"the kernel says {verdict}, the plan {expected.verdict}: {reason}"
        if verdict != "accept":
            return Answer(verdict, reason=reason)  # type: ignore[arg-type]
        sticky = frontend.affinity if frontend else None
        return Answer("accept", tuple(sorted(found)), masquerade, sticky, reason)


def pods_device(config: Config) -> str:
    """The device by which pods' packets come in."""
    if config.detect_local == "BridgeInterface":
        return config.bridge_interface
    if config.detect_local == "InterfaceNamePrefix":
        return f"{config.interface_name_prefix}0"[:15]
    return "pods0"


def _tries(endpoints: int) -> int:
    """An endpoint of N is missed by so many even choices once in ten thousand times."""
    return 1 if endpoints < 2 else 10 * endpoints + 10


def judged(seen: list[Seen], asked: Flow, port: int) -> tuple[str, str, bool]:
    """(verdict, endpoint, masqueraded) of what was seen of a flow that was sent from a port."""
    for one in seen:
        if one.protocol in datagram.PORTS and not one.refuses:
            if (one.target, one.target_port) == (asked.target, asked.port):
                return "passthrough", "", False
            # The node's own packets may be masqueraded to the address that they have; not the port.
            masked = (one.source, one.source_port) != (asked.source, port)
            return "accept", endpoint_name(one.target, one.target_port), masked
    return ("reject" if any(one.refuses for one in seen) else "drop"), "", False
