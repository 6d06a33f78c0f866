from typing import Any

from hypothesis import given, settings

from kubewire.api.meta import Key
from networkpolicy import reference, worlds
from networkpolicy.fixture import FLOWS, fixture, pod
from networkpolicy.strategies import policy_lists

WORLD = fixture()


@given(policy_lists())
@settings(deadline=None, max_examples=150)
def test_the_plan_agrees_with_a_naive_reference(policies: list[dict[str, Any]]) -> None:
    plan = worlds.plan([*WORLD, *policies])
    for flow in FLOWS:
        for version in (4, 6):
            source, target = (plan.pods[Key(p.ns, p.name)] for p in (flow.src, flow.dst))
            got = worlds.passes(plan, source, target, flow.port, flow.protocol, version)
            want = reference.allowed(
                [*WORLD, *policies],
                pod(flow.src),
                pod(flow.dst),
                flow.port,
                flow.protocol,
                version,
            )
            assert got == want, flow
