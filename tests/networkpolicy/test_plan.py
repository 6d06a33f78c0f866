import pytest

from kubewire.api.meta import Key
from networkpolicy import worlds
from networkpolicy.fixture import ALL, FLOWS, Row, fixture
from networkpolicy.table import ROWS


def test_the_table_is_a_table() -> None:
    assert len(ROWS) > 500
    assert len({r.name for r in ROWS}) == len(ROWS)
    assert len(FLOWS) == 9 * 9 * 2 * 3


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_plan_gives_the_matrix(row: Row) -> None:
    plan = worlds.plan([*fixture(), *row.policies])
    pods = {p: plan.pods[Key(p.ns, p.name)] for p in ALL}
    wrong = [
        (version, flow)
        for version in (4, 6)
        for flow in FLOWS
        if worlds.passes(plan, pods[flow.src], pods[flow.dst], flow.port, flow.protocol, version)
        != row.expected(flow)
    ]
    assert not wrong
