"""What a back end is told to remember of clients, it tells."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from kubewire.kubeproxy import backends
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import FrontendKey, plan
from kubewire.kubeproxy.proxier import Keeps, Recalls, Stay
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.topology import NodeView
from tests.kubeproxy.rows import NODE_PORT, service, slice_

pytestmark = pytest.mark.kernel

NODE = NodeView("node-a", ("192.0.2.1", "fd00:2::1"))
FOUR, NODE_FOUR, SIX = (
    FrontendKey(*key)
    for key in (
        ("10.96.0.10", "TCP", 80),
        ("192.0.2.1", "TCP", 30080),
        ("fd00:96::10", "TCP", 80),
    )
)
ENDS = {4: ("10.244.0.1", 8080), 6: ("fd00:244::1", 8080)}
KEPT = [
    Stay(FOUR, "10.244.0.9", ENDS[4]),
    Stay(NODE_FOUR, "10.244.0.9", ENDS[4]),
    Stay(SIX, "fd00:244::9", ENDS[6]),
]
STALE = [
    Stay(FOUR, "10.244.0.8", ("10.244.0.77", 8080)),
    Stay(FrontendKey("10.96.0.11", "TCP", 80), "10.244.0.9", ENDS[4]),
]
"""Of an endpoint that is none, and of a Service without affinity."""


@pytest.mark.parametrize(
    "mode",
    [
        "nftables",
        pytest.param("iptables", marks=pytest.mark.tool("iptables-nft")),
        pytest.param("envoy", marks=pytest.mark.e2e),
    ],
)
def test_what_is_kept_is_told(mode: str, tmp_path: Path) -> None:
    config = Config(mode, ("10.244.0.0/16", "fd00:244::/64"), run_dir=str(tmp_path))
    dual = {"clusterIPs": ["10.96.0.10", "fd00:96::10"], "sessionAffinity": "ClientIP", **NODE_PORT}
    found = plan(
        [service(**dual), service("t", "10.96.0.11")],
        [
            slice_("10.244.0.1@node-a", "10.244.0.2@node-b"),
            slice_("fd00:244::1@node-a", "fd00:244::2@node-b", name="y", family="IPv6"),
            slice_("10.244.0.1@node-a", of="t"),
        ],
        NODE,
        replace(config, mode="nftables"),
    )
    with closing(backends.proxier(config)) as proxier:
        assert isinstance(proxier, Keeps)
        assert isinstance(proxier, Recalls)
        proxier.sync([Change(k, None, f) for k, f in found.frontends.items()], found.addresses)
        assert not [*proxier.stays()]
        proxier.keep([*KEPT, *STALE])
        proxier.keep([*KEPT, *STALE])
        told = {stay for stay in proxier.stays() if stay.frontend.protocol == "TCP"}
        assert set(KEPT) <= told
        assert not {s for s in told if s.frontend == STALE[1].frontend}
        assert all(proxier.intact() for _ in range(2))
        assert not proxier.heal()
        proxier.clear()
