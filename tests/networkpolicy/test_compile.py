from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kubewire.api.meta import Key
from kubewire.lang.nftables.expressions import ACCEPT
from kubewire.lang.packet import Packet
from kubewire.networkpolicy import compile as compiling
from kubewire.networkpolicy.backends import BACKENDS
from kubewire.networkpolicy.backends.iptables import compile as iptables
from kubewire.networkpolicy.backends.iptables import tree
from kubewire.networkpolicy.backends.nftables import compile as nftables
from kubewire.networkpolicy.compile import Compiler
from kubewire.networkpolicy.plan import Plan, as_policy, pod_facts
from networkpolicy import reference, worlds
from networkpolicy.fixture import ALL, FLOWS, Row, audited, cluster, fixture, netpol, pod
from networkpolicy.fixture import P as Pod
from networkpolicy.interpreter import judged, passes
from networkpolicy.strategies import policy_lists
from networkpolicy.table import ROWS

NODES = ("node-0", "node-1")


def through(programs: dict[str, Any], flow: Any, version: int, backend: str = "nftables") -> bool:
    ends = [p.ip if version == 4 else p.ip6 for p in (flow.src, flow.dst)]
    nodes = {flow.src.node, flow.dst.node}
    return all(passes(programs[n], *ends, flow.port, flow.protocol, backend) for n in nodes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_the_programs_of_both_nodes_give_the_matrix(row: Row, backend: str) -> None:
    plan = worlds.plan([*fixture(), *row.policies])
    programs = {n: Compiler(plan, n).program() for n in NODES}
    # One evaluator sees every flow; for the other one a part, another one in each row, will do.
    flows = FLOWS if backend == "nftables" else FLOWS[len(row.name) % 5 :: 5]
    wrong = [
        (version, flow)
        for version in (4, 6)
        for flow in flows
        if (version == 4 or (flow.port == 80 and flow.protocol == "TCP"))
        and through(programs, flow, version, backend) != row.expected(flow)
    ]
    assert not wrong


def relabelled(p: Pod, labels: dict[str, str], **status: Any) -> dict[str, Any]:
    found = pod(p)
    found["metadata"]["labels"] = labels
    found["status"] |= status
    return found


LABELS = st.dictionaries(st.sampled_from(["pod", "extra"]), st.sampled_from(["a", "b", "yes"]))
STEPS = st.one_of(
    st.tuples(st.just("pod"), st.sampled_from(ALL), LABELS),
    st.tuples(st.just("finish"), st.sampled_from(ALL), LABELS),
    st.tuples(st.just("delete"), st.sampled_from(ALL), st.none()),
    st.tuples(
        st.just("namespace"),
        st.sampled_from(["x", "y", "z"]),
        st.dictionaries(st.sampled_from(["ns", "tier"]), st.sampled_from(["x", "front"])),
    ),
)


def change(plan: Plan, step: tuple[str, Any, Any]) -> None:
    what, who, labels = step
    if what == "namespace":
        plan.set_namespace(who, labels)
    elif what == "delete":
        plan.remove_pod(Key(who.ns, who.name))
    else:
        status = {"phase": "Failed"} if what == "finish" else {}
        (facts,) = worlds.objects([relabelled(who, labels, **status)]).pods
        plan.set_pod(pod_facts(facts))


@given(policy_lists(), st.lists(STEPS, min_size=1, max_size=6))
@settings(deadline=None, max_examples=200)
def test_updates_give_what_a_whole_compilation_gives(
    policies: list[dict[str, Any]], steps: list[tuple[str, Any, Any]]
) -> None:
    plan = worlds.plan([*fixture(), *policies])
    compiler = Compiler(plan, "node-0")
    program = compiler.program()
    plan.take_changes()
    for step in steps:
        change(plan, step)
        program = compiler.update(program, plan.take_changes())
        whole = Compiler(plan, "node-0").program()
        assert (program.egress, program.ingress) == (whole.egress, whole.ingress)
        assert program.known == whole.known
        assert {n: program.chains[n] for n in whole.chains} == whole.chains
        assert {n: program.sets[n] for n in whole.sets} == whole.sets


@given(policy_lists(), policy_lists())
@settings(deadline=None, max_examples=50)
def test_replaced_policies_leave_nothing_behind(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    plan = worlds.plan([*fixture(), *before])
    for identity in list(plan.policies):
        plan.remove_policy(identity)
    for policy in worlds.objects(after).policies:
        plan.set_policy(as_policy(policy))
    fresh = worlds.plan([*fixture(), *after])
    assert plan.selections.members == fresh.selections.members
    assert {k: v for k, v in plan.selections.sets_of.items() if v} == {
        k: v for k, v in fresh.selections.sets_of.items() if v
    }


def test_pods_with_equal_policies_share_a_chain_and_equal_selectors_a_set() -> None:
    row = next(r for r in ROWS if r.name == "isolation of empty: ingress")
    plan = worlds.plan([*fixture(), *row.policies])
    program = Compiler(plan, "node-0").program()
    assert len(set(program.ingress.values())) == 1
    assert len(program.ingress) == 4


@given(policy_lists(), st.sampled_from([0, compiling.SHORT]))
@settings(deadline=None, max_examples=25)
def test_both_back_ends_agree_with_a_naive_reference(
    policies: list[dict[str, Any]], short: int
) -> None:
    world = [*fixture(), *policies]
    plan = worlds.plan(world)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compiling, "SHORT", short)
        programs = {n: Compiler(plan, n).program() for n in NODES}
    for number, flow in enumerate(FLOWS):
        version = 4 if number % 2 else 6
        ends = (pod(flow.src), pod(flow.dst))
        want = reference.allowed(world, *ends, flow.port, flow.protocol, version)
        for backend in BACKENDS:
            assert through(programs, flow, version, backend) == want, (backend, flow)


def test_names_that_dns_answers_with_become_addresses() -> None:
    allow = {"action": "Accept", "to": [{"domainNames": ["*.example.com"]}]}
    deny = {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}
    policy = cluster("names", "Admin", 1, subject={"namespaces": {}}, egress=[allow, deny])
    plan = worlds.plan([*fixture(), policy])
    compiler = Compiler(plan, "node-0")
    program = compiler.program()
    source = Pod("x", "a").ip
    assert not passes(program, source, "192.0.2.7", 443, "TCP")
    plan.take_changes()
    plan.set_domain("www.example.com", frozenset({ip_address("192.0.2.7")}))
    program = compiler.update(program, plan.take_changes())
    assert passes(program, source, "192.0.2.7", 443, "TCP")
    assert not passes(program, source, "192.0.2.8", 443, "TCP")
    plan.set_domain("example.com", frozenset({ip_address("192.0.2.8")}))
    program = compiler.update(program, plan.take_changes())
    assert not passes(program, source, "192.0.2.8", 443, "TCP")


def test_a_pod_that_moves_brings_no_verdict() -> None:
    """After a new verdict in a map the kernel walks every path from the hooks."""
    policies = [netpol(n, "x", {"podSelector": {"matchLabels": {"pod": n}}}) for n in "ac"]
    plan = worlds.plan([*fixture(), *policies])
    compiler, spelled = Compiler(plan, "node-0"), nftables.Compiler("t")
    program = compiler.program()
    before = spelled.table(program)
    plan.take_changes()
    (moved,) = worlds.objects([relabelled(Pod("x", "a"), {"pod": "c"})]).pods
    plan.set_pod(pod_facts(moved))
    program = compiler.update(program, plan.take_changes())
    table = spelled.table(program)
    assert table.sets["ingress4"].elements != before.sets["ingress4"].elements
    found = {n: one.elements for n, one in table.sets.items() if one.verdicts}
    assert found == {n: before.sets[n].elements for n in found}
    assert not passes(program, Pod("y", "a").ip, Pod("x", "a").ip, 80, "TCP")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("types", "chains"),
    [
        (["Ingress"], ["ingress"]),
        (["Egress"], ["egress"]),
        (["Ingress", "Egress"], ["egress", "ingress"]),
    ],
)
def test_a_direction_that_no_policy_affects_costs_nothing(
    types: list[str], chains: list[str], strict: bool
) -> None:
    policies = [netpol(t.lower(), "x", {"podSelector": {}, "policyTypes": [t]}) for t in types]
    program = Compiler(worlds.plan([*fixture(), *policies]), "node-0", strict=strict).program()
    table = nftables.Compiler("t").table(program)
    assert [n for n, c in table.chains.items() if c.hook] == chains
    for backend in BACKENDS:
        # An address of the node that no pod has is closed only where a policy might select it.
        sends = passes(program, NOBODY, FAR, 80, "TCP", backend)
        gets = passes(program, FAR, NOBODY, 80, "TCP", backend)
        assert (sends, gets) == ("Egress" not in types, "Ingress" not in types)
        middle = Packet(FAR, XA.ip, dport=80, midstream=True)
        goes_on = types == ["Egress"] and not strict
        assert (judged(program, middle, backend)[0] == "accept") == goes_on


