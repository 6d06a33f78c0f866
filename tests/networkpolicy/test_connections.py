from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from kubewire.networkpolicy.backends import enforcer
from kubewire.networkpolicy.compile import Compiler
from networkpolicy import worlds
from networkpolicy.fixture import FLOWS, fixture
from networkpolicy.lab import NODES, Lab
from networkpolicy.table import ROWS

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]

STEP = {("nftables", 4): 1, ("nftables", 6): 5, ("iptables", 4): 1, ("iptables", 6): 15}
"""Which rows are run: IPv6 differs in the rules of a family, not in policies."""
TRIED = [f for f in FLOWS if f.protocol != "SCTP"]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "backend",
    [
        "nftables",
        pytest.param("iptables", marks=pytest.mark.tool("iptables", "ip6tables", "ipset")),
    ],
)
def test_real_connections_give_the_matrix(backend: str, version: int, tmp_path: Path) -> None:
    wrong = []
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        kernels = {n: stack.enter_context(enforcer(backend, lab.node_paths[n])) for n in NODES}
        for row in ROWS[:: STEP[backend, version]]:
            plan = worlds.plan([*fixture(), *row.policies])
            for name, kernel in kernels.items():
                kernel.change(Compiler(plan, name).program())
            expected = {f for f in TRIED if row.expected(f)}
            got = lab.reach(TRIED, expected, version)
            wrong += [(row.name, flow) for flow in expected ^ got]
            assert len(wrong) < 1000, wrong[:10]
    assert not wrong
