"""Random worlds: the plan and every mode's rules against an oracle that shares no code with them.

And files that somebody has broken: whatever they hold, the place is named or the rest is answered.
"""

import contextlib

import pytest

from kubewire.api.errors import InputError
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.explain import explained
from kubewire.kubeproxy.objects import read
from kubewire.kubeproxy.trace import Asker, Flow, Tracer
from tests.kubeproxy.oracle import SERVICE_CIDRS, Outcome
from tests.kubeproxy.worlds import Maker, config

WORLDS, HARMED = 40, 1000


def outcome(asker: Asker, flow: Flow) -> Outcome:
    found = asker.ask(flow)
    return found.verdict, frozenset(found.endpoints), found.masquerade, found.sticky


@pytest.mark.parametrize("mode", backends.built())
def test_plan_and_rules_do_what_the_documentation_says(mode: str) -> None:
    for seed in range(WORLDS):
        maker = Maker(seed)
        world = maker.world(mode)
        objects = read((o, str) for o in world.objects)
        plan = Tracer(objects, config(world), world.node, (), SERVICE_CIDRS, mode)
        askers = {"plan": plan, mode: backends.tracer(mode, plan)}
        for flow in maker.flows(world.node):
            expected = world.outcome(flow)
            for name, asker in askers.items():
                if expected is not None:
                    assert outcome(asker, flow) == expected, (seed, name, flow)


def test_what_is_broken_is_named_or_harmless() -> None:
    for seed in range(HARMED):
        maker = Maker(seed)
        mode = backends.built()[seed % len(backends.built())]
        world = maker.world(mode)
        with contextlib.suppress(InputError):
            objects = read((o, str) for o in maker.harmed(world.objects))
            plan = Tracer(objects, config(world), world.node, (), SERVICE_CIDRS, mode)
            asker = backends.tracer(mode, plan)
            for flow in list(maker.flows(world.node))[::20]:
                assert plan.ask(flow).reason
                assert asker.ask(flow).reason
            for service in objects.services:
                assert explained(plan, service.key, None, None)
