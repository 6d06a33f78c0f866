import pytest

from kubewire.lang.ipvs.model import PORT_IN_HASH, DestinationKey, ServerKey, VirtualServer
from kubewire.lang.ipvs.schedulers import SCHEDULERS, share

KEY = ServerKey(4, "10.96.0.1", "TCP", 80)
ENDS = [DestinationKey(f"10.0.0.{i}", 80) for i in range(4)]
CLIENTS = [("10.244.0.9", 20000 + i) for i in range(1000)]


def counts(scheduler: str, *weights: int, flags: int = 0) -> list[int]:
    server = VirtualServer(KEY, scheduler, None, flags, dict(zip(ENDS, weights, strict=False)))
    found = share(server, CLIENTS)
    return [found.get(end, 0) for end in ENDS[: len(weights)]]


@pytest.mark.parametrize(
    ("scheduler", "weights", "expected"),
    [
        ("rr", (1, 3), [500, 500]),
        ("wrr", (1, 3), [250, 750]),
        ("wrr", (2, 6), [250, 750]),
        ("lc", (1, 3), [500, 500]),
        ("wlc", (1, 3), [250, 750]),
        ("sed", (1, 3), [250, 750]),
        ("nq", (1, 3), [250, 750]),
        ("wlc", (1, 0, 1), [500, 0, 500]),
    ],
)
def test_exact_shares(scheduler: str, weights: tuple[int, ...], expected: list[int]) -> None:
    assert counts(scheduler, *weights) == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_hashes_weigh_over_many_clients(scheduler: str) -> None:
    assert counts(scheduler, 1, 3, flags=PORT_IN_HASH) == pytest.approx([250, 750], abs=60)


def test_a_hash_without_ports_keeps_a_client_together() -> None:
    assert sorted(counts("sh", 1, 1, 1)) == [0, 0, 1000]
    assert sorted(counts("dh", 1, 1, 1)) == [0, 0, 1000]


@pytest.mark.parametrize("scheduler", ["lblc", "lblcr"])
def test_locality_keeps_one_until_it_is_overloaded(scheduler: str) -> None:
    assert max(counts(scheduler, 1000, 1000)) == 1000
    assert min(counts(scheduler, 100, 100)) > 0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_nobody_gets_all_there_is_when_all_are_out(scheduler: str) -> None:
    assert counts(scheduler, 0, 0) == [0, 0]
