"""The table of answers: what makes room, and what goes with a change."""

import math

import pytest

from kubewire.dns.table import Entry, Labels, Table


def key(number: int) -> bytes:
    return b"%d" % number


@pytest.mark.parametrize("limit", [1, 7, 64, 4096])
def test_the_oldest_make_room_some_at_a_time(limit: int) -> None:
    table = Table(limit)
    for number in range(3 * limit):
        table.put(key(number), Entry((b"",), math.inf, ("all", number % 3), Labels((), 0, 0)))
        assert len(table.entries) <= limit
    kept = [*table.entries]
    assert kept == [key(n) for n in range(3 * limit - len(kept), 3 * limit)]
    assert len(kept) >= limit - limit // 8 - 1 or limit == 1
    table.drop([0])
    assert [*table.entries] == [k for k in kept if int(k) % 3]
    table.drop(["all"])
    assert not table.entries
