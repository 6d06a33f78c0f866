"""Wanted against what is there: nothing of others is touched."""

from dataclasses import replace

import pytest

from kubewire.dns.externaldns.plan import Changes, DomainFilter, Policy, plan
from kubewire.dns.externaldns.record import Record

A = Record("a.example.org", "A", ("192.0.2.1",), None, "service/d/s")
MINE = Record("a.example.org", "A", ("192.0.2.1",), 0, "service/d/s", "me")


def changed(*wanted: Record, there: tuple[Record, ...] = (), **options: object) -> Changes:
    given = {"owner": "me", **options}
    return plan({r.key: r for r in wanted}, there, **given)  # type: ignore[arg-type]


def test_what_is_as_wanted_stays() -> None:
    assert not changed(A, there=(MINE,))


def test_what_is_missing_is_created() -> None:
    assert changed(A).create == [A]


def test_new_targets_update_and_keep_the_ttl() -> None:
    new = Record("a.example.org", "A", ("192.0.2.2",), None, "service/d/s")
    old = Record("a.example.org", "A", ("192.0.2.1",), 30, "service/d/s", "me")
    ((before, after),) = changed(new, there=(old,)).update
    assert (before, after.targets, after.ttl) == (old, ("192.0.2.2",), 30)


def test_another_ttl_updates() -> None:
    assert changed(replace(A, ttl=60), there=(MINE,)).update


@pytest.mark.parametrize("owner", ["", "other"])
def test_others_records_are_left_alone(owner: str) -> None:
    theirs = Record("a.example.org", "A", ("192.0.2.9",), 60, "", owner)
    result = changed(A, there=(theirs,))
    assert not result
    assert [r for r, _ in result.foreign] == [A]
    assert not changed(there=(theirs,))


def test_a_name_of_others_gets_no_further_type() -> None:
    theirs = Record("a.example.org", "A", ("192.0.2.9",), 60)
    six = Record("a.example.org", "AAAA", ("2001:db8::1",))
    assert not changed(six, there=(theirs,))


def test_an_alias_becomes_an_address() -> None:
    alias = Record("a.example.org", "CNAME", ("x.example.net",), 0, "service/d/s", "me")
    result = changed(A, there=(alias,))
    assert (result.create, result.delete) == ([A], [alias])


@pytest.mark.parametrize(
    ("policy", "deleted", "updated"),
    [("sync", 1, 1), ("upsert-only", 0, 1), ("create-only", 0, 0)],
)
def test_policies(policy: Policy, deleted: int, updated: int) -> None:
    gone = Record("gone.example.org", "A", ("192.0.2.3",), 0, "", "me")
    moved = Record("a.example.org", "A", ("192.0.2.2",), None, "service/d/s")
    result = changed(moved, there=(MINE, gone), policy=policy)
    assert (len(result.delete), len(result.update)) == (deleted, updated)


def test_without_a_registry_everything_is_ours() -> None:
    theirs = Record("a.example.org", "A", ("192.0.2.9",), 60)
    assert changed(A, there=(theirs,), owner=None).update
    assert changed(there=(theirs,), owner=None).delete == [theirs]


def test_types_that_are_not_managed_are_left_alone() -> None:
    srv = Record("_s._tcp.example.org", "SRV", ("0 50 80 a.example.org.",), 0, "", "me")
    assert not changed(there=(srv,))
    assert changed(there=(srv,), types=("SRV",)).delete == [srv]


@pytest.mark.parametrize(
    ("include", "exclude", "name", "allowed"),
    [
        ((), (), "a.example.org", True),
        (("example.org",), (), "a.example.org", True),
        (("example.org",), (), "example.org", True),
        (("example.org",), (), "notexample.org", False),
        ((".example.org",), (), "example.org", False),
        ((".example.org",), (), "a.example.org", True),
        (("Example.org.",), (), "a.example.org", True),
        (("example.org",), ("b.example.org",), "a.b.example.org", False),
        ((), ("b.example.org",), "a.example.org", True),
    ],
)
def test_domains(
    include: tuple[str, ...], exclude: tuple[str, ...], name: str, allowed: bool
) -> None:
    assert DomainFilter(include, exclude).allows(name) is allowed
