"""TXT records beside ours."""

import pytest

from kubewire.api.errors import InputError
from kubewire.dns.externaldns.record import Record, RecordKey
from kubewire.dns.externaldns.registry import Registry, parse


@pytest.mark.parametrize(
    ("options", "name", "kind", "expected"),
    [
        ({}, "a.example.org", "A", "a-a.example.org"),
        ({}, "a.example.org", "AAAA", "aaaa-a.example.org"),
        ({}, "a.example.org", "CNAME", "cname-a.example.org"),
        ({}, "*.example.org", "A", "a-*.example.org"),
        ({"wildcard": "any"}, "*.example.org", "A", "a-any.example.org"),
        ({"prefix": "x."}, "a.example.org", "A", "x.a-a.example.org"),
        ({"prefix": "x-"}, "a.example.org", "A", "x-a-a.example.org"),
        ({"prefix": "x-%{record_type}-"}, "a.example.org", "A", "x-a-a.example.org"),
        ({"suffix": "-x"}, "a.example.org", "A", "a-a-x.example.org"),
        ({"suffix": "-%{record_type}"}, "a.example.org", "AAAA", "a-aaaa.example.org"),
    ],
)
def test_names(options: dict[str, str], name: str, kind: str, expected: str) -> None:
    assert Registry(**options).name_of(RecordKey(name, kind)) == expected


def test_prefix_and_suffix() -> None:
    with pytest.raises(InputError, match="mutually exclusive"):
        Registry(prefix="x", suffix="y")


def test_text_and_back() -> None:
    registry = Registry("me")
    record = Record("a.example.org", "A", ("192.0.2.1",), 0, "service/d/s")
    text = registry.text_of(record)
    assert text == "heritage=external-dns,external-dns/owner=me,external-dns/resource=service/d/s"
    texts = {registry.name_of(record.key): ["v=spf1 -all", text]}
    (owned,) = registry.owned([Record("a.example.org", "A", ("192.0.2.1",), 0)], texts)
    assert (owned.owner, owned.resource) == ("me", "service/d/s")


@pytest.mark.parametrize("text", ["", "v=spf1 -all", "heritage=other,external-dns/owner=x"])
def test_texts_of_others(text: str) -> None:
    assert parse(text) is None
