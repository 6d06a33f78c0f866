"""The log: what was acknowledged comes back, whatever happened in between."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubewire.api.errors import InputError, StatusError
from kubewire.api.meta import Key
from kubewire.apiserver import store as module
from kubewire.apiserver.listing import ListOptions, collect
from kubewire.apiserver.store import Event, Store


def obj(name: str, value: int) -> dict[str, Any]:
    return {"metadata": {"name": name}, "value": value}


def content(store: Store) -> dict[str, Any]:
    return {
        f"{resource}/{key.name}": (revision.obj["value"], revision.rv)
        for resource, collection in store.collections.items()
        for key, revision in collection.objects.items()
    }


steps = st.lists(
    st.tuples(st.sampled_from(["as", "bs"]), st.sampled_from("xyz"), st.integers(0, 9) | st.none()),
    max_size=30,
)


@settings(deadline=None)
@given(steps, st.integers(0, 40), st.integers(1, 400))
def test_replay_gives_the_same_state(
    tmp_path_factory: pytest.TempPathFactory, steps: Any, torn: int, compact_at: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    store = Store(folder)
    store._compact_at = compact_at
    for resource, name, value in steps:
        key = Key("", name)
        if value is not None:
            store.put(resource, key, obj(name, value))
        elif store.get(resource, key):
            store.delete(resource, key)
    store.close()
    with (folder / "log").open("ab") as log:
        log.write(b'P as {"metadata":{"name":"x"},"value":99999999999999999999}'[:torn])
    again = Store(folder)
    assert content(again) == content(store)
    assert again.rv == store.rv + bool(again._size)
    again.put("as", Key("", "new"), obj("new", 1))
    again.close()
    third = Store(folder)
    assert third.get("as", Key("", "new"))
    third.close()


def test_watches_survive_a_restart_unless_compacted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    start = store.rv
    store.put("as", Key("", "x"), obj("x", 1))
    store.put("as", Key("", "x"), obj("x", 2))
    store.delete("as", Key("", "x"))
    store.close()
    again = Store(tmp_path)
    assert [e.kind for e in again.collection("as").since(start)] == ["ADDED", "MODIFIED", "DELETED"]
    again._compact()
    again.close()
    third = Store(tmp_path)
    with pytest.raises(StatusError, match="too old resource version"):
        list(third.collection("as").since(start))
    with pytest.raises(StatusError, match="too old resource version"):
        list(third.collection("never-seen").since(start))
    third.close()


def test_every_start_has_a_version_of_its_own(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        store = Store(tmp_path)
        if not seen:
            store.put("as", Key("", "x"), obj("x", 1))
        seen.append(store.rv)
        store.close()
    assert seen == [2, 3, 4]


def test_two_servers_do_not_share_a_log(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(InputError, match="another API server writes here"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    collection = store.collection("as")
    for value in range(module.HISTORY + 5):
        store.put("as", Key("", "x"), obj("x", value))
    assert len(collection.history) == module.HISTORY
    oldest = collection.history[0].rv
    assert collection.forgotten == oldest - 1
    assert len(list(collection.since(oldest - 1))) == module.HISTORY
    with pytest.raises(StatusError):
        list(collection.since(oldest - 2))


def test_listeners_hear_every_commit_in_order() -> None:
    store = Store()
    heard: list[Event] = []
    store.collection("as").listeners[heard.append] = None
    store.put("as", Key("", "x"), obj("x", 1))
    store.put("bs", Key("", "x"), obj("x", 1))
    store.delete("as", Key("", "x"))
    assert [(e.kind, e.rv) for e in heard] == [("ADDED", 2), ("DELETED", 4)]


def pages(store: Store, namespace: str, limit: int) -> list[tuple[list[str], int | None]]:
    found, token = [], ""
    while True:
        options = ListOptions(limit=limit, token=token)
        shown, meta = collect(store.collection("as"), store.rv, namespace, None, options)
        found.append(([r.obj["metadata"]["name"] for r in shown], meta.get("remainingItemCount")))
        if not (token := meta.get("continue", "")):
            return found


def named(namespace: str, name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}}


def test_pages_follow_what_comes_and_goes() -> None:
    store = Store()
    for namespace, name in (("n", "c"), ("n", "a"), ("m", "z"), ("o", "y"), ("n", "b")):
        store.put("as", Key(namespace, name), named(namespace, name))
    assert pages(store, "n", 2) == [(["a", "b"], 1), (["c"], None)]
    assert pages(store, "", 4) == [(["z", "a", "b", "c"], 1), (["y"], None)]
    store.delete("as", Key("n", "a"))
    store.put("as", Key("n", "d"), named("n", "d"))
    store.put("as", Key("n", "b"), named("n", "b"))
    assert pages(store, "n", 1) == [(["b"], 2), (["c"], 1), (["d"], None)]
    assert pages(store, "nobody", 1) == [([], None)]


def test_a_page_behind_a_change_shows_the_state_of_the_first() -> None:
    store = Store()
    for name in "abc":
        store.put("as", Key("n", name), named("n", name))
    _, meta = collect(store.collection("as"), store.rv, "n", None, ListOptions(limit=1))
    store.delete("as", Key("n", "c"))
    options = ListOptions(limit=9, token=meta["continue"])
    shown, _ = collect(store.collection("as"), store.rv, "n", None, options)
    assert [r.obj["metadata"]["name"] for r in shown] == ["b", "c"]
