import pytest

from kubewire.lang.xds.discovery import Discovery, Request, RequestError, parse
from kubewire.lang.xds.model import ASSIGNMENT, JSON, Assignment, Endpoint
from kubewire.lang.xds.snapshot import Snapshot, checked


def snapshot(*ports: int) -> Snapshot:
    return checked(
        Assignment(f"c{port}", (Endpoint("10.0.0.1", port),)).to_json() for port in ports
    )


def ask(discovery: Discovery, told: Snapshot, version: str = "", *names: str) -> tuple[JSON, str]:
    answer = discovery.answer(Request(ASSIGNMENT, "edge", version, names), told)
    return answer.response or {}, answer.remark


def names(response: JSON) -> list[str]:
    return [r["cluster_name"] for r in response.get("resources", ())]


def test_news_are_sent_once() -> None:
    discovery = Discovery()
    first, _ = ask(discovery, snapshot(1))
    assert names(first) == ["c1"]
    assert ask(discovery, snapshot(1), first["version_info"]) == ({}, "")
    second, _ = ask(discovery, snapshot(1, 2), first["version_info"])
    assert names(second) == ["c1", "c2"]
    assert ask(discovery, snapshot(1, 2), second["version_info"]) == ({}, "")


def test_only_what_was_asked_for() -> None:
    discovery = Discovery()
    first, _ = ask(discovery, snapshot(1, 2), "", "c2")
    assert names(first) == ["c2"]
    assert ask(discovery, snapshot(3, 2), first["version_info"], "c2") == ({}, "")


def test_a_refusal_names_the_objects_and_is_said_once() -> None:
    discovery = Discovery()
    first, _ = ask(discovery, snapshot(1))
    taken = first["version_info"]
    ask(discovery, snapshot(1), taken)
    second, _ = ask(discovery, snapshot(1, 2), taken)
    response, remark = ask(discovery, snapshot(1, 2), taken)
    assert not response
    assert remark == (
        f"Envoy edge refuses ClusterLoadAssignment version {second['version_info']}: c2"
    )
    assert ask(discovery, snapshot(1, 2), taken) == ({}, "")
    third, remark = ask(discovery, snapshot(1, 3), taken)
    assert (names(third), remark) == (["c1", "c3"], "")
    assert ask(discovery, snapshot(1, 3), third["version_info"]) == ({}, "")
    assert names(ask(discovery, snapshot(4), third["version_info"])[0]) == ["c4"]


def test_an_envoy_that_starts_again_gets_everything() -> None:
    discovery = Discovery()
    first, _ = ask(discovery, snapshot(1))
    ask(discovery, snapshot(1), first["version_info"])
    again, remark = ask(discovery, snapshot(1))
    assert names(again) == ["c1"]
    assert "started again" in remark


def test_a_server_that_starts_again_knows_the_version() -> None:
    first, _ = ask(Discovery(), snapshot(1))
    assert ask(Discovery(), snapshot(1), first["version_info"]) == ({}, "")


@pytest.mark.parametrize(
    ("plural", "body", "fault"),
    [
        ("secrets", {"node": {"id": "x"}}, "nobody tells secrets"),
        ("clusters", [], "a DiscoveryRequest is expected"),
        ("clusters", {"node": {}}, "node.id: Required value"),
    ],
)
def test_bad_requests(plural: str, body: object, fault: str) -> None:
    with pytest.raises(RequestError, match=fault):
        parse(plural, body)


@pytest.mark.parametrize(("hold", "seconds"), [(30, 30.0), (9999, 50.0), (-1, 0.0), ("x", 0.0)])
def test_requests_as_protobuf_and_as_json_spell_them(hold: object, seconds: float) -> None:
    node = {"id": "x", "metadata": {"kubewire.dev/hold": hold}, "locality": {"zone": "z"}}
    one = parse("endpoints", {"node": node, "version_info": "1", "resource_names": ["a"]})
    other = parse("endpoints", {"node": node, "versionInfo": "1", "resourceNames": ["a"]})
    assert one == other
    assert (one.version, one.names, one.zone, one.hold) == ("1", ("a",), "z", seconds)
