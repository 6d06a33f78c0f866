"""ControllerRevisions as ``kubectl rollout history`` and ``undo`` need them."""

from typing import Any

import pytest

from kubewire.api.meta import JSON
from kubewire.api.resources import CONTROLLER_REVISIONS, DAEMON_SETS, PODS, STATEFUL_SETS, Resource
from kubewire.controllermanager import objects, pods
from kubewire.controllermanager.revisions import template_of
from kubewire.testing.fakeapi import FakeApi
from kubewire.testing.fakekubelet import FakeKubelet

KINDS = [STATEFUL_SETS, DAEMON_SETS]


def workload(resource: Resource, image: str = "one", **spec: Any) -> JSON:
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": "w",
            "namespace": "d",
            "generation": 1,
            "annotations": {"kubernetes.io/change-cause": "because"},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "w"}},
            "template": {
                "metadata": {"labels": {"app": "w"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
            **({"replicas": 3, "serviceName": "w"} if resource is STATEFUL_SETS else {}),
            **spec,
        },
    }


def image_of(template: JSON) -> str:
    return str(template["spec"]["containers"][0]["image"])


def history(api: FakeApi) -> dict[int, str]:
    return {r["revision"]: image_of(template_of(r)) for r in api.all(CONTROLLER_REVISIONS)}


def images(api: FakeApi) -> list[str]:
    return [image_of(p) for p in api.all(PODS) if pods.ready(p)]


async def change(api: FakeApi, resource: Resource, image: str) -> None:
    template = workload(resource, image)["spec"]["template"]
    await api.client().patch(resource, "w", {"spec": {"template": template}}, "d")


@pytest.mark.parametrize("resource", KINDS, ids=lambda r: r.kind)
async def test_each_template_is_a_revision(kubelet: FakeKubelet, resource: Resource) -> None:
    api = kubelet.api
    api.put(workload(resource))
    await api.until(lambda: history(api) == {1: "one"})
    [revision] = api.all(CONTROLLER_REVISIONS)
    # kubectl asks by the workload's selector, and for those that it controls.
    assert objects.labels(revision)["app"] == "w"
    assert objects.controller_ref(revision)["kind"] == resource.kind  # type: ignore[index]
    assert objects.annotations(revision) == {"kubernetes.io/change-cause": "because"}
    assert revision["data"]["spec"]["template"]["$patch"] == "replace"
    await change(api, resource, "two")
    await api.until(lambda: history(api) == {1: "one", 2: "two"} and "one" not in images(api))
    # Back again: the same revision with the next number.
    await change(api, resource, "one")
    await api.until(lambda: history(api) == {2: "two", 3: "one"} and "two" not in images(api))


@pytest.mark.parametrize("resource", KINDS, ids=lambda r: r.kind)
async def test_old_revisions_go(kubelet: FakeKubelet, resource: Resource) -> None:
    api = kubelet.api
    api.put(workload(resource, revisionHistoryLimit=1))
    for number, image in enumerate(("one", "two", "three", "four"), 1):
        await change(api, resource, image)
        await api.until(lambda n=number: max(history(api), default=0) == n)  # type: ignore[misc]
        await api.until(lambda i=image: set(images(api)) == {i})  # type: ignore[misc]
    await api.until(lambda: history(api) == {3: "three", 4: "four"})


async def test_revisions_of_a_workload_that_was_orphaned_are_adopted(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(workload(STATEFUL_SETS))
    await api.until(lambda: history(api) == {1: "one"})
    [left] = api.all(CONTROLLER_REVISIONS)
    [owner] = api.all(STATEFUL_SETS)
    await api.client().delete(STATEFUL_SETS, "w", "d")
    left["metadata"]["ownerReferences"] = []
    api.put(left)
    api.put(workload(STATEFUL_SETS))

    def adopted() -> bool:
        ref = objects.controller_ref(api.all(CONTROLLER_REVISIONS)[0])
        return ref is not None and ref["uid"] != owner["metadata"]["uid"]

    await api.until(adopted)
    assert history(api) == {1: "one"}


async def test_below_the_partition_pods_are_made_of_the_revision_before(
    kubelet: FakeKubelet,
) -> None:
    api = kubelet.api
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
    api.put(workload(STATEFUL_SETS, updateStrategy=strategy))
    await api.until(lambda: images(api) == ["one"] * 3)
    await change(api, STATEFUL_SETS, "two")
    await api.until(lambda: sorted(images(api)) == ["one", "one", "two"])
    [first] = [p for p in api.all(PODS) if p["metadata"]["name"] == "w-0"]
    await api.client().delete(PODS, "w-0", "d")
    await api.until(lambda: first["metadata"]["uid"] not in [p["metadata"]["uid"] for p in api.all(PODS)])  # fmt: skip
    await api.until(lambda: sorted(images(api)) == ["one", "one", "two"])
