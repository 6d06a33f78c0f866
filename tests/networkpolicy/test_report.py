import logging

import pytest

from kubewire.api.meta import JSON
from kubewire.networkpolicy.droplog import Drop
from kubewire.networkpolicy.labels import abbreviated
from kubewire.networkpolicy.report import BURST, QUIET, Reporter
from networkpolicy import worlds
from networkpolicy.fixture import P, fixture, netpol

XA, YB = P("x", "a"), P("y", "b")
LONG = "n" * 200


class Said:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def event(self, obj: JSON, type_: str, reason: str, message: str) -> None:
        self.events.append((obj["metadata"]["name"], reason, message))


def reporter(said: Said, *policies: JSON, log_drops: bool = False) -> Reporter:
    return Reporter(said, worlds.plan([*fixture(), *policies]), log_drops=log_drops)  # type: ignore[arg-type]


def drop(port: int = 80, policy: str = "NetworkPolicy x/deny", audit: bool = False) -> Drop:
    return Drop(policy, "", "ingress", audit, YB.ip, XA.ip, "TCP", port)


def test_the_same_flow_is_reported_once_a_minute() -> None:
    said = Said()
    one = reporter(said)
    assert [one.report(drop(), t) for t in (0, 1, QUIET - 1, QUIET + 1)] == [
        True,
        False,
        False,
        True,
    ]
    assert said.events[0] == (
        "a",
        "NetworkPolicyDenied",
        "denied: y/b -> x/a:80 TCP by NetworkPolicy x/deny (ingress)",
    )
    assert len(said.events) == 2


def test_a_scan_makes_few_events() -> None:
    said = Said()
    one = reporter(said)
    for port in range(1, 1000):
        one.report(drop(port), 0)
    assert len(said.events) == BURST
    one.report(drop(1), QUIET)
    assert len(said.events) == BURST + 1


def test_what_would_be_denied_is_no_warning() -> None:
    said = Said()
    reporter(said).report(drop(audit=True), 0)
    assert said.events[0][1] == "NetworkPolicyAudit"


LOGGING = netpol("deny", "x", {"podSelector": {}}, annotations={"kubewire.dev/log-drops": "true"})
QUIETLY = netpol("deny", "x", {"podSelector": {}})


@pytest.mark.parametrize(
    ("policy", "every", "logged"),
    [(QUIETLY, False, 0), (LOGGING, False, 1), (QUIETLY, True, 1)],
)
def test_log_lines_are_for_those_who_ask(
    policy: JSON, every: bool, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "kubewire.networkpolicy"):
        reporter(Said(), policy, log_drops=every).report(drop(), 0)
    assert len(caplog.records) == logged


def test_a_name_that_the_kernel_had_no_room_for_is_told_whole() -> None:
    said = Said()
    policy = f"NetworkPolicy x/{LONG}"
    one = reporter(said, netpol(LONG, "x", {"podSelector": {}}))
    one.report(drop(policy=abbreviated(policy, 80)), 0)
    assert policy in said.events[0][2]
