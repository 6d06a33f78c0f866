"""What slices hold, as tables; and that the way there is right and short, for any history."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubewire.api.meta import JSON
from kubewire.controllermanager import slices
from kubewire.controllermanager.actions import Action, Create, Delete, Replace
from kubewire.controllermanager.slices import Group


def service(**spec: Any) -> JSON:
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    return {
        "metadata": {"name": "web", "namespace": "d", "uid": "s"},
        "spec": {"selector": {"a": "b"}, "ports": ports, "ipFamilies": ["IPv4"], **spec},
    }


def pod(
    name: str = "p",
    ips: tuple[str, ...] = ("10.0.0.1",),
    ready: bool = True,
    phase: str = "Running",
    deleting: bool = False,
    **spec: Any,
) -> JSON:
    meta = {"name": name, "namespace": "d", "uid": f"uid-{name}"}
    if deleting:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    status = {"phase": phase, "podIPs": [{"ip": ip} for ip in ips], "conditions": [condition]}
    return {"metadata": meta, "spec": {"nodeName": "n1", **spec}, "status": status}


def endpoints(wanted: slices.Wanted) -> list[JSON]:
    return [e for content in wanted.values() for e in content]


@pytest.mark.parametrize(
    ("found", "spec", "expected"),
    [
        (pod(), {}, (True, True, False)),
        (pod(ready=False), {}, (False, False, False)),
        (pod(deleting=True), {}, (False, True, True)),
        (pod(ready=False, deleting=True), {}, (False, False, True)),
        (pod(ready=False), {"publishNotReadyAddresses": True}, (True, False, False)),
        (pod(deleting=True), {"publishNotReadyAddresses": True}, (True, True, True)),
        (pod(phase="Succeeded"), {}, None),
        (pod(phase="Failed"), {"publishNotReadyAddresses": True}, None),
        (pod(ips=()), {}, None),
        (pod(ips=("fd00::1",)), {}, None),
    ],
)
def test_conditions(found: JSON, spec: JSON, expected: tuple[bool, bool, bool] | None) -> None:
    got = endpoints(slices.wanted(service(**spec), [found], {}))
    conditions = [
        tuple(e["conditions"][c] for c in ("ready", "serving", "terminating")) for e in got
    ]
    assert conditions == ([expected] if expected else [])


def test_each_family_has_its_group() -> None:
    dual = service(ipFamilies=["IPv4", "IPv6"])
    got = slices.wanted(dual, [pod(ips=("10.0.0.1", "fd00::1"))], {})
    assert {g.address_type: [e["addresses"] for e in es] for g, es in got.items()} == {
        "IPv4": [["10.0.0.1"]],
        "IPv6": [["fd00::1"]],
    }
    assert slices.wanted(dual, [], {}) == {Group("IPv4", ()): [], Group("IPv6", ()): []}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"ipFamilies": ["IPv6"]}, ["IPv6"]),
        ({"ipFamilies": None, "clusterIPs": ["10.96.0.1", "fd00::1"]}, ["IPv4", "IPv6"]),
        ({"ipFamilies": None, "clusterIP": "None"}, ["IPv4"]),
        ({"ipFamilies": None, "clusterIP": "fd00::1"}, ["IPv6"]),
    ],
)
def test_families(spec: JSON, expected: list[str]) -> None:
    assert slices.families(service(**spec)) == expected


def named(number: int, **container: Any) -> JSON:
    return {"ports": [{"name": "web", "containerPort": number}], **container}


@pytest.mark.parametrize(
    ("spec", "target", "expected"),
    [
        ({"containers": [named(1)]}, "web", 1),
        ({"containers": [named(1)]}, "other", None),
        ({"containers": [{}, named(2)]}, "web", 2),
        ({"containers": [], "initContainers": [named(3)]}, "web", None),
        ({"containers": [], "initContainers": [named(3, restartPolicy="Always")]}, "web", 3),
        ({"containers": []}, 99, 99),
    ],
)
def test_target_ports(spec: JSON, target: int | str, expected: int | None) -> None:
    assert slices.target_port(pod(**spec), target, "TCP") == expected


def test_a_named_port_that_differs_per_pod_makes_groups() -> None:
    ports = [{"name": "http", "port": 80, "targetPort": "web"}]
    found = [pod("a", containers=[named(1)]), pod("b", containers=[named(2)]), pod("c")]
    got = slices.wanted(service(ports=ports), found, {})
    assert {g.ports for g in got} == {(("http", "TCP", 1, ""),), (("http", "TCP", 2, ""),), ()}


def test_hostname_zone_and_target() -> None:
    found = pod(hostname="h", subdomain="web")
    (got,) = endpoints(slices.wanted(service(), [found], {"n1": "z1"}))
    assert got["hostname"] == "h"
    assert (got["nodeName"], got["zone"]) == ("n1", "z1")
    assert got["targetRef"] == {"kind": "Pod", "namespace": "d", "name": "p", "uid": "uid-p"}
    (got,) = endpoints(slices.wanted(service(), [pod(hostname="h", subdomain="x")], {}))
    assert "hostname" not in got


ZONE, NODE = {"forZones": [{"name": "z1"}]}, {"forNodes": [{"name": "n1"}]}


@pytest.mark.parametrize(
    ("preferred", "ready", "expected"),
    [
        (None, True, None),
        ("PreferClose", True, ZONE),
        ("PreferSameZone", True, ZONE),
        ("PreferSameNode", True, ZONE | NODE),
        ("PreferSameZone", False, None),
    ],
)
def test_hints(preferred: str | None, ready: bool, expected: JSON | None) -> None:
    found = service(trafficDistribution=preferred)
    (got,) = endpoints(slices.wanted(found, [pod(ready=ready)], {"n1": "z1"}))
    assert got.get("hints") == expected


def test_labels_name_the_service_and_keep_its_own() -> None:
    headless = service(clusterIP="None")
    headless["metadata"]["labels"] = {"x": "y"}
    (action,) = slices.diff(slices.frame(headless), [], slices.wanted(headless, [], {}))
    assert isinstance(action, Create)
    assert action.obj["metadata"]["labels"] == {
        "x": "y",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "service.kubernetes.io/headless": "",
    }
    (reference,) = action.obj["metadata"]["ownerReferences"]
    assert (reference["kind"], reference["uid"]) == ("Service", "s")


# --- the way there ---------------------------------------------------------------------------

PORTS = (("http", "TCP", 80, ""), ("http", "TCP", 81, ""))


def endpoint(number: int, ready: bool = True) -> JSON:
    return {
        "addresses": [f"10.0.{number // 250}.{number % 250}"],
        "conditions": {"ready": ready},
        "targetRef": {"uid": f"u{number}"},
    }


class Store:
    """Applies actions as a server would."""

    def __init__(self) -> None:
        self.slices: dict[str, JSON] = {}
        self._made = 0

    def apply(self, actions: list[Action]) -> int:
        for action in actions:
            match action:
                case Create(_, obj):
                    self._made += 1
                    name = f"web-{self._made:04}"
                    meta = obj["metadata"] | {"name": name, "uid": name}
                    self.slices[name] = {**obj, "metadata": meta}
                case Replace(_, obj):
                    assert obj["metadata"]["name"] in self.slices
                    self.slices[obj["metadata"]["name"]] = obj
                case Delete(_, key):
                    del self.slices[key.name]
                case _:
                    raise AssertionError(action)
        return len(actions)

    def step(self, wanted: slices.Wanted) -> int:
        actions = slices.diff(slices.frame(service()), self.slices.values(), wanted)
        return self.apply(actions)

    def held(self) -> slices.Wanted:
        found: slices.Wanted = {}
        for one in self.slices.values():
            assert len(one["endpoints"]) <= slices.MAXIMUM
            found.setdefault(slices.group_of(one), []).extend(one["endpoints"])
        return found


def by_address(wanted: slices.Wanted) -> dict[Group, list[JSON]]:
    return {g: sorted(es, key=lambda e: e["addresses"][0]) for g, es in wanted.items() if es}


def groups(numbers: dict[int, tuple[int, bool]]) -> slices.Wanted:
    wanted: slices.Wanted = {}
    for number, (port, ready) in numbers.items():
        group = Group("IPv4", (PORTS[port],))
        wanted.setdefault(group, []).append(endpoint(number, ready))
    return wanted or {Group("IPv4", ()): []}


members = st.dictionaries(
    st.integers(0, 600), st.tuples(st.integers(0, 1), st.booleans()), max_size=350
)


@settings(max_examples=60, deadline=None)
@given(st.lists(members, min_size=1, max_size=4))
def test_any_history_ends_at_what_is_wanted(history: list[dict[int, tuple[int, bool]]]) -> None:
    store = Store()
    for numbers in history:
        wanted = groups(numbers)
        store.step(wanted)
        assert by_address(store.held()) == by_address(wanted)
        assert store.slices, "an empty Service keeps one slice"
        assert store.step(wanted) == 0, "what is right is not written again"


@settings(max_examples=60, deadline=None)
@given(members.filter(bool), st.data())
def test_one_change_is_one_write(numbers: dict[int, tuple[int, bool]], data: st.DataObject) -> None:
    store = Store()
    store.step(groups(numbers))
    number = data.draw(st.sampled_from(sorted(numbers)))
    port, ready = numbers[number]
    changed = numbers | {number: (port, not ready)}
    assert store.step(groups(changed)) == 1
    # Another pod of a group that is there already: into a slice with room, or one new slice.
    assert store.step(groups(changed | {601: (port, True)})) == 1
    assert store.step(groups(changed)) == 1


def test_gone_and_new_share_one_write() -> None:
    store = Store()
    store.step(groups(dict.fromkeys(range(250), (0, True))))
    assert len(store.slices) == 3
    assert store.step(groups(dict.fromkeys((*range(1, 250), 251), (0, True)))) == 1


def test_the_empty_slice_is_reused() -> None:
    store = Store()
    store.step(groups({}))
    (name,) = store.slices
    assert store.step(groups({1: (0, True)})) == 1
    assert list(store.slices) == [name]


def test_pods_of_one_weight_share_a_slice_that_carries_it() -> None:
    heavy, wrong = pod("heavy", ("10.0.0.2",)), pod("wrong", ("10.0.0.3",))
    heavy["metadata"]["annotations"] = {"kubewire.dev/weight": "5"}
    wrong["metadata"]["annotations"] = {"kubewire.dev/weight": "much"}
    groups = slices.wanted(service(), [pod(), heavy, wrong], {})
    actions = slices.diff(slices.frame(service()), [], groups)
    written = [a.obj for a in actions if isinstance(a, Create)]
    assert [
        (s["metadata"].get("annotations"), [e["addresses"] for e in s["endpoints"]])
        for s in written
    ] == [
        (None, [["10.0.0.1"], ["10.0.0.3"]]),
        ({"kubewire.dev/weight": "5"}, [["10.0.0.2"]]),
    ]
    named = [s | {"metadata": s["metadata"] | {"name": f"s{i}"}} for i, s in enumerate(written)]
    assert slices.diff(slices.frame(service()), named, groups) == []


def test_a_weight_that_goes_is_taken_from_the_slice() -> None:
    heavy = pod()
    heavy["metadata"]["annotations"] = {"kubewire.dev/weight": "5"}
    (made,) = slices.diff(slices.frame(service()), [], slices.wanted(service(), [heavy], {}))
    assert isinstance(made, Create)
    made.obj["metadata"] |= {
        "name": "x",
        "uid": "u",
        "annotations": {"kubewire.dev/weight": "5", "a": "b"},
    }
    (changed,) = slices.diff(
        slices.frame(service()), [made.obj], slices.wanted(service(), [pod()], {})
    )
    assert isinstance(changed, Replace)
    assert changed.obj["metadata"]["annotations"] == {"a": "b"}
