"""The class that an Ingress gets which names none."""

from typing import Any

import pytest

from tests.apiserver.conftest import Raw

from .objects import INGRESS, changed

CLASSES = "/apis/networking.k8s.io/v1/ingressclasses"
INGRESSES = "/apis/networking.k8s.io/v1/namespaces/default/ingresses"
OLD = "metadata.annotations"
ROWS: list[tuple[str, dict[str, str], Any, str | None]] = [
    ("one default", {"a": "true", "b": "false"}, INGRESS, "a"),
    ("none", {"a": "false"}, INGRESS, None),
    ("named", {"a": "true"}, changed(INGRESS, "spec.ingressClassName", "b"), "b"),
    ("named in the old way", {"a": "true"}, changed(INGRESS, OLD, {"kubernetes.io/ingress.class": "b"}), None),
]  # fmt: skip


async def make_class(api: Raw, name: str, default: str) -> None:
    annotations = {"ingressclass.kubernetes.io/is-default-class": default}
    kinds = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass"}
    meta = {"name": name, "annotations": annotations}
    await api.ok("POST", CLASSES, kinds | {"metadata": meta, "spec": {"controller": "x.test/y"}})


@pytest.mark.parametrize(("text", "classes", "obj", "wanted"), ROWS, ids=[r[0] for r in ROWS])
async def test_class(
    api: Raw, text: str, classes: dict[str, str], obj: Any, wanted: str | None
) -> None:
    for name, default in classes.items():
        await make_class(api, name, default)
    made = await api.ok("POST", INGRESSES, obj)
    assert made["spec"].get("ingressClassName") == wanted


async def test_two_defaults_are_refused(api: Raw) -> None:
    for name in "ab":
        await make_class(api, name, "true")
    status, answer = await api("POST", INGRESSES, INGRESS)
    assert (status, answer["reason"]) == (403, "Forbidden")
    assert "2 default IngressClasses were found, only 1 allowed" in answer["message"]
