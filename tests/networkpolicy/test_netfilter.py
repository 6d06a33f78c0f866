import asyncio
import socket
from contextlib import ExitStack, aclosing, closing, nullcontext
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from kubewire.api.meta import Key
from kubewire.kernel import netns
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.lang.nftables.model import Table, replace
from kubewire.networkpolicy.compile import Compiler
from kubewire.networkpolicy.controller import PolicyAgent
from kubewire.networkpolicy.droplog import DropLog
from kubewire.networkpolicy.model import PodSet, Policy, Ports, Rule, Term
from kubewire.networkpolicy.netfilter import Netfilter
from kubewire.networkpolicy.plan import Plan, PodFacts, as_policy
from kubewire.testing.fakeapi import FakeApi
from networkpolicy import worlds
from networkpolicy.lab import NODES, Lab
from networkpolicy.table import F, audited, cluster, fixture, labels, netpol
from networkpolicy.table import P as Pod

pytestmark = pytest.mark.kernel

XA, YB = Pod("x", "a"), Pod("y", "b")
DENY = netpol("deny", "x", {"podSelector": {}})


def large(policies: int) -> Plan:
    plan = Plan()
    for i in range(policies):
        key = Key("n", f"p{i}")
        address = ip_address(0x0AF40000 + i)
        plan.set_pod(PodFacts(key, {"i": str(i)}, (address,), (("http", "TCP", 80),), "node"))
    for i in range(policies):
        subject = PodSet("n", (), (Term("i", "In", (str(i),)),))
        peers = tuple(PodSet("n", (), (Term("i", "In", (str(i), str(j))),)) for j in range(4))
        rule = Rule("spec.ingress[0]", "Accept", peers, (Ports("TCP", 80, 80),))
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


def test_the_next_agent_replaces_the_rules_and_nothing_else() -> None:
    program = Compiler(worlds.plan([*fixture(), DENY]), "node-0").program()
    with Netfilter() as first:
        first.replace(program)
    with Nfnetlink() as other:
        other.commit(replace(Table("foreign")))
    with Netfilter() as second:
        assert len(second.tables()) == 1
        second.change(program)
        assert len(second.tables()) == 1
        second.change(Compiler(worlds.plan(fixture()), "node-0").program())
        assert not [c for c in second.counters() if c.startswith("NetworkPolicy")]
    with Nfnetlink() as other:
        # An exclusive creation would fail if the agent had removed it; so does this deletion.
        change = replace(Table("foreign"))
        del change.messages[0]
        other.commit(change)


async def test_clear_removes_what_an_agent_left() -> None:
    with Netfilter() as kernel:
        kernel.replace(Compiler(worlds.plan([*fixture(), DENY]), "node-0").program())
        await kernel.clear()
        assert kernel.tables() == []


def test_rules_count_what_they_decide(tmp_path: Path) -> None:
    plan = worlds.plan([*fixture(), DENY])
    flows = [F(YB, XA, 80, "UDP"), F(XA, YB, 80, "UDP")]
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        kernels = {n: stack.enter_context(Netfilter(lab.node_paths[n])) for n in NODES}
        for name, kernel in kernels.items():
            kernel.replace(Compiler(plan, name).program())
        assert lab.reach(flows, {flows[1]}) == {flows[1]}
        counted = kernels["node-0"].counters()
    assert counted["NetworkPolicy x/deny||ingress"] == 1


def test_a_rehearsal_counts_what_an_admin_policy_would_deny(tmp_path: Path) -> None:
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
        kernel = stack.enter_context(Netfilter(lab.node_paths["node-0"]))
        kernel.replace(Compiler(plan, "node-0").program())
        assert lab.reach(flows, set(flows)) == set(flows)
        counted = kernel.counters()
    assert counted["ClusterNetworkPolicy deny|spec.ingress[0]|ingress"] == 1
    assert counted["NetworkPolicy x/open|spec.ingress[0]|ingress"] == 1


IP_TRANSPARENT = 19


def test_what_the_node_sends_on_for_others_is_judged_too(tmp_path: Path) -> None:
    """IPVS sends balanced packets through the output hook, with the client's address."""
    plan = worlds.plan([*fixture(), DENY])
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        kernel = stack.enter_context(Netfilter(lab.node_paths["node-0"]))
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
        server = next(
            s
            for s in lab.servers
            if s.type == socket.SOCK_DGRAM and lab.pod_of(s) == XA and s.getsockname()[1] == 80
        )
        assert server.recvfrom(16)[1][0] == "::ffff:172.30.0.10"
        with pytest.raises(BlockingIOError):
            server.recvfrom(16)
        assert kernel.counters()["NetworkPolicy x/deny||ingress"] == 1


def test_long_names_are_told_whole(tmp_path: Path) -> None:
    name = "n" * 200
    plan = worlds.plan([*fixture(), netpol(name, "x", {"podSelector": {}})])
    with Netfilter() as kernel:
        kernel.replace(Compiler(plan, "node-0").program())
        assert f"NetworkPolicy x/{name}||ingress" in kernel.counters()


def test_a_new_address_of_the_node_is_closed_until_it_is_known(tmp_path: Path) -> None:
    plan = worlds.plan([m for m in [*fixture(), DENY] if m["metadata"]["name"] != "b"])
    flows = [F(Pod("x", "c"), Pod("z", "b"), 80, "UDP"), F(Pod("x", "c"), Pod("z", "a"), 80, "UDP")]
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        for name in NODES:
            kernel = stack.enter_context(Netfilter(lab.node_paths[name]))
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
async def test_established_flows_stay_unless_strict(tmp_path: Path, strict: bool) -> None:
    plan = worlds.plan(fixture())
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        kernel = stack.enter_context(Netfilter(lab.node_paths["node-0"]))
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


async def test_denied_packets_are_reported_and_no_others(tmp_path: Path) -> None:
    plan = worlds.plan([*fixture(), DENY])
    flows = [F(XA, YB, 80, "UDP"), F(YB, XA, 81, "UDP"), F(YB, XA, 80, "TCP")]
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        kernels = {n: stack.enter_context(Netfilter(lab.node_paths[n])) for n in NODES}
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
