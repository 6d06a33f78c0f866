import copy
from typing import Any

import pytest

from kubewire.api.meta import JSON
from kubewire.api.resources import DEPLOYMENTS, PODS, REPLICA_SETS
from kubewire.controllermanager import objects, pods
from kubewire.controllermanager.deployment import HISTORY, REVISION, template_hash
from kubewire.testing.fakeapi import FakeApi
from kubewire.testing.fakekubelet import FakeKubelet


def deployment(replicas: int = 3, image: str = "one", **spec: Any) -> JSON:
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "d", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template,
            **spec,
        },
    }


def current(api: FakeApi) -> JSON:
    found = api.get(DEPLOYMENTS, "web", "d")
    assert found is not None
    return found


def complete(api: FakeApi) -> bool:
    """What ``kubectl rollout status`` waits for."""
    found = current(api)
    status, wanted = found.get("status") or {}, found["spec"]["replicas"]
    return bool(
        status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == wanted
        and status.get("replicas", 0) == wanted
        and status.get("availableReplicas", 0) == wanted
    )


def images(api: FakeApi) -> list[str]:
    return sorted(p["spec"]["containers"][0]["image"] for p in api.all(PODS, "d") if pods.active(p))


async def change(api: FakeApi, **spec: Any) -> None:
    await api.client().patch(DEPLOYMENTS, "web", {"spec": spec}, "d")


def image(name: str) -> JSON:
    return {"spec": {"containers": [{"name": "c", "image": name}]}}


async def test_pods_start_and_the_status_says_so(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(deployment())
    await api.until(lambda: complete(api))
    found = current(api)
    assert objects.is_true(found, "Available")
    progress = objects.condition(found, "Progressing")
    assert progress is not None
    assert (progress["status"], progress["reason"]) == ("True", "NewReplicaSetAvailable")
    (owned,) = api.all(REPLICA_SETS)
    label = template_hash(found["spec"]["template"])
    assert owned["metadata"]["name"] == f"web-{label}"
    assert owned["metadata"]["annotations"][REVISION] == "1"
    await api.until(lambda: objects.annotations(current(api)).get(REVISION) == "1")
    assert all(objects.labels(p)["pod-template-hash"] == label for p in api.all(PODS))
    assert sorted(p["spec"]["nodeName"] for p in api.all(PODS)) in (
        ["n1", "n1", "n2"],
        ["n1", "n2", "n2"],
    )


@pytest.mark.parametrize(
    ("surge", "unavailable"), [(1, 0), (0, 1), ("25%", "25%"), ("100%", 0), (0, "50%"), (2, 2)]
)
async def test_a_rolling_update_keeps_its_bounds(
    kubelet: FakeKubelet, surge: int | str, unavailable: int | str
) -> None:
    api = kubelet.api
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    api.put(deployment(6, strategy={"type": "RollingUpdate", "rollingUpdate": rolling}))
    await api.until(lambda: complete(api))
    most = 6 + (surge if isinstance(surge, int) else {"25%": 2, "100%": 6}[surge])
    least = 6 - (unavailable if isinstance(unavailable, int) else {"25%": 1, "50%": 3}[unavailable])
    await change(api, template=image("two"))

    def watch_bounds() -> bool:
        active = [p for p in api.all(PODS, "d") if pods.active(p)]
        assert len(active) <= most
        assert sum(map(pods.ready, active)) >= least
        return complete(api)

    await api.until(watch_bounds)
    assert images(api) == ["two"] * 6


async def test_a_broken_image_stops_the_rollout(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    kubelet.broken = lambda pod: pod["spec"]["containers"][0]["image"] == "bad"
    api.put(deployment(4))
    await api.until(lambda: complete(api))
    await change(api, template=image("bad"))
    await api.until(lambda: current(api)["status"].get("updatedReplicas") == 2)
    await api.converge()
    assert images(api) == ["bad", "bad", "one", "one", "one"]
    # Undo: the old ReplicaSet becomes the current one, with the next revision.
    await change(api, template=image("one"))
    await api.until(lambda: complete(api))
    again = next(s for s in api.all(REPLICA_SETS) if s["spec"]["replicas"])
    assert again["metadata"]["annotations"][REVISION] == "3"
    assert again["metadata"]["annotations"][HISTORY] == "1"
    await api.until(lambda: objects.annotations(current(api)).get(REVISION) == "3")
    assert images(api) == ["one"] * 4


async def test_recreate_never_mixes_versions(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(deployment(3, strategy={"type": "Recreate"}))
    await api.until(lambda: complete(api))
    await change(api, template=image("two"))

    def one_version() -> bool:
        found = {p["spec"]["containers"][0]["image"] for p in api.all(PODS)}
        assert len(found) <= 1
        return complete(api)

    await api.until(one_version)
    assert images(api) == ["two"] * 3


async def test_paused_does_not_roll_but_scales(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(deployment(2))
    await api.until(lambda: complete(api))
    await change(api, paused=True, template=image("two"))
    await change(api, replicas=4)
    await api.until(lambda: len(images(api)) == 4)
    await api.converge()
    assert images(api) == ["one"] * 4
    progress = objects.condition(current(api), "Progressing")
    assert progress is not None
    assert progress["reason"] == "DeploymentPaused"
    await change(api, paused=None)
    await api.until(lambda: complete(api))
    assert images(api) == ["two"] * 4


async def test_scale_to_zero_and_back(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(deployment(2))
    await api.until(lambda: complete(api))
    await change(api, replicas=0)
    await api.until(lambda: not api.all(PODS))
    await change(api, replicas=3)
    await api.until(lambda: complete(api))
    assert len(api.all(REPLICA_SETS)) == 1


async def test_history_is_limited(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(deployment(1, revisionHistoryLimit=1))
    for name in ("two", "three", "four"):
        await api.until(lambda: complete(api))
        await change(api, template=image(name))
    await api.until(lambda: complete(api) and len(api.all(REPLICA_SETS)) == 2)
    revisions = sorted(s["metadata"]["annotations"][REVISION] for s in api.all(REPLICA_SETS))
    assert revisions == ["3", "4"]


async def test_a_matching_replica_set_is_adopted(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(deployment(2))
    await api.until(lambda: complete(api))
    (owned,) = copy.deepcopy(api.all(REPLICA_SETS))
    del owned["metadata"]["ownerReferences"]
    api.put(owned)
    await api.until(lambda: objects.controller_ref(api.all(REPLICA_SETS)[0]))
    assert len(api.all(REPLICA_SETS)) == 1


@pytest.mark.parametrize("one", [{"a": 1}, {"a": {"b": [1]}}])
def test_the_hash_depends_on_the_template_and_collisions_only(one: JSON) -> None:
    assert template_hash(one) == template_hash(copy.deepcopy(one))
    assert len({template_hash(one), template_hash(one, 1), template_hash({"a": 2})}) == 3
