"""What /healthz and /livez say of a proxy and its node."""

import json

import pytest

from kubewire.api.core import Node, NodeSpec, Taint
from kubewire.api.meta import ObjectMeta
from kubewire.kubeproxy.health import ProxyHealth

NOW = 1000.0
FINE = Node(metadata=ObjectMeta(name="n"))
DELETED = Node(metadata=ObjectMeta(name="n", deletion_timestamp="2026-01-01T00:00:00Z"))
LEAVING, CORDONED = (
    Node(metadata=ObjectMeta(name="n"), spec=NodeSpec(taints=[Taint(key=key, effect="NoSchedule")]))
    for key in ("ToBeDeletedByClusterAutoscaler", "node.kubernetes.io/unschedulable")
)


@pytest.mark.parametrize(
    ("seen", "eligible"),
    [
        ((), False),
        ((FINE,), True),
        ((CORDONED,), True),
        ((DELETED,), False),
        ((LEAVING,), False),
        ((LEAVING, FINE), True),
        ((FINE, None), False),
    ],
)
def test_the_node_decides_for_load_balancers_only(
    seen: tuple[Node | None, ...], eligible: bool
) -> None:
    health = ProxyHealth(60)
    health.updated(NOW)
    for node in seen:
        health.seen(node)
    page, live = health.healthz(NOW), health.livez(NOW)
    assert (page.status, live.status) == (200 if eligible else 503, 200)
    assert json.loads(page.body) == json.loads(live.body) | {"nodeEligible": eligible}


def test_a_change_that_waits_for_too_long_fails_both() -> None:
    health = ProxyHealth(60)
    health.seen(FINE)
    health.updated(NOW)
    health.queued(NOW + 10)
    for now, expected in ((NOW + 69, 200), (NOW + 70, 503)):
        pages = health.healthz(now), health.livez(now)
        assert [p.status for p in pages] == [expected] * 2
        told = json.loads(pages[0].body)
        assert told["healthy"] is told["status"]["IPv4"]["healthy"] is (expected == 200)
    assert told["lastUpdated"] == "1970-01-01T00:16:40Z", "when the last sync was"
