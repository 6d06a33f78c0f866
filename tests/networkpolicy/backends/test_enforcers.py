import asyncio
import socket
import subprocess
import time
from contextlib import ExitStack, aclosing, closing, nullcontext, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from kubewire.api.meta import Key
from kubewire.kernel import ipset, netns
from kubewire.kernel.iptables import Iptables
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.lang.nftables.expressions import DROP
from kubewire.lang.nftables.model import Chain, Rule, Table, replace
from kubewire.networkpolicy import model
from kubewire.networkpolicy.backends import enforcer
from kubewire.networkpolicy.backends.nftables.enforcer import Netfilter
from kubewire.networkpolicy.compile import Compiler
from kubewire.networkpolicy.controller import PolicyAgent
from kubewire.networkpolicy.droplog import DropLog
from kubewire.networkpolicy.model import PodSet, Policy, Ports, Term
from kubewire.networkpolicy.plan import Plan, PodFacts, as_policy
from kubewire.testing.fakeapi import FakeApi
from networkpolicy import worlds
from networkpolicy.fixture import F, audited, cluster, fixture, labels, netpol
from networkpolicy.fixture import P as Pod
from networkpolicy.lab import NODES, Lab

pytestmark = pytest.mark.kernel

XA, YB = Pod("x", "a"), Pod("y", "b")
DENY = netpol("deny", "x", {"podSelector": {}})
BACKENDS = [
    "nftables",
    pytest.param("iptables", marks=pytest.mark.tool("iptables", "ip6tables", "ipset")),
]


def large(policies: int) -> Plan:
    plan = Plan()
    for i in range(policies):
        key = Key("n", f"p{i}")
        address = ip_address(0x0AF40000 + i)
        plan.set_pod(PodFacts(key, {"i": str(i)}, (address,), (("http", "TCP", 80),), "node"))
    for i in range(policies):
        subject = PodSet("n", (), (Term("i", "In", (str(i),)),))
        peers = tuple(PodSet("n", (), (Term("i", "In", (str(i), str(j))),)) for j in range(4))
        rule = model.Rule("spec.ingress[0]", "Accept", peers, (Ports("TCP", 80, 80),))
        plan.set_policy(
            Policy("NetworkPolicy", Key("n", f"p{i}"), "NetworkPolicy", 0, subject, (rule,), None)
        )
    return plan


def test_a_program_larger_than_the_send_buffer_is_loaded() -> None:
    plan = large(500)
    with Netfilter() as kernel:
        kernel.replace(Compiler(plan, "node").program())
        assert len(kernel.tables()) == 1
        rules = [c for c in kernel.counters() if c.startswith("NetworkPolicy n/p")]
        assert len(rules) == 2 * 500


FOREIGN = Table("foreign", "inet", {}, {"theirs": Chain("theirs", (Rule((DROP,), "theirs"),))})


