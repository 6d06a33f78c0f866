"""A legacy table as the kernel takes it, one run of entries, and a change of it that costs little.

A table is its built-in chains and then its own chains, sorted by name (programs look them up by
halving): a head that holds the name, the rules, and a tail. Everything leads everywhere by offsets
from the beginning, so what is put in or taken out moves all that comes after it, and every jump that
leads there. Nothing is taken apart for that: beside the bytes there are only sorted arrays with the
places of heads and of jumps, and a change goes through them once. Some 100 MB of rules that way take
less time to change than the kernel takes to check them.

Counters belong to entries by their number: `Edit.carried` moves what the old table had counted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from struct import pack_into, unpack

from kubewire.lang.iptables import entries
from kubewire.lang.iptables.change import Change
from kubewire.lang.iptables.entries import HEADERS, OFFSETS, VERDICT, Entry, UnfitError
from kubewire.lang.iptables.model import HOOKS
from kubewire.lang.iptables.parse import parse_line, parse_rule

ROOM = 96
"""Bytes before the first entry, for the head of the request, so that nothing is copied for it."""
COUNTERS = 16
"""Bytes of one entry's counters."""
_TARGET = 32
"""Bytes of a target before its data."""
_NAME = 2
"""Bytes of a target before its name."""
(_ERROR,) = unpack("H", b"ER")
"""How the name of the target begins that a chain's head has."""


@dataclass(frozen=True, slots=True)
class _Splice:
    """Some entries instead of others; the old ones by places and by numbers."""

    start: int
    end: int
    first: int
    last: int
    new: tuple[Entry, ...] = ()
    is_chain: bool = False
    """The first new one is the head of a chain."""

    @property
    def length(self) -> int:
        """Bytes of what is new."""
        return sum(len(entry.data) for entry in self.new)

    @property
    def growth(self) -> int:
        """Bytes by which all that comes after it moves."""
        return self.length - (self.end - self.start)

    @property
    def heads(self) -> tuple[int, ...]:
        """Where heads of chains are in what is new."""
        return (0,) if self.is_chain else ()

    def verdicts(self, *, falls: bool) -> Iterator[tuple[int, Entry]]:
        """Where verdicts are that lead to the next entry, or those that lead to chains."""
        at = 0
        for entry in self.new:
            at += len(entry.data)
            if entry.falls if falls else entry.jump:
                yield at - VERDICT, entry