def test_connections_are_tracked_also_while_there_is_no_policy() -> None:
    table = nftables.Compiler("t").table(Compiler(worlds.plan(fixture()), "node-0").program())
    assert [n for n, c in table.chains.items() if c.hook] == ["ingress"]


def test_numbers_of_profiles_are_not_used_again() -> None:
    plan = worlds.plan(fixture())
    compiler, spelled = Compiler(plan, "node-0"), nftables.Compiler("t")
    seen: set[bytes] = set()
    target = ip_address(XA.ip).packed
    for name in "abc":
        (policy,) = worlds.objects([netpol(name, "x", {"podSelector": {}})]).policies
        plan.set_policy(as_policy(policy))
        number = spelled.table(compiler.program()).sets["ingress4"].elements[target]
        plan.remove_policy(("NetworkPolicy", policy.key))
        none = spelled.table(compiler.program())
        assert list(none.sets["ingress-profiles"].elements.values()) == [ACCEPT]
        assert isinstance(number, bytes)
        assert number not in seen
        seen.add(number)


def test_a_tree_of_rules_leads_to_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "FEW", 1)
    only = {"podSelector": {"matchLabels": {"pod": "a"}}, "ingress": [{"ports": [{"port": 80}]}]}
    deny: dict[str, Any] = {"podSelector": {"matchLabels": {"pod": "b"}}}
    policies = [
        netpol(f"{n}-{s}", n, spec) for n in "xyz" for s, spec in (("a", only), ("b", deny))
    ]
    plan = worlds.plan([*fixture(), *policies])
    compiler, spelled = Compiler(plan, "node-0"), iptables.Compiler()
    program = compiler.program()
    rules = spelled.rules(program)
    assert [c for c in rules.tables[4].chains if c.startswith("KWP-")]
    for flow in FLOWS:
        want = flow.dst.node == "node-1" or flow.dst.name == "c" or flow.src == flow.dst
        want |= flow.dst.name == "a" and (flow.port, flow.protocol) == (80, "TCP")
        ends = (flow.src.ip, flow.dst.ip)
        assert passes(program, *ends, flow.port, flow.protocol, "iptables") == want, flow
    plan.take_changes()
    (moved,) = worlds.objects([relabelled(Pod("x", "a"), {"pod": "b"})]).pods
    plan.set_pod(pod_facts(moved))
    program = compiler.update(program, plan.take_changes())
    # The rule of before stands behind the new one; all else is what a new compiler says.
    now, fresh = (
        r.tables[4].chains for r in (spelled.rules(program), iptables.Compiler().rules(program))
    )
    (leaf,) = (n for n in now if now[n] != fresh[n])
    assert now.keys() == fresh.keys()
    assert {*now[leaf].rules} > {*fresh[leaf].rules}
    assert not passes(program, Pod("y", "a").ip, Pod("x", "a").ip, 80, "TCP", "iptables")
    # A program that lacks chains leaves no rule that leads to them.
    plan.remove_policy(("NetworkPolicy", Key("x", "x-a")))
    program = compiler.update(program, plan.take_changes())
    assert spelled.rules(program) == iptables.Compiler().rules(program)


