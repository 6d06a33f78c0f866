"""The rows against the real kernel: real packets through the rules of each back end."""

from collections.abc import Iterator

import pytest

from kubewire.kernel.probe import Probe
from kubewire.kubeproxy.config import read as read_config
from kubewire.kubeproxy.kerneltrace import KernelTracer
from kubewire.kubeproxy.objects import read
from kubewire.kubeproxy.trace import Answer, Flow, Tracer
from tests.kubeproxy import rows, table

pytestmark = pytest.mark.kernel

MODES = [pytest.param("nftables")]


def told(answer: Answer) -> tuple[object, ...]:
    return answer.verdict, sorted(answer.endpoints), answer.masquerade, answer.sticky


def by_fixture(mode: str) -> Iterator[tuple[Tracer, list[tuple[str, Flow, tuple[object, ...]]]]]:
    config = read_config(table.CONFIG, "config")
    for fixture in table.FIXTURES:
        found = read((o, str) for o in table.objects(fixture))
        tracer = Tracer(found, config, table.NODE, mode=mode)
        yield (
            tracer,
            [
                (
                    row.id,
                    Flow(row.source, row.target, row.port, row.protocol),
                    (row.verdict, sorted(row.endpoints.split()), row.masquerade, row.sticky),
                )
                for row in table.ROWS
                if row.fixture == fixture
            ],
        )
    for row in rows.ROWS:
        wanted = (row.verdict, sorted(row.endpoints), row.masquerade, row.sticky)
        flow = Flow(row.source, row.to, row.port, row.protocol)
        yield row.tracer(mode), [(row.name, flow, wanted)]


@pytest.mark.parametrize("mode", MODES)
def test_real_packets(mode: str) -> None:
    wrong = []
    with Probe(()) as probe:
        for tracer, flows in by_fixture(mode):
            kernel = KernelTracer(tracer, probe)
            for name, flow, wanted in flows:
                seen = told(kernel.ask(flow))
                # A client that stays somewhere sees but one endpoint.
                fits = seen == wanted or (wanted[3] and seen[1][0] in wanted[1])  # type: ignore[index]
                if not fits:
                    wrong.append((name, seen, wanted))
            kernel.close()
    assert not wrong, "\n".join(map(str, wrong))
