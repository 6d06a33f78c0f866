"""Rows against a real Envoy: real connections, and the packets that never come to it."""

import pytest

from kubewire.kernel.probe import Probe
from kubewire.kubeproxy.config import read as read_config
from kubewire.kubeproxy.connect import ConnectionTracer
from kubewire.kubeproxy.objects import read
from kubewire.kubeproxy.trace import Flow, Tracer
from tests.kubeproxy import table
from tests.kubeproxy.test_kernel import told

pytestmark = pytest.mark.kernel

FIXTURES = (
    "plain",
    "empty",
    "nodeport-local",
    "internal-remote",
    "lb-ranges",
    "sticky",
    "udp",
    "dual",
    "on-the-node",
)
"""Each starts an Envoy of its own; the other rows are asked of the rules (test_trace)."""


def test_real_connections() -> None:
    config = read_config(table.CONFIG, "config")
    wrong = []
    with Probe(()) as probe:
        for fixture in FIXTURES:
            found = read((o, str) for o in table.objects(fixture))
            tracer = Tracer(found, config, table.NODE, mode="envoy")
            envoy = ConnectionTracer(tracer, probe)
            for row in table.ROWS:
                if row.fixture == fixture:
                    flow = Flow(row.source, row.target, row.port, row.protocol)
                    seen, wanted = told(envoy.ask(flow)), wanted_of(row)
                    # A client that stays somewhere sees but one endpoint.
                    fits = seen == wanted or (wanted[3] and seen[1][0] in wanted[1])  # type: ignore[index]
                    if not fits:
                        wrong.append((row.id, seen, wanted))
            envoy.close()
    assert not wrong, "\n".join(map(str, wrong))


def wanted_of(row: table.Row) -> tuple[object, ...]:
    return row.verdict, sorted(row.endpoints.split()), row.masquerade, row.sticky