class Others:
    """Rules of somebody else in every language, and a look at them."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        with Nfnetlink() as kernel:
            kernel.commit(replace(FOREIGN))
        if backend == "iptables":
            ipset.restore(["create theirs hash:ip", "add theirs 10.9.9.9"])
            rules = ("-A FORWARD -m set --match-set theirs src -j ACCEPT", "-A THEIRS -j DROP")
            Iptables(4).restore(["*mangle", ":THEIRS - [0:0]", *rules, "COMMIT"])

    def seen(self) -> object:
        with Nfnetlink() as kernel:
            found: list[object] = [str(kernel.read("foreign"))]
        if self.backend == "iptables":
            found.append([x for x in ipset.save().splitlines() if "kwp" not in x])
            lines = Iptables(4).save("mangle").splitlines()
            found.append([x for x in lines if x.startswith("-A") and "KWP" not in x])
        return found


def ours(backend: str) -> list[str]:
    """Names of everything that is in the kernel for us."""
    with Nfnetlink() as kernel:
        tables = [t for t in kernel.tables() if t.startswith("kubewire")]
    if backend == "nftables":
        return tables
    chains = [x for x in Iptables(4).save("mangle").splitlines() if "KWP" in x]
    return tables + chains + [n for n in ipset.names() if n.startswith("kwp")]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_next_agent_replaces_the_rules_and_nothing_else(backend: str) -> None:
    program = Compiler(worlds.plan([*fixture(), DENY]), "node-0").program()
    others = Others(backend)
    before = others.seen()
    with enforcer(backend) as first:
        first.replace(program)
    with enforcer(backend) as second:
        loaded = ours(backend)
        second.change(program)
        assert len(ours(backend)) == len(loaded)
        second.change(Compiler(worlds.plan(fixture()), "node-0").program())
        assert not [c for c in second.counters() if c.startswith("NetworkPolicy")]
        assert others.seen() == before
        await second.clear()
        assert ours(backend) == []
    assert others.seen() == before


@pytest.mark.tool("iptables", "ip6tables", "ipset")
@pytest.mark.parametrize(("old", "new"), [("nftables", "iptables"), ("iptables", "nftables")])
async def test_a_back_end_takes_over_from_the_other(old: str, new: str) -> None:
    program = Compiler(worlds.plan([*fixture(), DENY]), "node-0").program()
    with enforcer(old) as first, enforcer(new) as second:
        first.replace(program)
        await second.apply(None, program)
        assert first.counters()
        await second.settle()
        assert not first.counters()
        assert second.counters()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_no_packet_is_judged_wrongly_while_agents_restart(
    backend: str, tmp_path: Path
) -> None:
    """Packets of ever new connections, allowed and denied ones, while agents come and go."""
    plan = worlds.plan([*fixture(), DENY])
    program = Compiler(plan, "node-0").program()
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        place = lab.node_paths["node-0"]
        stack.enter_context(enforcer(backend, place)).replace(program)
        senders = {p: [udp(stack, lab, p) for _ in range(100)] for p in (XA, YB)}
        servers = {p: serving(lab, p) for p in (XA, YB)}
        for _ in range(5):
            sent = asyncio.create_task(asyncio.to_thread(send, senders))
            with enforcer(backend, place) as restarted:
                await restarted.apply(None, program)
                await restarted.apply(program, Compiler(plan, "node-0").program())
            await sent
            assert received(servers[YB]) == len(senders[XA])
            assert received(servers[XA]) == 0
            for sockets in senders.values():
                for one in sockets:
                    one.close()
            senders = {p: [udp(stack, lab, p) for _ in range(100)] for p in (XA, YB)}


def udp(stack: ExitStack, lab: Lab, pod: Pod) -> socket.socket:
    return stack.enter_context(lab.socket(pod, socket.SOCK_DGRAM))


def serving(lab: Lab, pod: Pod) -> socket.socket:
    kinds = (s for s in lab.servers if s.type == socket.SOCK_DGRAM and lab.pod_of(s) == pod)
    return next(s for s in kinds if s.getsockname()[1] == 80)


def send(senders: dict[Pod, list[socket.socket]]) -> None:
    for one, other in zip(senders[XA], senders[YB], strict=True):
        one.sendto(b"allowed", (f"::ffff:{YB.ip}", 80))
        other.sendto(b"denied", (f"::ffff:{XA.ip}", 80))
        time.sleep(0.0002)


def received(server: socket.socket) -> int:
    count = 0
    with suppress(BlockingIOError):
        while True:
            server.recvfrom(16)
            count += 1
    return count


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_count_what_they_decide(backend: str, tmp_path: Path) -> None:
    plan = worlds.plan([*fixture(), DENY])
    flows = [F(YB, XA, 80, "UDP"), F(XA, YB, 80, "UDP")]
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        kernels = {n: stack.enter_context(enforcer(backend, lab.node_paths[n])) for n in NODES}
        for name, kernel in kernels.items():
            kernel.replace(Compiler(plan, name).program())
        assert lab.reach(flows, {flows[1]}) == {flows[1]}
        counted = kernels["node-0"].counters()
    assert counted["NetworkPolicy x/deny||ingress"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rehearsal_counts_what_an_admin_policy_would_deny(backend: str, tmp_path: Path) -> None:
    deny = cluster(
        "deny",
        "Admin",
        1,
        subject={"namespaces": labels(ns="x")},
        ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}],
    )
    allow = netpol("open", "x", {"podSelector": {}, "ingress": [{}]})
    plan = worlds.plan([*fixture(), audited(deny), allow])
    flows = [F(YB, XA, 80, "UDP")]
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        kernel = stack.enter_context(enforcer(backend, lab.node_paths["node-0"]))
        kernel.replace(Compiler(plan, "node-0").program())
        assert lab.reach(flows, set(flows)) == set(flows)
        counted = kernel.counters()
    assert counted["ClusterNetworkPolicy deny|spec.ingress[0]|ingress"] == 1
    assert counted["NetworkPolicy x/open|spec.ingress[0]|ingress"] == 1


IP_TRANSPARENT = 19


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_the_node_sends_on_for_others_is_judged_too(backend: str, tmp_path: Path) -> None:
    """IPVS sends balanced packets through the output hook, with the client's address."""
    plan = worlds.plan([*fixture(), DENY])
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        kernel = stack.enter_context(enforcer(backend, lab.node_paths["node-0"]))
        kernel.replace(Compiler(plan, "node-0").program())
        for source in (YB.ip, "172.30.0.10"):
            kind = (socket.AF_INET, socket.SOCK_DGRAM)
            client = stack.enter_context(netns.socket_in(lab.node_paths["node-0"], *kind))
            client.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
            client.bind((source, 5555))
            # The sender of a packet that the output hook drops is told so.
            refused = pytest.raises(PermissionError) if source == YB.ip else nullcontext()
            with refused:
                client.sendto(b"hello", (XA.ip, 80))
        server = serving(lab, XA)
        assert server.recvfrom(16)[1][0] == "::ffff:172.30.0.10"
        with pytest.raises(BlockingIOError):
            server.recvfrom(16)
        assert kernel.counters()["NetworkPolicy x/deny||ingress"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_names_are_told_whole(backend: str, tmp_path: Path) -> None:
    name = "n" * 200
    plan = worlds.plan([*fixture(), netpol(name, "x", {"podSelector": {}})])
    with enforcer(backend) as kernel:
        kernel.replace(Compiler(plan, "node-0").program())
        assert f"NetworkPolicy x/{name}||ingress" in kernel.counters()


@pytest.mark.tool("nft")
def test_the_nft_program_can_list_everything() -> None:
    names = {"action": "Accept", "to": [{"domainNames": ["*.example.com"]}]}
    policies = [
        netpol("n" * 200, "x", {"podSelector": {}}),
        audited(cluster("a", "Admin", 1, subject={"namespaces": {}}, egress=[names])),
        cluster("b", "Baseline", 1, subject={"namespaces": {}}, egress=[names]),
    ]
    ports = {"ports": [{"port": 80, "endPort": 90}, {"port": "serve-80-tcp"}]}
    blocks = {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], **ports}
    policies.append(netpol("ports", "x", {"podSelector": {}, "ingress": [blocks]}))
    plan = worlds.plan([*fixture(), *policies])
    with Netfilter() as kernel:
        kernel.replace(Compiler(plan, "node-0", strict=True).program())
        listed = subprocess.run(
            ["nft", "list", "table", "inet", kernel.tables()[0]],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "queue num 27511 bypass" in listed.stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_new_address_of_the_node_is_closed_until_it_is_known(
    backend: str, tmp_path: Path
) -> None:
    plan = worlds.plan([m for m in [*fixture(), DENY] if m["metadata"]["name"] != "b"])
    flows = [F(Pod("x", "c"), Pod("z", "b"), 80, "UDP"), F(Pod("x", "c"), Pod("z", "a"), 80, "UDP")]
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        for name in NODES:
            kernel = stack.enter_context(enforcer(backend, lab.node_paths[name]))
            kernel.replace(Compiler(plan, name).program())
        assert lab.reach(flows, {flows[1]}) == {flows[1]}


def connected(lab: Lab, source: Pod, target: Pod) -> tuple[socket.socket, socket.socket]:
    server = next(
        s for s in lab.servers if s.type == socket.SOCK_STREAM and lab.pod_of(s) == target
    )
    client = lab.socket(source, socket.SOCK_STREAM)
    for one in (client, server):
        one.setblocking(True)
        one.settimeout(10)
    client.connect((f"::ffff:{target.ip}", server.getsockname()[1]))
    return client, server.accept()[0]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
async def test_established_flows_stay_unless_strict(
    backend: str, tmp_path: Path, strict: bool
) -> None:
    plan = worlds.plan(fixture())
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        kernel = stack.enter_context(enforcer(backend, lab.node_paths["node-0"]))
        # Connections are tracked from here on.
        kernel.replace(Compiler(plan, "node-0").program())
        client, accepted = map(stack.enter_context, connected(lab, YB, XA))
        agent = PolicyAgent(FakeApi().client(), "node-0", kernel, strict=strict)
        agent.plan = plan
        for policy in worlds.objects([DENY]).policies:
            plan.set_policy(as_policy(policy))
        kernel.change(Compiler(plan, "node-0", strict=strict).program())
        cut = await kernel.cut(agent._denied) if strict else 0
        assert cut == (1 if strict else 0)
        # The server may connect to the client, but it may not go on with what was cut.
        accepted.sendall(b"pushed")
        client.settimeout(0.2 if strict else 10)
        assert _received(client) == (b"" if strict else b"pushed")
        client.sendall(b"still there?")
        accepted.settimeout(0.2 if strict else 10)
        assert _received(accepted) == (b"" if strict else b"still there?")


def _received(sock: Any) -> bytes:
    try:
        return bytes(sock.recv(100))
    except TimeoutError:
        return b""


@pytest.mark.parametrize("backend", BACKENDS)
async def test_denied_packets_are_reported_and_no_others(backend: str, tmp_path: Path) -> None:
    plan = worlds.plan([*fixture(), DENY])
    flows = [F(XA, YB, 80, "UDP"), F(YB, XA, 81, "UDP"), F(YB, XA, 80, "TCP")]
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        kernels = {n: stack.enter_context(enforcer(backend, lab.node_paths[n])) for n in NODES}
        for name, kernel in kernels.items():
            kernel.replace(Compiler(plan, name).program())
        source = stack.enter_context(DropLog(lab.node_paths["node-0"]))
        assert lab.reach(flows, {flows[0]}) == {flows[0]}
        found = set()
        async with asyncio.timeout(10), aclosing(source.drops()) as drops:
            async for drop in drops:
                found.add(str(drop.named(plan)))
                if len(found) == 2:
                    break
    assert sorted(found) == [
        "denied: y/b -> x/a:80 TCP by NetworkPolicy x/deny (ingress)",
        "denied: y/b -> x/a:81 UDP by NetworkPolicy x/deny (ingress)",
    ]
