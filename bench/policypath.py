"""The data path under policies: connections and bytes from one pod to another, in a second of work.

The second is one of the client's processor time: on a veth the kernel carries a packet through all
rules to the other pod in the sender's time, and other work on the machine does not count.

Both pods hang on a node by veths, as in a cluster. Connections are tracked in every round (a node
with Services always does), so what is compared is the rules alone. Rounds of all kinds alternate in
one run, on several nodes of each kind, because two nodes that are alike may differ by 5 % (where their
memory lies); a figure is the median of all rounds, as a ratio to the round without policies beside it.
"""

import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.kuberouter import KubeRouter
from kubewire.cni.wiring import Cable, host_interface, pod_mac, wire
from kubewire.kernel import netns, sandbox, sysctl
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.lang.nftables import model as nft
from kubewire.lang.nftables.expressions import ACCEPT, CtState
from kubewire.networkpolicy.backends import enforcer
from kubewire.networkpolicy.compile import Compiler
from kubewire.networkpolicy.model import PodSet, Policy, Ports, Rule, Term
from kubewire.networkpolicy.plan import Plan, PodFacts

NODES, ROUNDS, CONNECTIONS, SECONDS = 4, 6, 400, 0.1
KINDS = ("none", "nftables", "iptables", "kube-router's shape")


def figures(policies: int, pods: int, nodes: int) -> Iterator[dict[str, Any]]:
    found = sandbox.run(lambda: _measure(policies, pods, nodes))
    assert isinstance(found, list)
    yield from found


def _measure(policies: int, pods: int, nodes: int) -> list[dict[str, Any]]:
    from bench.policies import planned, world

    facts, rules, spaces = world(policies, pods, nodes)
    client, server = facts[0], facts[1]
    plan = planned(facts, [*rules, _let(client, server), _let(server, client)], spaces)
    taken: dict[tuple[str, str], list[float]] = {}
    for number in range(NODES):
        # Each kind comes first once.
        kinds = KINDS[number % len(KINDS) :] + KINDS[: number % len(KINDS)]
        _rounds([_Lane(f"{number}-{k}", k, plan, client, server) for k in kinds], taken)
    return [_figure(kind, what, found, taken) for (kind, what), found in taken.items()]


def _rounds(lanes: "list[_Lane]", taken: dict[tuple[str, str], list[float]]) -> None:
    try:
        for _ in range(ROUNDS):
            for lane in lanes:
                taken.setdefault((lane.kind, "connections_per_s"), []).append(lane.connect())
                taken.setdefault((lane.kind, "bytes_per_s"), []).append(lane.send())
    finally:
        for lane in lanes:
            lane.close()


class _Lane:
    """A node with two pods, and its rules."""

    def __init__(
        self, name: str, kind: str, plan: Plan, client: PodFacts, server: PodFacts
    ) -> None:
        self.kind = kind
        # The sandbox has a /run of its own: what is bound there ends with it.
        node, self.client, place = (
            Path("/run/netns") / f"{name}-{end}" for end in ("node", "client", "server")
        )
        self.address = str(server.addresses[0])
        for path in (node, self.client, place):
            netns.create(path)
        for path, pod in ((self.client, client), (place, server)):
            cable = Cable(
                host_interface(str(pod.key)), "eth0", pod_mac(pod.addresses), pod.addresses
            )
            with RtNetlink(node) as netlink:
                wire(netlink, path, cable)
        with netns.entered(node):
            sysctl.write("net.ipv4.ip_forward", 1)
            with Nfnetlink() as kernel:
                kernel.commit(nft.replace(_tracking()))
            if kind.startswith("kube-router"):
                KubeRouter(plan, "node0").sync()
            elif kind != "none":
                with enforcer(kind) as kernel_side:
                    kernel_side.replace(Compiler(plan, "node0").program())
        self.server = _serve(place)

    def close(self) -> None:
        os.kill(self.server, signal.SIGKILL)
        os.waitpid(self.server, 0)

    def connect(self) -> float:
        start = time.process_time()
        with netns.entered(self.client):
            for _ in range(CONNECTIONS):
                client = socket.socket()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.connect((self.address, 80))
                client.close()
        return CONNECTIONS / (time.process_time() - start)

    def send(self) -> float:
        data, sent = bytes(1 << 18), 0
        with netns.socket_in(self.client, socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect((self.address, 80))
            start = time.process_time()
            while (spent := time.process_time() - start) < SECONDS:
                sent += client.send(data)
        return sent / spent


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


def _serve(place: Path) -> int:
    listener = netns.socket_in(place, socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("", 80))
    listener.listen(512)
    if child := os.fork():
        listener.close()
        return child
    room = bytearray(1 << 20)
    while True:
        accepted, _ = listener.accept()
        with accepted, suppress(OSError):
            while accepted.recv_into(room):
                pass


def _figure(
    kind: str, what: str, found: list[float], taken: dict[tuple[str, str], list[float]]
) -> dict[str, Any]:
    """Each round against the round without policies beside it."""
    ratios = [a / b for a, b in zip(found, taken["none", what], strict=True)]
    return {
        "what": kind,
        "figure": what,
        "p50": round(statistics.median(found)),
        "ratio_to_none": round(statistics.median(ratios), 3),
    }
