import pytest

from kubewire.lang.xds.model import (
    ASSIGNMENT,
    CLUSTER,
    JSON,
    LISTENER,
    ROUTES,
    Assignment,
    Cluster,
    Endpoint,
    from_stream,
    listener,
)
from kubewire.lang.xds.snapshot import checked, version


def routes(*domains: str) -> JSON:
    return {"@type": ROUTES, "name": "r", "virtual_hosts": [{"domains": [d]} for d in domains]}


GOOD: list[JSON] = [
    Cluster("a", from_stream()).to_json(),
    Assignment("a", (Endpoint("10.0.0.1", 80),)).to_json(),
    Cluster("dns", dns=("example.test", 80)).to_json(),
    routes("a.test", "b.test"),
    listener("l", ["0.0.0.0"], 80, []),
]


def test_what_is_right_is_told() -> None:
    found = checked(GOOD)
    assert not found.faults
    assert {k: list(v) for k, v in found.resources.items()} == {
        CLUSTER: ["a", "dns"],
        ASSIGNMENT: ["a"],
        ROUTES: ["r"],
        LISTENER: ["l"],
    }
    assert list(found.of(CLUSTER, ["dns", "none"])) == ["dns"]


@pytest.mark.parametrize(
    ("wrong", "kind", "left", "fault"),
    [
        (Cluster("b", from_stream()).to_json(), CLUSTER, ["a", "dns"], "Cluster b: nobody tells its endpoints"),
        (Assignment("b", (Endpoint("x", 80),)).to_json(), ASSIGNMENT, ["a"], "endpoints of b: 'x' is not an IP address"),
        (Assignment("b", (Endpoint("::1", 0),)).to_json(), ASSIGNMENT, ["a"], "endpoints of b: port 0 is not between 1 and 65535"),
        (Assignment("a").to_json(), ASSIGNMENT, ["a"], "endpoints of a: told twice; the first one holds"),
        (routes("a.test", "a.test") | {"name": "s"}, ROUTES, ["r"], "routes s: two virtual hosts have the domain a.test"),
        (listener("m", ["0.0.0.0"], 80, []), LISTENER, ["l"], "Listener m: l has the same address"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_left_out_and_named(
    wrong: JSON, kind: str, left: list[str], fault: str
) -> None:
    found = checked([*GOOD, wrong])
    assert found.faults == (fault,)
    assert list(found.resources[kind]) == left


def test_a_version_follows_from_the_content() -> None:
    one, other = {"a": {"x": 1}, "b": {}}, {"b": {}, "a": {"x": 1}}
    assert version(one) == version(other) != version({"a": {"x": 2}, "b": {}})


@pytest.mark.parametrize(
    ("healths", "offered"),
    [
        ("HH", [0, 1]),
        ("HD", [0]),
        ("HDD", [0, 1, 2]),
        ("DD", [0, 1]),
    ],
)
def test_which_endpoints_a_connection_may_get(healths: str, offered: list[int]) -> None:
    words = {"H": "HEALTHY", "D": "DRAINING"}
    ends = [Endpoint("10.0.0.1", 80 + i, health=words[h]) for i, h in enumerate(healths)]
    assert Assignment("a", tuple(ends)).offered() == tuple(ends[i] for i in offered)


def test_an_endpoint_without_weight_gets_nothing() -> None:
    assignment = Assignment("a", (Endpoint("10.0.0.1", 80, weight=0), Endpoint("::1", 80, 3)))
    assert list(map(str, assignment.offered())) == ["[::1]:80"]
    found = assignment.to_json()["endpoints"][0]["lb_endpoints"]
    assert [e["load_balancing_weight"] for e in found] == [3]