def test_only_families_that_the_pods_of_the_node_have_are_compiled() -> None:
    spec = {
        "podSelector": {},
        "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": "p80"}]}],
    }
    plan = worlds.plan([*fixture(), netpol("named", "x", spec)])
    dual = dict(plan.pods)
    for facts in dual.values():
        plan.set_pod(structs.replace(facts, addresses=facts.addresses[:1]))
    compiler = Compiler(plan, "node-0")
    program = compiler.program()
    plan.take_changes()
    assert {s.family for s in program.sets.values()} <= {4}
    assert {s.family for c in program.chains.values() for s in c.steps} <= {0, 4}
    for facts in dual.values():
        plan.set_pod(facts)
        program = compiler.update(program, plan.take_changes())
    assert program == Compiler(plan, "node-0").program()


XA, NODE, FAR = Pod("x", "a"), "172.30.0.10", "10.9.9.9"
NOBODY = "10.244.0.200"
"""An address of the node's block that no pod has."""
ANYWHERE: dict[str, Any] = {"ipBlock": {"cidr": "0.0.0.0/0"}}


def rule(**peers: Any) -> dict[str, Any]:
    return netpol("p", "x", {"podSelector": {}, "ingress": [peers], "egress": [{}]})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("source", "target", "midstream", "expected"),
    [
        (FAR, XA.ip, False, "drop"),
        (XA.ip, FAR, False, "drop"),
        (NODE, XA.ip, False, "accept"),
        (XA.ip, XA.ip, False, "accept"),
        (NODE, NOBODY, False, "accept"),
        (FAR, NOBODY, False, "drop"),
        (NOBODY, FAR, False, "drop"),
        (NODE, XA.ip, True, "accept"),
        (XA.ip, XA.ip, True, "accept"),
    ],
)
def test_what_the_node_sends_and_a_pod_to_itself_is_never_denied(
    source: str, target: str, midstream: bool, expected: str, strict: bool, backend: str
) -> None:
    everyone = {"namespaces": {}}
    policies = [
        netpol("deny", "x", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
        cluster(
            "never",
            "Admin",
            1,
            subject=everyone,
            ingress=[{"action": "Deny", "from": [everyone]}],
            egress=[{"action": "Deny", "to": [everyone]}],
        ),
    ]
    program = Compiler(worlds.plan([*fixture(), *policies]), "node-0", strict=strict).program()
    packet = Packet(source, target, dport=80, saddr_local=source == NODE, midstream=midstream)
    assert judged(program, packet, backend)[0] == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "policy",
    [
        rule(),
        rule(ports=[{"port": 80}, {"port": 81}]),
        rule(**{"from": [ANYWHERE]}),
        rule(**{"from": [ANYWHERE], "ports": [{"port": 80}, {"port": 90, "endPort": 99}]}),
        audited(netpol("p", "x", {"podSelector": {}})),
    ],
)
def test_rules_count_nothing_that_the_node_sends(policy: dict[str, Any], backend: str) -> None:
    program = Compiler(worlds.plan([*fixture(), policy]), "node-0").program()
    for source, counted in ((FAR, True), (NODE, False)):
        packet = Packet(source, XA.ip, dport=80, saddr_local=not counted)
        verdict, met = judged(program, packet, backend)
        assert verdict == "accept"
        assert any(m.startswith("NetworkPolicy x/p|") for m in met) == counted, met


def test_a_rule_of_several_ports_asks_for_a_peer_once() -> None:
    ports = [{"port": 80}, {"port": 90, "endPort": 99}, {"port": "serve-80-tcp"}]
    peers = [{"podSelector": {"matchLabels": {"pod": p}}} for p in "ab"]
    program = Compiler(
        worlds.plan([*fixture(), rule(**{"from": peers, "ports": ports})]), "node-0"
    ).program()
    chain = program.chains[program.ingress[ip_address(XA.ip).packed]]
    asked = [s.peers for s in chain.steps if s.peers.startswith("s4/")]
    assert len(asked) == len(set(asked)) == 2


def test_a_long_policy_has_a_chain_that_profiles_share() -> None:
    peers = [{"podSelector": {"matchLabels": {"pod": str(n)}}} for n in range(compiling.SHORT + 1)]
    for count, named in ((2, 0), (compiling.SHORT + 1, 1)):
        policy = rule(**{"from": peers[:count]})
        program = Compiler(worlds.plan([*fixture(), policy]), "node-0").program()
        assert len([n for n in program.chains if n.startswith("policy/ingress/")]) == named
