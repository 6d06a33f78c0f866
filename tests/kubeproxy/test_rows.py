"""The rows against the plan and against the compiled nftables rules."""

import pytest

from kubewire.kubeproxy.backends.envoy.trace import EnvoyTracer
from kubewire.kubeproxy.backends.nftables.trace import NftablesTracer
from kubewire.kubeproxy.trace import Answer, Flow
from tests.kubeproxy.rows import ROWS, Row


def check(row: Row, answer: Answer) -> None:
    seen = (answer.verdict, sorted(answer.endpoints), answer.masquerade, answer.sticky)
    assert seen == (row.verdict, sorted(row.endpoints), row.masquerade, row.sticky)
    assert answer.reason


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_plan(row: Row) -> None:
    check(row, row.tracer().ask(Flow(row.source, row.to, row.port, row.protocol)))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_nftables(row: Row) -> None:
    tracer = NftablesTracer(row.tracer())
    check(row, tracer.ask(Flow(row.source, row.to, row.port, row.protocol)))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_envoy(row: Row) -> None:
    tracer = EnvoyTracer(row.tracer())
    check(row, tracer.ask(Flow(row.source, row.to, row.port, row.protocol)))
