"""The rows against the compiled rules."""

import pytest

from kubewire.kubeproxy.backends.iptables.trace import IptablesTracer
from kubewire.kubeproxy.trace import Answer
from tests.kubeproxy.lab import Case, cases


def seen(answer: Answer) -> tuple[object, ...]:
    return answer.verdict, sorted(answer.endpoints), answer.masquerade, answer.sticky


@pytest.mark.parametrize("case", cases("iptables"), ids=lambda c: c.name)
def test_rows(case: Case) -> None:
    assert seen(IptablesTracer(case.tracer).ask(case.flow)) == seen(case.expected)
