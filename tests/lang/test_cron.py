"""Moments of schedules."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from kubewire.lang.cron import parse

NEXT = [
    # Friday, 15 January 2027, 10:30
    ("* * * * *", "2027-01-15T10:31"),
    ("*/15 * * * *", "2027-01-15T10:45"),
    ("30 10 * * *", "2027-01-16T10:30"),
    ("5/20 * * * *", "2027-01-15T10:45"),
    ("0 9-17/4 * * *", "2027-01-15T13:00"),
    ("0 0 1 * *", "2027-02-01T00:00"),
    ("0 0 * * mon", "2027-01-18T00:00"),
    ("0 0 * * 1-5", "2027-01-18T00:00"),
    ("0 0 20 * mon", "2027-01-18T00:00"),
    ("0 0 20 * *", "2027-01-20T00:00"),
    ("0 0 29 feb ?", "2028-02-29T00:00"),
    ("0 0 30 2 *", None),
    ("@hourly", "2027-01-15T11:00"),
    ("@weekly", "2027-01-17T00:00"),
    ("@yearly", "2028-01-01T00:00"),
    ("@every 1h30m", "2027-01-15T12:00"),
]


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(("text", "wanted"), NEXT, ids=[n[0] for n in NEXT])
def test_next(text: str, wanted: str | None) -> None:
    found = parse(text).next(at("2027-01-15T10:30"))
    assert found == (wanted and at(wanted))
    if found:
        # Backwards it is the same moment.
        assert parse(text).latest(at("2027-01-15T10:30"), found + 59) == found
        assert parse(text).latest(at("2027-01-15T10:30"), found - 1) is None


def test_latest_of_many() -> None:
    assert parse("* * * * *").latest(at("2020-01-01T00:00"), at("2027-01-15T10:30") + 59) == at("2027-01-15T10:30")  # fmt: skip
    assert parse("@every 7m").latest(at("2027-01-15T10:00"), at("2027-01-15T10:30")) == at("2027-01-15T10:28")  # fmt: skip


def test_time_zones() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert parse("0 9 * * *").next(at("2027-01-15T10:30"), berlin) == at("2027-01-16T08:00")
    assert parse("0 9 * * *").next(at("2027-07-15T10:30"), berlin) == at("2027-07-16T07:00")
    # 28 March 2027: there is no half past two.
    assert parse("30 2 * * *").next(at("2027-03-28T00:00"), berlin) == at("2027-03-29T00:30")


WRONG = [
    ("", "expected exactly 5 fields, found 0: []"),
    ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
    ("60 * * * *", "end of range (60) above maximum (59): 60"),
    ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
    ("* * * * 7", "end of range (7) above maximum (6): 7"),
    ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
    ("*/0 * * * *", "step of range should be a positive number: */0"),
    ("x * * * *", "failed to parse int from x"),
    ("@never", "unrecognized descriptor: @never"),
    ("@every x", "failed to parse duration @every x"),
    ("TZ=UTC * * * * *", "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
]


@pytest.mark.parametrize(("text", "why"), WRONG, ids=[w[0] for w in WRONG])
def test_what_is_no_schedule(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert str(caught.value) == why
