"""NetworkPolicy: full load and one change, in a kernel of its own namespace.

The shape: 100 pods a namespace, each policy selects a fiftieth of its namespace by label, with two
peers (here by label; elsewhere by namespace and label), a number and a named port, half with egress.
"""

import random
import resource
import statistics
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import msgspec

from kubewire.api.meta import Key
from kubewire.kernel import sandbox
from kubewire.networkpolicy.backends.nftables.enforcer import Netfilter
from kubewire.networkpolicy.compile import Compiler
from kubewire.networkpolicy.model import NamedPort, PodSet, Policy, Ports, Rule, Term
from kubewire.networkpolicy.plan import Plan, PodFacts

SIZES = ((1_000, 1_000, 1), (10_000, 10_000, 100))
"""(policies, pods, nodes): the rules are those of one node."""
CHANGES = 200


def figures() -> Iterator[dict[str, Any]]:
    for size in SIZES:
        found = sandbox.run(lambda size=size: measure(*size))
        assert isinstance(found, dict)
        yield found


def pod(i: int, spaces: int, nodes: int, choose: random.Random) -> PodFacts:
    labels = {"app": f"a{(i // spaces) % 50}", "id": str(i), "tier": choose.choice("abc")}
    address = ip_address(0x0AF40000 + i)
    ports = (("http", "TCP", 80),)
    return PodFacts(Key(f"n{i % spaces}", f"p{i}"), labels, (address,), ports, f"node{i % nodes}")


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


def measure(policies: int, pods: int, nodes: int) -> dict[str, Any]:
    choose = random.Random(1)
    spaces = max(1, pods // 100)
    facts = [pod(i, spaces, nodes, choose) for i in range(pods)]
    rules = [policy(i, spaces, choose) for i in range(policies)]
    start = time.perf_counter()
    plan = Plan()
    for i in range(spaces):
        plan.set_namespace(f"n{i}", {"team": f"t{i % 10}"})
    for one in facts:
        plan.set_pod(one)
    for rule in rules:
        plan.set_policy(rule)
    compiler = Compiler(plan, "node0")
    program = compiler.program()
    with Netfilter() as kernel:
        kernel.replace(program)
        loaded = time.perf_counter() - start
        plan.take_changes()
        local = [p for p in facts if p.node == "node0"]
        taken = []
        for _ in range(CHANGES):
            old = plan.pods[choose.choice(local).key]
            labels = {**old.labels, "app": f"a{choose.randrange(50)}"}
            start = time.perf_counter()
            plan.set_pod(msgspec.structs.replace(old, labels=labels))
            program = compiler.update(program, plan.take_changes())
            kernel.change(program)
            taken.append(time.perf_counter() - start)
    return {
        "policies": policies,
        "pods": pods,
        "nodes": nodes,
        "full_load_s": round(loaded, 3),
        "change_p50_ms": round(statistics.median(taken) * 1000, 2),
        "change_p99_ms": round(sorted(taken)[-CHANGES // 100] * 1000, 2),
        "max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
