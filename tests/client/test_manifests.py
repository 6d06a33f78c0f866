"""Manifests are read as kubectl reads them, and every complaint names its place."""

from pathlib import Path

import pytest

from kubewire.api.errors import InputError
from kubewire.client.manifests import load, parse

GOOD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: b}\n"


def test_documents_and_lists_are_unpacked() -> None:
    listed = '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}]}'
    found = parse(f"---\n{GOOD}---\n---\n{listed}\n", "f.yaml")
    assert [(m.kind, m.document) for m in found] == [("ConfigMap", 1), ("Secret", 2)]
    assert found[0].where("data") == "f.yaml[document 1] ConfigMap b/a: data"


def test_items_of_the_servers_own_lists_have_the_kind_of_the_list() -> None:
    text = "apiVersion: v1\nkind: ServiceList\nitems: [{metadata: {name: a}}, {kind: X, metadata: {name: b}}]"
    found = parse(text, "f")
    assert [(m.kind, m.obj["apiVersion"]) for m in found] == [("Service", "v1"), ("X", "v1")]


@pytest.mark.parametrize(
    ("kind", "meta", "named"),
    [
        ("v1, kind: Service", "name: bad", "Service team/bad"),
        ("v1, kind: Service", "name: bad, namespace: x", "Service x/bad"),
        ("v1, kind: Service", "", "Service"),
        ("v1, kind: Node", "name: n, namespace: x", "Node n"),
        ("example.com/v1, kind: Widget", "name: w", "Widget w"),
        ("example.com/v1, kind: Widget", "name: w, namespace: x", "Widget x/w"),
    ],
)
def test_a_place_has_the_namespace_that_will_hold(kind: str, meta: str, named: str) -> None:
    [found] = parse(f"{{apiVersion: {kind}, metadata: {{{meta}}}}}", "f", "team")
    assert found.where("spec") == f"f[document 1] {named}: spec"


def test_dates_stay_text() -> None:
    assert parse(GOOD + "data: {day: 2026-01-02}", "f")[0].obj["data"] == {"day": "2026-01-02"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", "f.yaml[document 1]: line 2"),
        (f"{GOOD}---\na: b: c", "f.yaml[document 2]: line 5"),
        ("- 1", "f.yaml[document 1]: an object is expected, not list"),
        ("kind: Pod", "Object 'apiVersion' is missing"),
        ("apiVersion: v1", "Object 'Kind' is missing"),
        (GOOD + "kind: Pod\n", 'key "kind" already set in map'),
    ],
)
def test_complaints(text: str, complaint: str) -> None:
    with pytest.raises(InputError) as raised:
        parse(text, "f.yaml")
    assert complaint in str(raised.value)


def test_folders_are_read_recursively(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yml").write_text(GOOD)
    (tmp_path / "a.json").write_text(
        '{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}'
    )
    (tmp_path / "notes.txt").write_text("not a manifest")
    assert [m.kind for m in load([str(tmp_path)])] == ["Pod", "ConfigMap"]


def test_missing_path() -> None:
    with pytest.raises(InputError, match="does not exist"):
        load(["nowhere.yaml"])
