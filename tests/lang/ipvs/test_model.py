from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubewire.lang.ipvs.model import (
    PORT_IN_HASH,
    DestinationKey,
    Operation,
    ServerKey,
    VirtualServer,
    apply,
    diff,
    draining,
    eligible,
    look_up,
)
from kubewire.lang.packet import Packet

ENDS = [DestinationKey(f"10.0.0.{i}", 80) for i in range(4)]
KEYS = [ServerKey(4, f"10.96.0.{i}", "TCP", 80) for i in range(3)] + [ServerKey(4, mark=7)]


@st.composite
def states(draw: Any) -> dict[ServerKey, VirtualServer]:
    found = draw(
        st.dictionaries(
            st.sampled_from(KEYS),
            st.tuples(
                st.sampled_from(["rr", "wlc", "mh"]),
                st.none() | st.integers(1, 9),
                st.sampled_from([0, PORT_IN_HASH]),
                st.dictionaries(st.sampled_from(ENDS), st.integers(0, 3)),
            ),
        )
    )
    return {key: VirtualServer(key, *rest) for key, rest in found.items()}


@given(states(), states())
def test_applying_the_difference_leads_there(
    old: dict[ServerKey, VirtualServer], new: dict[ServerKey, VirtualServer]
) -> None:
    assert apply(old, diff(old, new)) == new
    assert diff(new, new) == []


@given(states(), states())
def test_the_difference_touches_nothing_that_stays(
    old: dict[ServerKey, VirtualServer], new: dict[ServerKey, VirtualServer]
) -> None:
    for operation in diff(old, new):
        assert old.get(operation.server.key) != new.get(operation.server.key)


def server(protocol: str = "TCP", **weights: int) -> VirtualServer:
    key = ServerKey(4, "10.96.0.1", protocol, 80)
    return VirtualServer(key, destinations={ENDS[int(n[1:])]: w for n, w in weights.items()})


def test_destinations_come_after_their_server_and_go_before_nothing() -> None:
    assert [
        str(o) for o in diff({}, {KEYS[0]: VirtualServer(KEYS[0], destinations={ENDS[0]: 1})})
    ] == [
        "add virtual server -t 10.96.0.0:80",
        "add destination 10.0.0.0:80 of -t 10.96.0.0:80",
    ]
    old, new = server(d0=1), server(d1=1)
    verbs = [o.verb for o in diff({old.key: old}, {new.key: new})]
    assert verbs == ["add", "remove"]


@pytest.mark.parametrize(
    ("protocol", "busy", "expected"),
    [
        ("TCP", [ENDS[0]], {ENDS[1]: 1, ENDS[0]: 0}),
        ("SCTP", [ENDS[0]], {ENDS[1]: 1, ENDS[0]: 0}),
        ("TCP", [], {ENDS[1]: 1}),
        ("TCP", [ENDS[1], ENDS[2]], {ENDS[1]: 1}),
        ("UDP", [ENDS[0]], {ENDS[1]: 1}),
    ],
)
def test_draining(
    protocol: str, busy: list[DestinationKey], expected: dict[DestinationKey, int]
) -> None:
    wanted, present = server(protocol, d1=1), server(protocol, d0=1, d1=1)
    assert draining(wanted, present, busy).destinations == expected


def test_a_mark_is_looked_up_first() -> None:
    plain, marked = server(d0=1), VirtualServer(ServerKey(4, mark=9), destinations={ENDS[1]: 1})
    servers = {plain.key: plain, marked.key: marked}
    packet = Packet("10.0.0.9", "10.96.0.1", "tcp", dport=80)
    assert look_up(servers, packet) == plain
    assert look_up(servers, Packet("10.0.0.9", "10.96.0.1", "tcp", dport=80, mark=9)) == marked
    assert look_up(servers, Packet("10.0.0.9", "10.96.0.1", "tcp", dport=81)) is None
    assert look_up(servers, Packet("10.0.0.9", "10.96.0.1", "tcp", dport=80, mark=8)) == plain


def test_weight_nought_gets_nothing_new() -> None:
    assert eligible(server(d0=0, d1=2)) == (ENDS[1],)


def test_lines_are_what_ipvsadm_saves() -> None:
    key = ServerKey(6, "fd00::1", "UDP", 53)
    one = VirtualServer(key, "mh", 60, PORT_IN_HASH, {DestinationKey("fd00::2", 5353): 3})
    assert list(one.lines()) == [
        "-A -u [fd00::1]:53 -s mh -p 60 -b mh-port",
        "-a -u [fd00::1]:53 -r [fd00::2]:5353 -m -w 3",
    ]
    assert str(Operation("remove", one, DestinationKey("fd00::2", 5353))) == (
        "remove destination [fd00::2]:5353 of -u [fd00::1]:53"
    )
