"""NetworkPolicy: full load and one change, in a kernel of its own namespace; then the data path.

The shape: 100 pods a namespace, each policy selects a fiftieth of its namespace by label, with two
peers (here by label; elsewhere by namespace and label), a number and a named port, half with egress.
A change is a pod's new labels, from the watch event's object to the kernel. The peer has the same
policies in kube-router's shape, which every change synchronises whole.
"""

import os
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import msgspec

from bench import policypath
from bench.kuberouter import KubeRouter
from kubewire.api.meta import Key
from kubewire.kernel import sandbox
from kubewire.networkpolicy.backends import enforcer
from kubewire.networkpolicy.compile import Compiler
from kubewire.networkpolicy.model import NamedPort, PodSet, Policy, Ports, Rule, Term
from kubewire.networkpolicy.plan import Plan, PodFacts

SIZES = ((1_000, 1_000, 1), (10_000, 10_000, 100))
"""(policies, pods, nodes): the rules are those of one node."""
CHANGES = {"nftables": 200, "iptables": 50, "kube-router's shape": 5}


def figures() -> Iterator[dict[str, Any]]:
    for size in SIZES:
        for loader in CHANGES:
            found = sandbox.run(lambda size=size, loader=loader: measure(loader, *size))
            assert isinstance(found, dict)
            yield found
    dual = sandbox.run(lambda: measure("nftables", *SIZES[0], dual=True))
    assert isinstance(dual, dict)
    yield dual
    yield from policypath.figures(*SIZES[0])
    yield from policypath.figures(*SIZES[0], dual=True)


def pod(i: int, spaces: int, nodes: int, choose: random.Random, *, dual: bool) -> PodFacts:
    labels = {"app": f"a{(i // spaces) % 50}", "id": str(i), "tier": choose.choice("abc")}
    first = (0x0AF40000, 0xFD << 120) if dual else (0x0AF40000,)
    addresses = tuple(ip_address(a + i) for a in first)
    ports = (("http", "TCP", 80),)
    return PodFacts(Key(f"n{i % spaces}", f"p{i}"), labels, addresses, ports, f"node{i % nodes}")


def policy(i: int, spaces: int, choose: random.Random) -> Policy:
    space = f"n{i % spaces}"
    here = PodSet(space, (), (Term("app", "In", (f"a{choose.randrange(50)}",)),))
    team = (Term("team", "In", (f"t{choose.randrange(10)}",)),)
    there = PodSet(None, team, (Term("tier", "In", (choose.choice("abc"),)),))
    ports = (Ports("TCP", 80, 80), NamedPort("http", "TCP"))
    return Policy(
        kind="NetworkPolicy",
        key=Key(space, f"np{i}"),
        tier="NetworkPolicy",
        priority=0,
        subject=PodSet(space, (), (Term("app", "In", (f"a{(i // spaces) % 50}",)),)),
        ingress=(Rule("spec.ingress[0]", "Accept", (here, there), ports),),
        egress=(Rule("spec.egress[0]", "Accept", (here, there), ports[:1]),) if i % 2 else None,
    )


def world(
    policies: int, pods: int, nodes: int, *, dual: bool = False
) -> tuple[list[PodFacts], list[Policy], int]:
    choose = random.Random(1)
    spaces = max(1, pods // 100)
    facts = [pod(i, spaces, nodes, choose, dual=dual) for i in range(pods)]
    return facts, [policy(i, spaces, choose) for i in range(policies)], spaces


def planned(facts: list[PodFacts], rules: list[Policy], spaces: int) -> Plan:
    plan = Plan()
    for i in range(spaces):
        plan.set_namespace(f"n{i}", {"team": f"t{i % 10}"})
    for one in facts:
        plan.set_pod(one)
    for rule in rules:
        plan.set_policy(rule)
    return plan


def measure(
    loader: str, policies: int, pods: int, nodes: int, *, dual: bool = False
) -> dict[str, Any]:
    facts, rules, spaces = world(policies, pods, nodes, dual=dual)
    start, busy = time.perf_counter(), _cpu()
    plan = planned(facts, rules, spaces)
    apply = _loader(loader, plan)
    loaded, busy = time.perf_counter() - start, _cpu() - busy
    plan.take_changes()
    choose = random.Random(2)
    local = [p for p in facts if p.node == "node0"]
    taken = []
    for _ in range(CHANGES[loader]):
        old = plan.pods[choose.choice(local).key]
        labels = {**old.labels, "app": f"a{choose.randrange(50)}"}
        start = time.perf_counter()
        plan.set_pod(msgspec.structs.replace(old, labels=labels))
        apply()
        taken.append(time.perf_counter() - start)
    return {
        "what": loader,
        "policies": policies,
        "pods": pods,
        "nodes": nodes,
        "dual_stack": dual,
        "full_load_s": round(loaded, 3),
        "full_load_cpu_s": round(busy, 3),
        "change_p50_ms": round(statistics.median(taken) * 1000, 2),
        "change_max_ms": round(max(taken) * 1000, 2),
        "max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _cpu() -> float:
    """Seconds of processor time so far, of programs that were run too."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _loader(loader: str, plan: Plan) -> Callable[[], None]:
    """Load everything; gives what brings a change into the kernel."""
    if loader not in ("nftables", "iptables"):
        peer = KubeRouter(plan, "node0")
        peer.sync()
        return peer.sync
    compiler, kernel = Compiler(plan, "node0"), enforcer(loader)
    program = compiler.program()
    kernel.replace(program)

    def apply() -> None:
        nonlocal program
        program = compiler.update(program, plan.take_changes())
        kernel.change(program)

    return apply