class Blob:
    """The bytes of one table, and where in them things are."""

    def __init__(self, version: int, data: bytearray) -> None:
        self.version = version
        self.data = data
        """`ROOM` and the entries."""
        self._begin = len(entries.head("", version).data)
        self._tail = entries.tail(version).data
        self.count = 0
        """Of entries."""
        self._heads, self._numbers = array("I"), array("I")
        """Places of own chains, and the numbers of their first entries."""
        self._jumps, self._falls = array("I"), array("I")
        """Places of verdicts that are places: of a chain; of the next entry."""

    @classmethod
    def read(cls, version: int, data: bytearray) -> Blob:
        """Find out what is where."""
        found = cls(version, data)
        found._index()
        return found

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return len(self.data) - ROOM

    def _index(self) -> None:
        table = memoryview(self.data)[ROOM:]
        shorts, words = table.cast("H"), table.cast("i")
        at, size, offsets = 0, len(table), OFFSETS[self.version]
        while at < size:
            target, length = shorts[(at + offsets) >> 1], shorts[(at + offsets + 2) >> 1]
            name = shorts[(at + target + _NAME) >> 1]
            if not name:
                verdict = words[(at + target + _TARGET) >> 2]
                if verdict >= 0:
                    places = self._jumps if verdict != at + length else self._falls
                    places.append(at + target + _TARGET)
            elif name == _ERROR:
                self._heads.append(at)
                self._numbers.append(self.count)
            at += length
            self.count += 1
        names = [self._name(place) for place in self._heads[:-1]]
        if any(after <= before for before, after in pairwise(names)):
            raise UnfitError("chains that are not sorted by their names")

    def is_like(self, data: bytearray) -> bool:
        """Whether bytes from the kernel hold the same, whatever they have counted."""
        if len(data) != len(self.data):
            return False
        here, there = memoryview(self.data)[ROOM:], memoryview(data)[ROOM:]
        lengths, own = here.cast("H"), HEADERS[self.version].size
        at, size, end = 0, len(here), OFFSETS[self.version] + 4
        while at < size:
            after = at + lengths[(at + end - 2) >> 1]
            if here[at : at + end] != there[at : at + end]:
                return False
            if here[at + own : after] != there[at + own : after]:
                return False
            at = after
        return True

    # -- what is where ----------------------------------------------------------------------------

    def _name(self, head: int) -> bytes:
        start = ROOM + head + HEADERS[self.version].size + _TARGET
        return bytes(self.data[start : start + 30]).partition(b"\0")[0]

    def _place(self, chain: str) -> tuple[int, bool]:
        """Index of the head of an own chain, or where it would come in; the last head ends the table."""
        name = chain.encode()
        index = bisect_left(self._heads, name, hi=len(self._heads) - 1, key=self._name)
        return index, index < len(self._heads) - 1 and self._name(self._heads[index]) == name

    def _chain(self, name: str) -> int:
        index, found = self._place(name)
        if not found:
            raise UnfitError(f"no chain {name}")
        return index

    def _lead_to(self, chain: str) -> int:
        """Where a jump to a chain leads: behind its head."""
        return self._heads[self._chain(chain)] + self._begin

    def _rules(self, index: int) -> tuple[int, int, int, int]:
        """Where a chain's rules begin and end, by places and by numbers."""
        start, end = self._heads[index] + self._begin, self._heads[index + 1] - len(self._tail)
        there = memoryview(self.data)[ROOM + end : ROOM + end + len(self._tail)]
        if _comparable(there, self.version) != _comparable(memoryview(self._tail), self.version):
            raise UnfitError("a chain that does not end with RETURN")
        return start, end, self._numbers[index] + 1, self._numbers[index + 1] - 1

    # -- changes ----------------------------------------------------------------------------------

    def edit(self, change: Change) -> Edit:
        """Bring a change about; after an `UnfitError` these bytes are of no use any more."""
        splices = sorted(self._splices(change), key=lambda s: (s.start, s.end))
        if any(after.start < before.end for before, after in pairwise(splices)):
            raise UnfitError("two changes of the same rules")
        edit = Edit(splices, self.count)
        if splices:
            self._write(splices)
            self._find_again(splices)
            self._lead(splices)
        return edit

    def _splices(self, change: Change) -> Iterator[_Splice]:
        for name, lines in sorted((name, list(lines)) for name, lines in change.written):
            yield self._written(name, [self._encoded(line, name) for line in lines])
        for name, rules in _by_chain(reversed(change.inserted)).items():
            start, _, first, _ = self._rules(self._chain(name))
            yield _Splice(start, start, first, first, self._encoded_all(rules))
        for name, rules in _by_chain(change.appended).items():
            _, end, _, last = self._rules(self._chain(name))
            yield _Splice(end, end, last, last, self._encoded_all(rules))
        for name, rules in _by_chain(change.removed_rules).items():
            yield from self._without(self._chain(name), self._encoded_all(rules))
        for name in change.removed:
            index = self._chain(name)
            places, numbers = self._heads, self._numbers
            yield _Splice(places[index], places[index + 1], numbers[index], numbers[index + 1])

    def _encoded(self, line: str, chain: str) -> Entry:
        name, rule = parse_line(line, self.version)
        if name != chain:
            raise UnfitError(f"a rule of {name} in {chain}")
        return entries.encode(rule, self.version)

    def _encoded_all(self, rules: Iterable[str]) -> tuple[Entry, ...]:
        return tuple(entries.encode(parse_rule(rule, self.version), self.version) for rule in rules)

    def _written(self, name: str, rules: list[Entry]) -> _Splice:
        if any(name in hooks for hooks in HOOKS.values()):
            raise UnfitError(f"the built-in chain {name}")
        index, found = self._place(name)
        if found:
            return _Splice(*self._rules(index), tuple(rules))
        place, number = self._heads[index], self._numbers[index]
        whole = (entries.head(name, self.version), *rules, entries.tail(self.version))
        return _Splice(place, place, number, number, whole, is_chain=True)

    def _without(self, index: int, gone: tuple[Entry, ...]) -> Iterator[_Splice]:
        """The first rules of a chain that are like these."""
        wanted = {self._told(entry): None for entry in gone}
        at, end, number, _ = self._rules(index)
        table = memoryview(self.data)[ROOM:]
        lengths, offset = table.cast("H"), OFFSETS[self.version] + 2
        while wanted and at < end:
            length = lengths[(at + offset) >> 1]
            key = _comparable(table[at : at + length], self.version)
            if key in wanted:
                del wanted[key]
                yield _Splice(at, at + length, number, number + 1)
            at, number = at + length, number + 1
        if wanted:
            raise UnfitError("a rule to be deleted that is not there")

    def _told(self, entry: Entry) -> bytes:
        """An entry as the table would hold it."""
        if entry.falls:
            raise UnfitError("a rule without a target to be deleted")
        data = bytearray(entry.data)
        if entry.jump:
            pack_into("i", data, len(data) - VERDICT, self._lead_to(entry.jump))
        return _comparable(memoryview(data), self.version)

    def _write(self, splices: list[_Splice]) -> None:
        """Move what stays, each piece once, and put in what is new.

        A piece never lands on one that has yet to move: those that go to the front are moved from
        the front on, those that go to the back from the back on.
        """
        shift, moves = 0, []
        for splice, end in zip(splices, [*(s.start for s in splices[1:]), self.size], strict=True):
            shift += splice.growth
            moves.append((splice.end, end, shift))
        self.data += bytes(max(shift, 0))
        with memoryview(self.data) as whole, whole[ROOM:] as table:
            for start, end, by in (
                *(m for m in moves if m[2] < 0),
                *(m for m in moves[::-1] if m[2] > 0),
            ):
                table[start + by : end + by] = table[start:end]
            for splice, at in _placed(splices):
                table[at : at + splice.length] = b"".join(entry.data for entry in splice.new)
        if shift < 0:
            del self.data[shift:]

    def _find_again(self, splices: list[_Splice]) -> None:
        """Where everything is now."""
        self.count += sum(len(s.new) - (s.last - s.first) for s in splices)
        self._heads = _moved(self._heads, [(s.start, s.end, s.length, s.heads) for s in splices])
        numbers = [(s.first, s.last, len(s.new), s.heads) for s in splices]
        self._numbers = _moved(self._numbers, numbers)
        self._jumps, self._falls = (
            _moved(
                places,
                [
                    (s.start, s.end, s.length, tuple(at for at, _ in s.verdicts(falls=falls)))
                    for s in splices
                ],
            )
            for places, falls in ((self._jumps, False), (self._falls, True))
        )

    def _lead(self, splices: list[_Splice]) -> None:
        """Let every jump lead to where its chain is now."""
        words = memoryview(self.data)[ROOM:].cast("i")
        bounds, shifts, shift = [], [0], 0
        for splice in splices:
            shift += splice.growth
            bounds += [splice.start, splice.end]
            shifts += [_GONE, shift]
        least = bounds[0]
        for place in self._jumps:
            verdict = words[place >> 2]
            # A chain begins behind its head: what is put in there does not move it.
            if verdict > least and (moved := shifts[bisect_left(bounds, verdict)]):
                if moved == _GONE:
                    raise UnfitError("a chain that is still in use would be removed")
                words[place >> 2] = verdict + moved
        for place in self._falls:
            words[place >> 2] = place + VERDICT
        for splice, start in _placed(splices):
            for at, entry in splice.verdicts(falls=False):
                words[(start + at) >> 2] = self._lead_to(entry.jump)


