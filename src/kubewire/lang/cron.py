"""Schedules of CronJobs: five fields or a name such as ``@daily``, and the moments that they mean.

A day must fit both the day of the month and the day of the week, unless both are restricted: then
either will do, as cron has had it since 1979. Moments are wall-clock times of a time zone; those
that the zone skips do not happen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
BOUNDS: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, MONTHS),
    (0, 6, DAYS),
)
HORIZON = timedelta(days=5 * 366)
"""A schedule that means no day within five years (30 February) means none."""
_UNITS = {"h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the five fields allow; ``either`` is the rule for days that both fields restrict."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool

    def next(self, after: float, zone: tzinfo = UTC) -> float | None:
        """The first moment after a Unix time."""
        start = datetime.fromtimestamp(after, zone)
        return next((m for m in self._moments(start, 1) if m > after), None)

    def latest(self, after: float, until: float, zone: tzinfo = UTC) -> float | None:
        """The last moment after the one time and not after the other."""
        start = datetime.fromtimestamp(until, zone)
        for moment in self._moments(start, -1):
            if moment <= after:
                return None
            if moment <= until:
                return moment
        return None

    def _moments(self, start: datetime, step: int) -> Iterator[float]:
        """Every moment from the day of ``start`` on, forwards or backwards."""
        # A day earlier: a wall clock that was put back shows hours of the day before again.
        day, zone = start.date() - step * timedelta(days=1), start.tzinfo
        for number in range(HORIZON.days):
            current = day + step * number * timedelta(days=1)
            if self._takes(current):
                times = [(h, m) for h in sorted(self.hours) for m in sorted(self.minutes)]
                for hour, minute in times[::step]:
                    wall = datetime(
                        current.year, current.month, current.day, hour, minute, tzinfo=zone
                    )
                    if wall.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == wall.replace(tzinfo=None):  # fmt: skip
                        yield wall.timestamp()

    def _takes(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        fits = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return any(fits) if self.either else all(fits)


@dataclass(frozen=True, slots=True)
class Every:
    """``@every 1h30m``: again and again after that time."""

    seconds: float

    def next(self, after: float, zone: tzinfo = UTC) -> float | None:
        """The first moment after a Unix time."""
        return float(int(after)) + self.seconds

    def latest(self, after: float, until: float, zone: tzinfo = UTC) -> float | None:
        """The last moment after the one time and not after the other."""
        count = int((until - after) // self.seconds)
        return float(int(after)) + count * self.seconds if count > 0 else None


def parse(text: str) -> Schedule | Every:
    """Read a schedule; ValueError says what is wrong with it."""
    if text.startswith(("TZ=", "CRON_TZ=")):
        raise ValueError("cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
    if text.startswith("@every "):
        return _every(text)
    if text.startswith("@") and text not in NAMED:
        raise ValueError(f"unrecognized descriptor: {text}")
    fields = NAMED.get(text, text).split()
    if len(fields) != 5:
        raise ValueError(f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]")
    minutes, hours, days, months, weekdays = (
        _field(field, *bounds) for field, bounds in zip(fields, BOUNDS, strict=True)
    )
    either = not any(fields[i].startswith(("*", "?")) for i in (2, 4))
    return Schedule(minutes, hours, days, months, weekdays, either)


def _every(text: str) -> Every:
    found = re.fullmatch(r"@every\s+((?:\d+(?:\.\d+)?[hms])+)", text)
    if found is None:
        raise ValueError(f"failed to parse duration {text}")
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", found[1])
    return Every(max(1.0, float(int(sum(float(n) * _UNITS[u] for n, u in parts)))))


def _field(text: str, low: int, high: int, names: tuple[str, ...]) -> frozenset[int]:
    return frozenset(n for part in text.split(",") for n in _range(part, low, high, names))


def _range(text: str, low: int, high: int, names: tuple[str, ...]) -> range:
    """``*``, ``1``, ``1-5``, each also with ``/step``; ``3/5`` means from 3 on."""
    span, slash, step_text = text.partition("/")
    step = _number(step_text, ()) if slash else 1
    if step == 0:
        raise ValueError(f"step of range should be a positive number: {text}")
    if span in ("*", "?"):
        return range(low, high + 1, step)
    first, dash, last = span.partition("-")
    start = _number(first, names, low)
    end = _number(last, names, low) if dash else high if slash else start
    if start < low:
        raise ValueError(f"beginning of range ({start}) below minimum ({low}): {text}")
    if end > high:
        raise ValueError(f"end of range ({end}) above maximum ({high}): {text}")
    if start > end:
        raise ValueError(f"beginning of range ({start}) beyond end of range ({end}): {text}")
    return range(start, end + 1, step)


def _number(text: str, names: tuple[str, ...], low: int = 0) -> int:
    if text.lower() in names:
        return names.index(text.lower()) + low
    if not text.isdecimal():
        raise ValueError(f"failed to parse int from {text}")
    return int(text)
