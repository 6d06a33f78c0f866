"""Create, update, patch and delete: status codes, reasons and what the server sets."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from .conftest import Raw, client_context, started
from .objects import CONFIG_MAP, CRD, DEPLOYMENT, PATHS, POD, SERVICE, changed

PODS, MAPS = PATHS["Pod"], PATHS["ConfigMap"]

REQUESTS: list[tuple[str, str, Any, int, str, str]] = [
    ("GET", f"{MAPS}/none", None, 404, "NotFound", 'configmaps "none" not found'),
    ("POST", "/api/v1/namespaces/none/configmaps", CONFIG_MAP, 404, "NotFound", 'namespaces "none" not found'),
    ("POST", MAPS, changed(CONFIG_MAP, "metadata.namespace", "kube-system"), 400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request"),
    ("POST", MAPS, changed(CONFIG_MAP, "metadata.name"), 422, "Invalid", "metadata.name: Required value: name or generateName is required"),
    ("POST", MAPS, POD, 400, "BadRequest", "does not match"),
    ("POST", MAPS, b"{", 400, "BadRequest", "invalid JSON"),
    ("PUT", f"{MAPS}/b", CONFIG_MAP, 404, "NotFound", 'configmaps "b" not found'),
    ("GET", "/apis/none/v1/things", None, 404, "NotFound", "the server could not find the requested resource"),
    ("GET", f"{MAPS}?labelSelector=a%3D%3D%3D", None, 400, "BadRequest", "label selector"),
    ("GET", f"{PODS}?fieldSelector=foo%3Dbar", None, 400, "BadRequest", "field label not supported: foo"),
    ("GET", f"{MAPS}?resourceVersion=999999", None, 504, "Timeout", "Too large resource version: 999999"),
    ("DELETE", "/api/v1/namespaces/default", None, 403, "Forbidden", "this namespace may not be deleted"),
    ("PATCH", f"{MAPS}/x", b"[]", 415, "UnsupportedMediaType", "accepted media types include"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "obj", "status", "reason", "text"),
    REQUESTS,
    ids=[r[5][:50] for r in REQUESTS],
)
async def test_refusals(
    api: Raw, method: str, path: str, obj: Any, status: int, reason: str, text: str
) -> None:
    got, answer = await api(method, path, obj)
    assert (got, answer["reason"]) == (status, reason), answer
    assert text in answer["message"]
    assert answer["kind"] == "Status"


async def test_create_sets_identity(api: Raw) -> None:
    made = await api.ok("POST", PATHS["Deployment"], DEPLOYMENT)
    meta = made["metadata"]
    assert meta["generation"] == 1
    assert meta["uid"] and meta["creationTimestamp"].endswith("Z")
    assert meta["namespace"] == "default"
    status, answer = await api("POST", PATHS["Deployment"], DEPLOYMENT)
    assert (status, answer["reason"]) == (409, "AlreadyExists")
    assert answer["message"] == 'deployments.apps "web" already exists'


async def test_generation_counts_specs_only(api: Raw) -> None:
    path = f"{PATHS['Deployment']}/web"
    await api.ok("POST", PATHS["Deployment"], DEPLOYMENT)
    merge = "application/merge-patch+json"
    labelled = await api.ok("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, kind=merge)
    assert labelled["metadata"]["generation"] == 1
    scaled = await api.ok("PATCH", path, {"spec": {"replicas": 3}}, kind=merge)
    assert scaled["metadata"]["generation"] == 2
    status = await api.ok("PATCH", f"{path}/status", {"status": {"replicas": 3}, "spec": {"replicas": 9}}, kind=merge)  # fmt: skip
    assert status["spec"]["replicas"] == 3
    assert status["status"]["replicas"] == 3
    assert status["metadata"]["generation"] == 2
    kept = await api.ok("PATCH", path, {"status": None, "spec": {"paused": True}}, kind=merge)
    assert kept["status"]["replicas"] == 3


async def test_unchanged_updates_are_not_written(api: Raw) -> None:
    made = await api.ok("POST", PATHS["Service"], SERVICE)
    again = await api.ok("PUT", f"{PATHS['Service']}/web", SERVICE)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert again["spec"]["clusterIP"] == made["spec"]["clusterIP"]


async def test_stale_updates_conflict(api: Raw) -> None:
    made = await api.ok("POST", MAPS, CONFIG_MAP)
    await api.ok("PUT", f"{MAPS}/a", changed(made, "data.x", "z"))
    status, answer = await api("PUT", f"{MAPS}/a", changed(made, "data.x", "w"))
    assert (status, answer["reason"]) == (409, "Conflict")
    assert answer["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please '
        "apply your changes to the latest version and try again"
    )


async def test_generate_name(api: Raw) -> None:
    obj = changed(changed(CONFIG_MAP, "metadata.name"), "metadata.generateName", "pre-")
    names = {(await api.ok("POST", MAPS, obj))["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(n.startswith("pre-") and len(n) == 9 for n in names)


async def test_dry_run_stores_nothing(api: Raw) -> None:
    shown = await api.ok("POST", f"{PATHS['Service']}?dryRun=All", SERVICE)
    assert shown["spec"]["clusterIP"].startswith("10.96.")
    status, _ = await api("GET", f"{PATHS['Service']}/web")
    assert status == 404
    await api.ok("POST", MAPS, CONFIG_MAP)
    await api.ok("DELETE", f"{MAPS}/a?dryRun=All")
    await api.ok("GET", f"{MAPS}/a")


async def test_finalizers_hold_the_object(api: Raw) -> None:
    await api.ok("POST", MAPS, changed(CONFIG_MAP, "metadata.finalizers", ["example.com/x"]))
    going = await api.ok("DELETE", f"{MAPS}/a")
    assert going["metadata"]["deletionTimestamp"]
    status, answer = await api("PATCH", f"{MAPS}/a", {"metadata": {"finalizers": ["example.com/x", "example.com/y"]}}, "application/merge-patch+json")  # fmt: skip
    assert status == 422 and "no new finalizers can be added" in answer["message"]
    await api.ok("PATCH", f"{MAPS}/a", {"metadata": {"finalizers": None}}, kind="application/merge-patch+json")  # fmt: skip
    assert (await api("GET", f"{MAPS}/a"))[0] == 404


async def test_pods_end_gracefully_once_scheduled(api: Raw) -> None:
    await api.ok("POST", PODS, POD)
    gone = await api.ok("DELETE", f"{PODS}/p")
    assert gone["kind"] == "Pod"
    assert (await api("GET", f"{PODS}/p"))[0] == 404
    await api.ok("POST", PODS, changed(POD, "spec.terminationGracePeriodSeconds", 7))
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}  # fmt: skip
    await api.ok("POST", f"{PODS}/p/binding", binding)
    status, answer = await api("POST", f"{PODS}/p/binding", binding)
    assert status == 409 and 'already assigned to node "n1"' in answer["message"]
    ending = await api.ok("DELETE", f"{PODS}/p")
    assert ending["metadata"]["deletionGracePeriodSeconds"] == 7
    assert (await api.ok("GET", f"{PODS}/p"))["spec"]["nodeName"] == "n1"
    await api.ok("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert (await api("GET", f"{PODS}/p"))[0] == 404


async def test_propagation_is_recorded_for_the_collector(api: Raw) -> None:
    path = PATHS["Deployment"]
    for policy, finalizer in (("Foreground", "foregroundDeletion"), ("Orphan", "orphan")):
        obj = changed(DEPLOYMENT, "metadata.name", policy.lower())
        await api.ok("POST", path, obj)
        left = await api.ok("DELETE", f"{path}/{policy.lower()}", {"propagationPolicy": policy})
        assert left["metadata"]["finalizers"] == [finalizer]
    status, answer = await api("DELETE", f"{path}/orphan", {"propagationPolicy": "X"})
    assert status == 422 and "propagationPolicy" in answer["message"]


async def test_preconditions(api: Raw) -> None:
    await api.ok("POST", MAPS, CONFIG_MAP)
    status, answer = await api("DELETE", f"{MAPS}/a", {"preconditions": {"uid": "other"}})
    assert (status, answer["reason"]) == (409, "Conflict")
    assert "UID in precondition: other" in answer["message"]


async def test_namespace_ends_when_it_is_finalized(api: Raw) -> None:
    path = PATHS["Namespace"]
    made = await api.ok("POST", path, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "t"}})  # fmt: skip
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "t"}
    ending = await api.ok("DELETE", f"{path}/t")
    assert ending["status"]["phase"] == "Terminating"
    status, answer = await api("POST", "/api/v1/namespaces/t/configmaps", CONFIG_MAP)
    assert status == 403
    assert answer["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    await api.ok("PUT", f"{path}/t/finalize", changed(ending, "spec.finalizers", []))
    assert (await api("GET", f"{path}/t"))[0] == 404


async def test_delete_collection_by_label(api: Raw) -> None:
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        await api.ok("POST", MAPS, changed(changed(CONFIG_MAP, "metadata.name", name), "metadata.labels", {"l": label}))  # fmt: skip
    await api.ok("DELETE", f"{MAPS}?labelSelector=l%3Dx")
    left = await api.ok("GET", MAPS)
    assert [o["metadata"]["name"] for o in left["items"]] == ["c"]


async def test_scale(api: Raw) -> None:
    path = f"{PATHS['Deployment']}/web"
    await api.ok("POST", PATHS["Deployment"], DEPLOYMENT)
    scale = await api.ok("GET", f"{path}/scale")
    assert scale["spec"] == {"replicas": 1}
    assert scale["status"]["selector"] == "app=web"
    await api.ok("PUT", f"{path}/scale", changed(scale, "spec.replicas", 4))
    assert (await api.ok("GET", path))["spec"]["replicas"] == 4


async def test_custom_resources(api: Raw) -> None:
    await api.ok("POST", PATHS["CustomResourceDefinition"], CRD)
    path = "/apis/example.com/v1/namespaces/default/widgets"
    widget = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 3, "junk": 1}}  # fmt: skip
    made = await api.ok("POST", path, widget)
    assert made["spec"] == {"size": 3, "color": "red"}
    status, answer = await api("POST", path, changed(widget, "spec.size", 0))
    assert status == 422 and "spec.size in body should be greater than or equal to 1" in answer["message"]  # fmt: skip
    status, answer = await api("POST", f"{path}?fieldValidation=Strict", changed(widget, "metadata.name", "v"))  # fmt: skip
    assert status == 400 and 'unknown field "spec.junk"' in answer["message"]
    found = await api.ok("GET", "/apis/example.com/v1")
    assert [r["name"] for r in found["resources"]] == ["widgets", "widgets/status"]
    await api.ok("DELETE", f"{PATHS['CustomResourceDefinition']}/widgets.example.com")
    assert (await api("GET", path))[0] == 404


async def test_who_may_ask(api: Raw) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bot"}}
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    await api.ok("POST", accounts, account)
    token = (await api.ok("POST", f"{accounts}/bot/token", {"spec": {}}))["status"]["token"]
    context = client_context(api.running.pki, user=False)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as nobody:
        for headers, path, expected in (
            ({}, "/version", 200),
            ({}, "/readyz", 200),
            ({}, MAPS, 403),
            ({"Authorization": "Bearer x.y.z"}, MAPS, 401),
            ({"Authorization": f"Bearer {token}"}, MAPS, 200),
        ):
            async with nobody.get(api.running.url + path, headers=headers) as response:
                assert response.status == expected, path
        async with nobody.get(f"{api.running.url}{MAPS}/a") as response:
            assert (await response.json())["message"] == (
                'configmaps "a" is forbidden: User "system:anonymous" cannot get resource '
                '"configmaps" in API group "" in the namespace "default"'
            )
    review = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    me = await api.ok("POST", review, {})
    assert me["status"]["userInfo"]["username"] == "kubernetes-admin"
    assert "system:masters" in me["status"]["userInfo"]["groups"]


async def test_a_killed_server_has_lost_nothing(pki_dir: Path, tmp_path: Path) -> None:
    async with started(pki_dir, data_dir=tmp_path) as first:
        made = await first.ok("POST", PATHS["Service"], SERVICE)
        await first.ok("POST", MAPS, CONFIG_MAP)
        await first.ok("DELETE", f"{MAPS}/a")
    with (tmp_path / "log").open("ab") as log:
        log.write(b'P configmaps {"torn":')
    async with started(pki_dir, data_dir=tmp_path) as second:
        assert await second.ok("GET", f"{PATHS['Service']}/web") == made
        assert (await second("GET", f"{MAPS}/a"))[0] == 404
        status, answer = await second("POST", PATHS["Service"], changed(changed(SERVICE, "metadata.name", "b"), "spec.clusterIP", made["spec"]["clusterIP"]))  # fmt: skip
        assert status == 422 and "already allocated" in answer["message"]


async def test_a_dry_run_defines_nothing(api: Raw) -> None:
    await api.ok("POST", f"{PATHS['CustomResourceDefinition']}?dryRun=All", CRD)
    assert (await api("GET", "/apis/example.com/v1"))[0] == 404


async def test_resources_go_with_their_definition(api: Raw) -> None:
    path = "/apis/example.com/v1/namespaces/default/widgets"
    for _ in range(2):
        await api.ok("POST", PATHS["CustomResourceDefinition"], CRD)
        assert (await api.ok("GET", path))["items"] == []
        await api.ok("POST", path, {"metadata": {"name": "w"}, "spec": {"size": 1}})
        await api.ok("DELETE", f"{PATHS['CustomResourceDefinition']}/widgets.example.com")


async def test_large_bodies(api: Raw) -> None:
    definition = changed(CRD, "metadata.annotations", {"a": "x" * 200_000})
    await api.ok("POST", PATHS["CustomResourceDefinition"], definition)
    status, answer = await api("POST", MAPS, changed(CONFIG_MAP, "data", {"x": "y" * 1_500_000}))
    assert (status, answer["reason"]) == (422, "Invalid")
    status, answer = await api("POST", MAPS, changed(CONFIG_MAP, "data", {"x": "y" * 4_000_000}))
    assert (status, answer["reason"]) == (413, "RequestEntityTooLarge")


async def test_health_says_more_if_asked(api: Raw) -> None:
    for name in ("healthz", "livez", "readyz"):
        assert (await api("GET", f"/{name}"))[1] == {"text": b"ok"}
        said = f"[+]ping ok\n{name} check passed\n".encode()
        assert (await api("GET", f"/{name}?verbose"))[1] == {"text": said}
