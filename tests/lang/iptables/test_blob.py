"""A changed table is the same, byte by byte, as one that is built anew; counters stay with their rules."""

from collections.abc import Iterator
from itertools import count
from struct import pack_into

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubewire.lang.iptables import entries
from kubewire.lang.iptables.blob import COUNTERS, ROOM, Blob
from kubewire.lang.iptables.change import Change
from kubewire.lang.iptables.entries import VERDICT, Entry, UnfitError
from kubewire.lang.iptables.model import Rule
from kubewire.lang.iptables.parse import parse_rule
from kubewire.lang.iptables.targets import ACCEPT

NAMES = tuple("ABCDEFGH")
PLAIN = (
    "-j DROP",
    "-s 10.0.0.1/32 -j ACCEPT",
    "-p tcp -m comment --comment x -m tcp --dport 80",
    "",
)
Rules = list[tuple[str, int]]
"""Rule, and how many packets it has counted."""
Model = dict[str, Rules]
FAMILIES = pytest.mark.parametrize("version", [4, 6])


def family(rule: str, version: int) -> str:
    return rule if version == 4 else rule.replace("10.0.0.1/32", "fd00::1/128")


def build(chains: Model, version: int) -> tuple[Blob, list[int]]:
    """A table, entry by entry, and what its entries have counted (own heads and tails: nothing)."""
    given: list[Entry] = [entries.encode(Rule((), ACCEPT), version)] * 4
    counted = [1, 2, 3, 4]
    begins: dict[str, int] = {}
    for name in sorted(chains):
        rules = [entries.encode(parse_rule(r, version), version) for r, _ in chains[name]]
        head = entries.head(name, version)
        begins[name] = sum(len(e.data) for e in given) + len(head.data)
        given += [head, *rules, entries.tail(version)]
        counted += [0, *(packets for _, packets in chains[name]), 0]
    given.append(entries.head("ERROR", version))
    data = bytearray(ROOM)
    for entry in given:
        data += entry.data
        if entry.jump:
            pack_into("i", data, len(data) - VERDICT, begins[entry.jump])
        elif entry.falls:
            pack_into("i", data, len(data) - VERDICT, len(data) - ROOM)
    return Blob.read(version, data), [*counted, 5]


def index(blob: Blob) -> object:
    return blob.count, blob._heads, blob._numbers, blob._jumps, blob._falls


def packed(numbers: list[int]) -> bytes:
    return b"".join(n.to_bytes(COUNTERS, "little") for n in numbers)


@st.composite
def changed(draw: st.DrawFn) -> tuple[Model, Change, Model]:
    """Chains, a change, and the chains after it."""
    numbers = count(100)
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    after_names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    common = sorted(set(names) & set(after_names))

    def rule(leads_to: list[str]) -> str:
        jumps = [f"{how} {name}" for name in leads_to for how in ("-j", "-g", "-p udp -j")]
        return draw(st.sampled_from([*PLAIN, *jumps]))

    def rules(leads_to: list[str], size: int = 4) -> list[str]:
        return [rule(leads_to) for _ in range(draw(st.integers(0, size)))]

    before: Model = {}
    after: Model = {}
    for name in names:
        # What stays as it is must not lead to what goes.
        rewritten = name not in after_names or draw(st.booleans())
        before[name] = [(r, next(numbers)) for r in rules(names if rewritten else common)]
        if not rewritten:
            after[name] = list(before[name])
    change = Change("nat")
    for name in sorted(set(names) - set(after_names)):
        change.removed.append(name)
    for name in after_names:
        if name not in after:
            after[name] = [(r, 0) for r in rules(after_names)]
            change.written = [*change.written, (name, [f"-A {name} {r}" for r, _ in after[name]])]
            continue
        for gone in draw(
            st.lists(st.sampled_from([r for r, _ in after[name]] or [""]), unique=True)
        ):
            where = next((i for i, (r, _) in enumerate(after[name]) if r == gone), None)
            if where is not None and entries.encode(parse_rule(gone), 4).falls is False:
                del after[name][where]
                change.removed_rules.append(f"{name} {gone}")
        for new in rules(after_names, 2):
            after[name].insert(0, (new, 0))
            change.inserted.append(f"{name} {new}")
        for new in rules(after_names, 2):
            after[name].append((new, 0))
            change.appended.append(f"{name} {new}")
    return before, change, after


def spelled(change: Change, version: int) -> Change:
    """Of a family."""

    def each(lines: list[str]) -> list[str]:
        return [family(line, version) for line in lines]

    written = [(name, each(list(lines))) for name, lines in change.written]
    parts = (change.inserted, change.appended, change.removed_rules)
    return Change(change.table, written, *map(each, parts), change.removed)


def of_family(chains: Model, version: int) -> Model:
    return {name: [(family(r, version), n) for r, n in rules] for name, rules in chains.items()}


@FAMILIES
@given(changed())
def test_a_changed_table_is_as_one_built_anew(
    version: int, made: tuple[Model, Change, Model]
) -> None:
    before, change, after = made
    blob, counted = build(of_family(before, version), version)
    edit = blob.edit(spelled(change, version))
    wanted, counts = build(of_family(after, version), version)
    assert blob.data[ROOM:] == wanted.data[ROOM:]
    assert index(blob) == index(wanted)
    assert edit.carried(bytearray(packed(counted))) == packed(counts)


CHAINS: Model = {"A": [("-j B", 0)], "B": [("-j DROP", 0)]}
UNFIT = [
    (Change("nat", removed=["B"]), "still in use"),
    (Change("nat", removed=["C"]), "no chain C"),
    (Change("nat", inserted=["C -j DROP"]), "no chain C"),
    (Change("nat", inserted=["PREROUTING -j A"]), "no chain PREROUTING"),
    (Change("nat", inserted=["A -j C"]), "no chain C"),
    (Change("nat", [("PREROUTING", [])]), "built-in chain PREROUTING"),
    (Change("nat", [("A", ["-A B -j DROP"])]), "a rule of B in A"),
    (Change("nat", [("B", [])], removed_rules=["B -j DROP"]), "two changes of the same rules"),
    (Change("nat", removed_rules=["B -j ACCEPT"]), "not there"),
    (Change("nat", removed_rules=["B -s 10.0.0.1/32"]), "without a target"),
    (Change("nat", inserted=["A -m owner --uid-owner 0 -j DROP"]), "unknown form: -m owner"),
]


@pytest.mark.parametrize(("change", "why"), UNFIT, ids=[why for _, why in UNFIT])
def test_what_cannot_be_done_is_named(change: Change, why: str) -> None:
    blob, _ = build(CHAINS, 4)
    with pytest.raises(UnfitError, match=why):
        blob.edit(change)


def _unsorted() -> Iterator[bytes]:
    yield bytes(ROOM)
    for name in ("B", "A", "ERROR"):
        yield entries.head(name, 4).data
        if name != "ERROR":
            yield entries.tail(4).data


def test_chains_in_another_order_are_not_for_us() -> None:
    with pytest.raises(UnfitError, match="not sorted"):
        Blob.read(4, bytearray().join(_unsorted()))
