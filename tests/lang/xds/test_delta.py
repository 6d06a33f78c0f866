from kubewire.lang.xds import delta
from kubewire.lang.xds.delta import Request, Resources, Stream
from kubewire.lang.xds.model import ASSIGNMENT, CLUSTER
from kubewire.lang.xds.protobuf import field, fields, texts


def told(responses: list[bytes]) -> tuple[str, list[str], list[str]]:
    """(nonce, sent names, removed names) of one response."""
    (response,) = responses
    found = list(fields(response))
    names = [texts(list(fields(v)), 3)[0] for n, v in found if n == 2 and isinstance(v, bytes)]
    return texts(found, 5)[0], names, list(texts(found, 6))


def resources(**bodies: bytes) -> Resources:
    found = Resources(encode=bytes)
    for name, body in bodies.items():
        found.put(CLUSTER, name, body)
    return found


def clear(found: Resources) -> None:
    for names in found.changed.values():
        names.clear()


def test_everything_then_only_what_changes() -> None:
    known = resources(a=b"1", b=b"1")
    clear(known)
    stream = Stream(known)
    responses, _ = stream.receive(Request(CLUSTER))
    nonce, names, _ = told(responses)
    assert names == ["a", "b"]
    assert not stream.settled()
    assert stream.receive(Request(CLUSTER, nonce=nonce)) == ([], "")
    assert stream.settled()
    assert not known.put(CLUSTER, "a", b"1")
    assert known.put(CLUSTER, "a", b"2")
    known.drop(CLUSTER, "b")
    nonce, names, removed = told(stream.news())
    clear(known)
    assert (names, removed) == (["a"], ["b"])
    stream.receive(Request(CLUSTER, nonce=nonce))
    assert stream.settled()


def test_who_asks_for_everything_is_told_of_nothing() -> None:
    responses, _ = Stream(Resources()).receive(Request(CLUSTER))
    assert told(responses)[1:] == ([], [])


def test_what_nobody_asks_for_is_not_even_encoded() -> None:
    encoded: list[object] = []
    known = Resources(encode=lambda value: encoded.append(value) or b"")
    stream = Stream(known)
    known.put(ASSIGNMENT, "a", 1)
    known.put(ASSIGNMENT, "b", 2)
    assert stream.news() == []
    assert stream.settled()
    clear(known)
    nonce, names, removed = told(stream.receive(Request(ASSIGNMENT, subscribe=("a", "x")))[0])
    assert (names, removed, encoded) == (["a"], ["x"], [1])
    assert not stream.settled()
    stream.receive(Request(ASSIGNMENT, nonce=nonce))
    assert stream.settled()
    assert stream.receive(Request(ASSIGNMENT, unsubscribe=("a",))) == ([], "")


def test_who_was_told_that_there_is_none_learns_of_it_later() -> None:
    known = Resources(encode=bytes)
    stream = Stream(known)
    assert told(stream.receive(Request(CLUSTER, subscribe=("a",)))[0])[1:] == ([], ["a"])
    known.put(CLUSTER, "a", b"1")
    assert told(stream.news())[1:] == (["a"], [])


def test_a_broken_stream_goes_on_where_it_was() -> None:
    known = resources(a=b"1", b=b"1")
    (version, _) = known.get(CLUSTER, "a") or ("", b"")
    stream = Stream(known)
    responses, _ = stream.receive(Request(CLUSTER, initial=(("a", version), ("gone", "x"))))
    assert told(responses)[1:] == (["b"], ["gone"])


def test_a_refusal_names_the_objects() -> None:
    stream = Stream(resources(a=b"1"))
    nonce, _, _ = told(stream.receive(Request(CLUSTER))[0])
    responses, remark = stream.receive(Request(CLUSTER, nonce=nonce, error="no such policy"))
    assert (responses, remark) == ([], "Envoy refuses Cluster a: no such policy")
    assert stream.settled()


def test_a_request_is_read_as_envoy_writes_it() -> None:
    entry = field(5, field(1, b"a") + field(2, b"v"))
    status = field(7, b"\x08\x0d" + field(2, b"bad"))
    data = field(1, b"") + field(2, CLUSTER.encode()) + field(3, b"a") + field(4, b"b")
    assert delta.parse(data + entry + field(6, b"7") + status) == Request(
        CLUSTER, ("a",), ("b",), (("a", "v"),), "7", "bad"
    )
