"""The data path under policies: connections and bytes from one pod to another.

Two pods hang on a node by veths, as in a cluster. The rules of every kind are loaded into that one
node and sleep (a table's flag ``dormant`` takes its hooks away); what is measured is awake, in turns of
some milliseconds in ever new order. So all kinds meet the same memory, the same moment of a machine
that others use too, and nothing differs but the rules. Connections are tracked throughout (a node with
Services always does), and the node has a pod block to guard, as in a cluster.

One thread connects, accepts and aborts (or sends and receives): nothing waits for another processor to
wake up, and the kernel carries each packet through all rules in the sender's time. Each connection is
timed by itself, and a node's figure is what its fastest quarter reaches, over all turns: what interrupts
one of them, or slows the machine for a while, is in the other three. Each node is compared with itself
without policies; the figure is the median of all nodes, beside the least and the most. "none again"
shows what is left of the noise.
"""

import random
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.kuberouter import KubeRouter
from kubewire.cni.wiring import Cable, entering, host_interface, pod_mac, wire
from kubewire.kernel import netns, sandbox, sysctl
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.lang.nftables import model as nft
from kubewire.lang.nftables import wire as netlink
from kubewire.lang.nftables.expressions import ACCEPT, CtState
from kubewire.networkpolicy.backends import enforcer
from kubewire.networkpolicy.compile import Compiler
from kubewire.networkpolicy.model import PodSet, Policy, Ports, Rule, Term
from kubewire.networkpolicy.plan import NodeFacts, Plan, PodFacts

NODES, ROUNDS, CONNECTIONS, PASSES = 6, 40, 40, 12
KINDS = ("none", "none again", "nftables", "iptables", "kube-router's shape")
PROGRAMS = {
    "nftables": (("inet", "kubewire-policy-0"),),
    "iptables": (("ip", "mangle"), ("ip6", "mangle")),
    "kube-router's shape": (("ip", "filter"),),
}
"""The tables that each kind fills."""
DORMANT = 1
Measure = Callable[[], Iterator[float]]


def figures(
    policies: int, pods: int, nodes: int, *, dual: bool = False
) -> Iterator[dict[str, Any]]:
    found = sandbox.run(lambda: _measure(policies, pods, nodes, dual))
    assert isinstance(found, list)
    yield from found


def _measure(policies: int, pods: int, nodes: int, dual: bool) -> list[dict[str, Any]]:
    from bench.policies import planned, world

    facts, rules, spaces = world(policies, pods, nodes, dual=dual)
    client, server = facts[0], facts[1]
    plan = planned(facts, [*rules, _let(client, server), _let(server, client)], spaces)
    plan.set_node(NodeFacts("node0", {}, (), ("10.244.0.0/16", "fd00::/64")[: 1 + dual]))
    taken: dict[tuple[str, str], list[float]] = {}
    # kube-router's shape is written here for IPv4 only.
    kinds = [kind for kind in KINDS if not (dual and kind == "kube-router's shape")]
    for number in range(NODES):
        node = _Node(f"{number}", kinds, plan, client, server)
        for figure, rates in node.turns().items():
            taken.setdefault(figure, []).append(statistics.quantiles(rates, n=4)[2])
    return [
        _figure(kind, what, found, taken["none", what], dual=dual)
        for (kind, what), found in taken.items()
    ]


