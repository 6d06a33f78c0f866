"""Leases on disk: shared, restarted and killed at any write."""

import tempfile
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kubewire.cni import ipam, store
from kubewire.cni.ipam import ExhaustedError, IpamError
from kubewire.cni.store import Store

Address = IPv4Address | IPv6Address
SETS = ipam.range_sets(["10.1.0.0/28", "fd00::/64"])
OWNERS = st.sampled_from([f"pod{n}" for n in range(16)])


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of the process runs after it."""


def killer(after: int) -> Callable[[str], None]:
    steps = 0

    def step(_: str) -> None:
        nonlocal steps
        steps += 1
        if steps > after:
            raise KilledError

    return step


def test_leases_outlive_the_process(tmp_path: Path) -> None:
    first = Store(tmp_path)
    held = first.take("a", SETS)
    first.take("b", SETS)
    first.drop("b")
    first.close()
    again = Store(tmp_path)
    assert again.owners() == ("a",)
    assert again.held("a") == held == again.take("a", SETS)
    # The turn goes on too: b's address is not given again at once.
    assert again.take("c", SETS)[0] == ip_address("10.1.0.4")
    again.close()


def test_two_processes_see_each_other(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    given_out = [s.take(f"{number}-{i}", SETS)[0] for number in range(4) for i, s in enumerate((one, two))]  # fmt: skip
    assert len(set(given_out)) == 8
    one.drop("0-1")
    assert two.held("0-1") == ()
    one.close()
    two.close()


def test_a_torn_line_counts_for_nothing_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    first = Store(tmp_path)
    first.take("a", SETS)
    first.close()
    path = tmp_path / "leases"
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut].replace(b'"a"', b'"z"'))
        again = Store(tmp_path)
        assert again.owners() == ("a",)
        again.take("b", SETS)
        again.close()
        reopened = Store(tmp_path)
        assert reopened.owners() == ("a", "b")
        reopened.close()
        path.write_bytes(whole)


def test_a_log_that_somebody_has_harmed(tmp_path: Path) -> None:
    """What can be read counts, and the store goes on."""
    opened = Store(tmp_path)
    for owner in "abc":
        opened.take(owner, SETS)
    path = tmp_path / "leases"
    first, _, third = path.read_bytes().splitlines(keepends=True)
    for junk in (b"\n", b'{"owner": 5}\n', b'{"owner":"x","addresses":["y"]}\n', bytes(9) + b"\n"):
        path.write_bytes(first + junk + third)
        assert set(opened.owners()) == {"a", "c"}
        again = Store(tmp_path)
        assert set(again.owners()) == {"a", "c"}
        again.close()
    path.write_bytes(b"")
    assert opened.owners() == ()
    opened.take("d", SETS)
    opened.close()


@pytest.mark.parametrize("after", range(12))
def test_killed_at_every_step(tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was returned before the kill is held after it; nothing is held twice."""
    monkeypatch.setattr(store, "SLACK", 0)
    returned: dict[str, tuple[Address, ...]] = {}
    dropped: set[str] = set()
    try:
        victim = Store(tmp_path, on_write=killer(after))
        for owner in ("a", "b", "c"):
            returned[owner] = victim.take(owner, SETS)
        for owner in ("a", "b"):
            dropped.add(owner)
            victim.drop(owner)
            del returned[owner]
            dropped.discard(owner)
        victim.close()
    except KilledError:
        pass
    survivor = Store(tmp_path)
    for owner, addresses in returned.items():
        # A drop that was cut short may have happened or not.
        assert survivor.held(owner) == addresses or owner in dropped
    fresh = [survivor.take(f"new{n}", SETS)[0] for n in range(13 - len(survivor.owners()))]
    held = [survivor.held(owner)[0] for owner in survivor.owners()]
    assert len(set(held)) == len(held) == 13
    assert set(fresh) <= set(held)
    survivor.close()


class StoreMachine(RuleBasedStateMachine):
    """Random takes, drops, restarts and kills against a plain model."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name))
        self.model: dict[str, tuple[Address, ...]] = {}

    @rule(owner=OWNERS)
    def take(self, owner: str) -> None:
        if owner in self.model or len(self.model) < 13:
            got = self.store.take(owner, SETS)
            assert self.model.get(owner, got) == got
            self.model[owner] = got
        else:
            with pytest.raises(ExhaustedError):
                self.store.take(owner, SETS)

    @rule(owner=OWNERS, last=st.integers(0, 20))
    def take_static(self, owner: str, last: int) -> None:
        wanted = ip_address(f"10.1.0.{last}")
        if owner in self.model:
            return
        free = 2 <= last <= 14 and wanted not in {a for held in self.model.values() for a in held}
        if free:
            self.model[owner] = self.store.take(owner, SETS, [wanted])
            assert self.model[owner][0] == wanted
        else:
            with pytest.raises(IpamError):
                self.store.take(owner, SETS, [wanted])

    @rule(owner=OWNERS)
    def drop(self, owner: str) -> None:
        assert self.store.drop(owner) == self.model.pop(owner, ())

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = Store(Path(self.folder.name))

    @rule(owner=OWNERS, after=st.integers(0, 4), slack=st.sampled_from([0, 1024]))
    def kill(self, owner: str, after: int, slack: int) -> None:
        before, store.SLACK = store.SLACK, slack
        victim = None
        try:
            victim = Store(Path(self.folder.name), on_write=killer(after))
            if owner in self.model:
                victim.drop(owner)
            else:
                victim.take(owner, SETS)
        except (KilledError, ExhaustedError):
            pass
        finally:
            store.SLACK = before
            if victim is not None:
                victim.close()
        held = self.store.held(owner)
        if held:
            assert self.model.get(owner, held) == held
            self.model[owner] = held
        else:
            self.model.pop(owner, None)

    @invariant()
    def agrees(self) -> None:
        assert {owner: self.store.held(owner) for owner in self.store.owners()} == self.model
        flat = [a for held in self.model.values() for a in held]
        assert len(flat) == len(set(flat))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


TestStore = StoreMachine.TestCase
