"""Server-side apply: ownership, conflicts, removal."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubewire.apiserver import fieldset, models
from kubewire.apiserver.fieldset import Shape

from .conftest import JSON, Raw
from .objects import CONFIG_MAP, DEPLOYMENT, PATHS, POLICY, changed

APPLY = "application/apply-patch+yaml"
WEB = f"{PATHS['Deployment']}/web"
C = "spec.template.spec.containers.0"


async def _apply(api: Raw, obj: Any, manager: str, **query: str) -> tuple[int, JSON]:
    more = "".join(f"&{k}={v}" for k, v in query.items())
    return await api("PATCH", f"{WEB}?fieldManager={manager}{more}", obj, APPLY)


async def test_apply_creates_then_changes(api: Raw) -> None:
    status, made = await _apply(api, DEPLOYMENT, "me")
    assert status == 201
    entry = made["metadata"]["managedFields"][0]
    assert (entry["manager"], entry["operation"]) == ("me", "Apply")
    containers = entry["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]
    assert containers == {'k:{"name":"c"}': {".": {}, "f:image": {}, "f:name": {}}}
    status, again = await _apply(api, DEPLOYMENT, "me")
    assert status == 200
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_apply_removes_what_it_no_longer_says(api: Raw) -> None:
    await _apply(api, changed(changed(DEPLOYMENT, "spec.paused", True), f"{C}.env", [{"name": "A", "value": "1"}]), "me")  # fmt: skip
    _, left = await _apply(api, DEPLOYMENT, "me")
    assert "paused" not in left["spec"]
    assert "env" not in left["spec"]["template"]["spec"]["containers"][0]
    assert left["spec"]["replicas"] == 1


async def test_conflicts_name_owner_and_field(api: Raw) -> None:
    await _apply(api, changed(DEPLOYMENT, "spec.replicas", 2), "a")
    status, answer = await _apply(api, changed(DEPLOYMENT, "spec.replicas", 3), "b")
    assert (status, answer["reason"]) == (409, "Conflict")
    assert answer["message"] == 'Apply failed with 1 conflict: conflict with "a" using apps/v1: .spec.replicas'  # fmt: skip
    cause = answer["details"]["causes"][0]
    assert (cause["reason"], cause["field"]) == ("FieldManagerConflict", ".spec.replicas")
    status, forced = await _apply(api, changed(DEPLOYMENT, "spec.replicas", 3), "b", force="true")
    assert status == 200 and forced["spec"]["replicas"] == 3
    _, kept = await _apply(api, DEPLOYMENT, "a")
    assert kept["spec"]["replicas"] == 3


async def test_what_was_there_before_belongs_to_somebody(api: Raw) -> None:
    await api.ok("POST", PATHS["Deployment"], DEPLOYMENT)
    status, answer = await _apply(api, changed(DEPLOYMENT, f"{C}.image", "x"), "me")
    assert status == 409
    assert 'conflict with "before-first-apply" using apps/v1: .spec.template.spec.containers[name="c"].image' in answer["message"]  # fmt: skip
    status, _ = await _apply(api, DEPLOYMENT, "me")
    assert status == 200


async def _client_side(api: Raw, obj: Any) -> None:
    """As ``kubectl apply`` creates."""
    note = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(obj)}
    await api.ok("POST", PATHS[obj["kind"]], changed(obj, "metadata.annotations", note))


async def test_kubectl_goes_on_with_server_side(api: Raw) -> None:
    # The stored list has a protocol by default, so that it differs from what was and is applied.
    policy = changed(POLICY, "spec.ingress", [{"ports": [{"port": 80}]}])
    await _client_side(api, policy)
    path = f"{PATHS['NetworkPolicy']}/{policy['metadata']['name']}?fieldManager="
    status, answer = await api("PATCH", f"{path}kubectl", policy, APPLY)
    assert status == 200, answer
    [mine] = [e for e in answer["metadata"]["managedFields"] if e["manager"] == "kubectl"]
    assert "f:ingress" in mine["fieldsV1"]["f:spec"]
    status, answer = await api("PATCH", f"{path}kubectl", changed(policy, "spec.ingress"), APPLY)
    assert (status, "ingress" in answer["spec"]) == (200, False)


async def test_others_conflict_with_what_kubectl_has_applied(api: Raw) -> None:
    await _client_side(api, changed(DEPLOYMENT, "spec.replicas", 2))
    status, answer = await _apply(api, changed(DEPLOYMENT, "spec.replicas", 3), "me")
    assert status == 409
    assert 'conflict with "kubectl-client-side-apply" using apps/v1: .spec.replicas' in answer["message"]  # fmt: skip


async def test_what_others_have_changed_since_is_not_kubectls(api: Raw) -> None:
    await _client_side(api, changed(DEPLOYMENT, "spec.replicas", 2))
    await api.ok("PATCH", WEB, {"spec": {"replicas": 5}}, kind="application/merge-patch+json")
    status, answer = await _apply(api, changed(DEPLOYMENT, "spec.replicas", 2), "kubectl")
    assert status == 409
    assert 'conflict with "before-first-apply" using apps/v1: .spec.replicas' in answer["message"]


async def test_plain_writes_take_ownership(api: Raw) -> None:
    await _apply(api, changed(DEPLOYMENT, "spec.replicas", 2), "a")
    await api.ok("PATCH", f"{WEB}?fieldManager=hpa", {"spec": {"replicas": 5}}, kind="application/merge-patch+json")  # fmt: skip
    status, answer = await _apply(api, changed(DEPLOYMENT, "spec.replicas", 2), "a")
    assert status == 409 and '"hpa"' in answer["message"]


async def test_apply_needs_a_manager(api: Raw) -> None:
    path = f"{PATHS['ConfigMap']}/a"
    status, answer = await api("PATCH", path, CONFIG_MAP, APPLY)
    assert (status, answer["reason"]) == (422, "Invalid")
    assert "fieldManager: Required value: is required for apply patch" in answer["message"]
    yaml = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {when: '2020-01-01'}\n"
    made = await api.ok("PATCH", f"{path}?fieldManager=me", yaml, kind=APPLY)
    assert made["data"] == {"when": "2020-01-01"}


SHAPE = Shape(models.kind_struct("", "v1", "Pod"))
images = st.text("xy", min_size=1, max_size=2)
pods = st.dictionaries(st.sampled_from("abc"), images, min_size=1, max_size=3).map(
    lambda d: {"metadata": {}, "spec": {"containers": [{"name": n, "image": i} for n, i in d.items()]}}
)  # fmt: skip


@given(pods, pods)
def test_merge_then_remove_gives_back_the_live_object(live: JSON, applied: JSON) -> None:
    before = fieldset.leaves(live, SHAPE)
    merged = fieldset.merge(live, applied, SHAPE)
    assert fieldset.leaves(merged, SHAPE) == before | fieldset.leaves(applied, SHAPE)
    added = set(fieldset.leaves(merged, SHAPE)) - set(before)
    left = fieldset.remove(merged, added, SHAPE)
    assert set(fieldset.leaves(left, SHAPE)) == set(before)


@pytest.mark.parametrize("obj", [DEPLOYMENT, CONFIG_MAP])
def test_wire_form_loses_nothing(obj: JSON) -> None:
    served = models.kind_struct("apps", "v1", "Deployment")
    paths = set(fieldset.leaves(obj, Shape(served)))
    assert fieldset.from_wire(fieldset.to_wire(paths)) == paths
