from kubewire.api.meta import Key
from kubewire.trace.reachability import Cell, difference, matrix, overlay, ports_of
from networkpolicy import worlds
from networkpolicy.fixture import ALL, F, fixture, netpol
from networkpolicy.fixture import P as Pod
from networkpolicy.table import ROWS

DENY = netpol("deny", "x", {"podSelector": {}})
OPEN = netpol("open", "x", {"podSelector": {}, "ingress": [{"ports": [{"port": 81}]}]})


def test_the_matrix_is_that_of_the_table() -> None:
    for row in ROWS[::25]:
        found = matrix(worlds.objects([*fixture(), *row.policies]), [("TCP", 80)], declared=False)
        assert len(found) == len(ALL) * (len(ALL) - 1)
        for cell, decided in found.items():
            flow = F(Pod(*cell.source), Pod(*cell.target), cell.port, cell.protocol)
            assert decided.allowed == row.expected(flow), (row.name, flow)


def test_ports_are_those_of_policies_and_of_the_target() -> None:
    objects = worlds.objects([*fixture(), OPEN])
    assert ports_of([objects]) == [("TCP", 80), ("TCP", 81)]
    tried = {(c.protocol, c.port) for c in matrix(objects)}
    assert ("SCTP", 80) in tried


def test_what_a_change_opens_and_closes() -> None:
    before = worlds.objects([*fixture(), DENY])
    after = overlay(before, worlds.objects([OPEN]))
    ports = [("TCP", 80), ("TCP", 81)]
    was, now = (matrix(o, ports, declared=False) for o in (before, after))
    opened, closed = difference(was, now)
    assert closed == []
    assert len(opened) == 8 * 3
    assert Cell(Key("y", "b"), Key("x", "a"), "TCP", 81) in opened
    assert now[opened[0]].by == "NetworkPolicy x/open"
    assert difference(now, was) == ([], opened)


def test_an_object_of_the_same_name_is_replaced() -> None:
    before = worlds.objects([*fixture(), DENY])
    again = netpol("deny", "x", {"podSelector": {}, "ingress": [{}]})
    after = overlay(before, worlds.objects([again]))
    assert len(after.policies) == 1
    opened, closed = difference(matrix(before), matrix(after))
    assert opened
    assert not closed
