from typing import Any

from kubewire.api.meta import JSON
from kubewire.api.resources import ENDPOINT_SLICES, ENDPOINTS, NODES, PODS, SERVICES
from kubewire.api.service import TRIGGERED
from kubewire.testing.fakeapi import FakeApi
from kubewire.testing.fakekubelet import FakeKubelet


def pod(name: str, **labels: str) -> JSON:
    meta = {"name": name, "namespace": "d", "labels": labels or {"app": "web"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []}}


def service(**spec: Any) -> JSON:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "d"},
        "spec": {
            "selector": {"app": "web"},
            "clusterIP": "10.96.0.9",
            "ports": [{"port": 80, "targetPort": 8080}],
            **spec,
        },
    }


def ready(api: FakeApi) -> int:
    found = [e for s in api.all(ENDPOINT_SLICES) for e in s["endpoints"]]
    return sum(e["conditions"]["ready"] for e in found)


def old(api: FakeApi) -> list[str]:
    found = api.get(ENDPOINTS, "web", "d") or {}
    subsets = found.get("subsets") or ()
    return [a["ip"] for s in subsets for a in s.get("addresses") or ()]


async def test_endpoints_follow_pods(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(service())
    await api.until(lambda: len(api.all(ENDPOINT_SLICES)) == 1)
    for name in "abc":
        api.put(pod(name))
    await api.until(lambda: ready(api) == 3 and len(old(api)) == 3)
    assert len(api.all(ENDPOINT_SLICES)) == 1
    kubelet.broken = lambda pod: pod["metadata"]["name"] == "b"
    kubelet.loop.trigger(full=True)
    await api.until(lambda: ready(api) == 2 and len(old(api)) == 2)
    await api.client().patch(PODS, "a", {"metadata": {"labels": {"app": "x"}}}, "d")
    await api.until(lambda: ready(api) == 1 and len(old(api)) == 1)


def triggered(api: FakeApi) -> set[str | None]:
    found = [*api.all(ENDPOINT_SLICES), *api.all(ENDPOINTS)]
    return {(o["metadata"].get("annotations") or {}).get(TRIGGERED) for o in found}


async def test_endpoints_tell_when_their_change_began(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    made = "2026-01-01T00:00:00Z"
    wanted = service()
    api.put(wanted | {"metadata": wanted["metadata"] | {"creationTimestamp": made}})
    await api.until(lambda: triggered(api) == {made})
    api.put(pod("a"))
    await api.until(lambda: ready(api) == 1 and old(api))
    conditions = (api.get(PODS, "a", "d") or {})["status"]["conditions"]
    turned = next(c["lastTransitionTime"] for c in conditions if c["type"] == "Ready")
    assert triggered(api) == {turned}
    await api.client().patch(PODS, "a", {"metadata": {"labels": {"app": "x"}}}, "d")
    await api.until(lambda: ready(api) == 0 and not old(api))
    assert triggered(api) == {None}


async def test_a_terminating_pod_still_serves(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(service())
    held = pod("a")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    api.put(held)
    await api.until(lambda: ready(api) == 1)
    await api.client().delete(PODS, "a", "d")

    def conditions() -> JSON:
        ((endpoint,),) = [s["endpoints"] for s in api.all(ENDPOINT_SLICES)]
        return dict(endpoint["conditions"])

    await api.until(lambda: conditions()["terminating"])
    assert conditions() == {"ready": False, "serving": True, "terminating": True}


async def test_a_deleted_service_takes_its_slices(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(service())
    await api.until(lambda: api.all(ENDPOINT_SLICES) and api.all(ENDPOINTS))
    await api.client().delete(SERVICES, "web", "d")
    await api.until(lambda: not api.all(ENDPOINT_SLICES) and not api.all(ENDPOINTS))


async def test_a_slice_that_somebody_removes_comes_back(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(service())
    (found,) = await api.until(lambda: api.all(ENDPOINT_SLICES))
    api.remove(ENDPOINT_SLICES, found["metadata"]["name"], "d")
    await api.until(lambda: api.all(ENDPOINT_SLICES))


async def test_a_zone_that_a_node_gets_shows(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(service(trafficDistribution="PreferSameZone"))
    api.put(pod("a"))
    await api.until(lambda: ready(api) == 1)
    zone = {"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}}}
    for name in ("n1", "n2"):
        await api.client().patch(NODES, name, zone)

    def hinted() -> bool:
        (found,) = api.all(ENDPOINT_SLICES)
        return bool(found["endpoints"][0].get("hints") == {"forZones": [{"name": "z"}]})

    await api.until(hinted)


async def test_services_without_a_selector_are_left_alone(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(service(selector=None))
    api.put(pod("a"))
    await api.until(lambda: "status" in api.all(PODS)[0])
    await api.converge()
    assert api.all(ENDPOINT_SLICES) == []


async def test_hand_written_endpoints_are_mirrored(kubelet: FakeKubelet) -> None:
    api = kubelet.api
    api.put(service(selector=None))
    written = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "d"},
        "subsets": [
            {
                "addresses": [{"ip": "192.0.2.1"}],
                "notReadyAddresses": [{"ip": "192.0.2.2"}],
                "ports": [{"port": 80}],
            },
        ],
    }
    api.put(written)
    (found,) = await api.until(lambda: api.all(ENDPOINT_SLICES))
    managed = found["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"]
    assert managed == "endpointslicemirroring-controller.k8s.io"
    assert {e["addresses"][0]: e["conditions"]["ready"] for e in found["endpoints"]} == {
        "192.0.2.1": True,
        "192.0.2.2": False,
    }
    api.remove(ENDPOINTS, "web", "d")
    await api.until(lambda: not api.all(ENDPOINT_SLICES))