_GONE = 1 << 40


@dataclass(frozen=True, slots=True)
class Edit:
    """What has become of the entries of a table."""

    splices: list[_Splice]
    before: int
    """How many there were."""

    def carried(self, counters: bytearray) -> bytes:
        """The counters of the old table as those of the new one; new rules begin with nothing."""
        view = memoryview(counters)
        pieces: list[memoryview | bytes] = []
        at = 0
        for splice in self.splices:
            pieces += [view[at : splice.first * COUNTERS], bytes(len(splice.new) * COUNTERS)]
            at = splice.last * COUNTERS
        return b"".join((*pieces, view[at:]))


def _placed(splices: list[_Splice]) -> Iterator[tuple[_Splice, int]]:
    """Splices and where they begin in the new table."""
    shift = 0
    for splice in splices:
        yield splice, splice.start + shift
        shift += splice.growth


def _by_chain(rules: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for rule in rules:
        name, _, rest = rule.partition(" ")
        found.setdefault(name, []).append(rest)
    return found


def _comparable(entry: memoryview, version: int) -> bytes:
    """An entry without what the kernel notes in it."""
    offset = OFFSETS[version]
    return bytes(entry[:offset]) + entry[offset : offset + 4] + entry[HEADERS[version].size :]


def _moved(values: array[int], cuts: Iterable[tuple[int, int, int, tuple[int, ...]]]) -> array[int]:
    """Sorted places after cuts: (start, end, new length, places in what is new)."""
    found = array("I")
    at = shift = 0
    for start, end, length, new in cuts:
        upto = bisect_left(values, start, at)
        found += _shifted(values[at:upto], shift)
        found.extend(start + shift + place for place in new)
        at = bisect_left(values, end, upto)
        shift += length - (end - start)
    found += _shifted(values[at:], shift)
    return found


def _shifted(values: array[int], shift: int) -> array[int]:
    return array("I", [value + shift for value in values]) if shift else values