class _Node:
    """A node with two pods, and the rules of each kind."""

    def __init__(
        self, name: str, kinds: list[str], plan: Plan, client: PodFacts, server: PodFacts
    ) -> None:
        self.kinds = kinds
        # The sandbox has a /run of its own: what is bound there ends with it.
        self.place, self.client, far = (
            Path("/run/netns") / f"{name}-{end}" for end in ("node", "client", "server")
        )
        for path in (self.place, self.client, far):
            netns.create(path)
        for path, pod in ((self.client, client), (far, server)):
            cable = Cable(
                host_interface(str(pod.key)), "eth0", pod_mac(pod.addresses), pod.addresses
            )
            with RtNetlink(self.place) as rtnetlink, entering(path) as room:
                wire(rtnetlink, room, cable)
        self.kernel = Nfnetlink(self.place)
        self.kernel.commit(nft.replace(_tracking()))
        with netns.entered(self.place):
            sysctl.write("net.ipv4.ip_forward", 1)
            for kind in kinds:
                self._load(kind, plan)
        self.listener = netns.socket_in(far, socket.AF_INET, socket.SOCK_STREAM)
        self.address = str(server.addresses[0])
        self.listener.bind(("", 80))
        self.listener.listen(8)

    def _load(self, kind: str, plan: Plan) -> None:
        if kind == "kube-router's shape":
            KubeRouter(plan, "node0").sync()
        elif kind in PROGRAMS:
            with enforcer(kind) as rules:
                rules.replace(Compiler(plan, "node0").program())
        self._flag(kind, DORMANT)

    def _flag(self, kind: str, flags: int) -> None:
        for family, table in PROGRAMS.get(kind, ()):
            change = nft.Transaction(family)
            body = netlink.string(1, table) + netlink.be32(2, flags)
            change.add(nft.NEWTABLE, 0, body, f"flags of table {table}")
            self.kernel.commit(change)

    def turns(self) -> dict[tuple[str, str], list[float]]:
        """What each kind reached, one connection or pass after the other."""
        found: dict[tuple[str, str], list[float]] = {}
        measures: dict[str, Measure] = {
            "connections_per_s": self._connections,
            "bytes_per_s": self._bytes,
        }
        with netns.entered(self.client), self.kernel, self.listener:
            for _ in range(ROUNDS):
                random.shuffle(self.kinds)
                for kind in self.kinds:
                    self._flag(kind, 0)
                    for what, measure in measures.items():
                        found.setdefault((kind, what), []).extend(measure())
                    self._flag(kind, DORMANT)
        return found

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.connect((self.address, 80))
        return client, self.listener.accept()[0]

    def _connections(self) -> Iterator[float]:
        for _ in range(CONNECTIONS):
            start = time.perf_counter()
            for end in self._pair():
                end.close()
            yield 1 / (time.perf_counter() - start)

    def _bytes(self) -> Iterator[float]:
        """Whole passes of what the sockets take at once, the first one at the start of the connection."""
        data, room = bytes(1 << 18), bytearray(1 << 20)
        client, server = self._pair()
        with client, server:
            client.setblocking(False)
            for _ in range(PASSES):
                start, there = time.perf_counter(), client.send(data)
                left = there
                while left:
                    left -= server.recv_into(room)
                yield there / (time.perf_counter() - start)


def _let(one: PodFacts, other: PodFacts) -> Policy:
    """Lets two pods talk, whatever the random policies say."""
    who, peer = (
        PodSet(p.key.namespace, (), (Term("id", "In", (p.labels["id"],)),)) for p in (one, other)
    )
    rule = Rule("spec.ingress[0]", "Accept", (peer,), (Ports("TCP", 80, 80),))
    key = one.key
    return Policy("NetworkPolicy", key, "NetworkPolicy", 0, who, (rule,), (rule,))


def _tracking() -> nft.Table:
    rule = nft.Rule((CtState(("established",)), ACCEPT), "connections are tracked")
    return nft.Table(
        "tracking", "inet", {}, {"f": nft.Chain("f", (rule,), "filter", "forward", -1)}
    )


def _figure(
    kind: str, what: str, found: list[float], none: list[float], *, dual: bool
) -> dict[str, Any]:
    """Each node against itself without policies."""
    ratios = [a / b for a, b in zip(found, none, strict=True)]
    return {
        "what": kind,
        "figure": what,
        "dual_stack": dual,
        "p50": round(statistics.median(found)),
        "ratio_to_none": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
    }
