"""Records of logs: what lines become, and what a question shows of them."""

import pytest

from kubewire.kubelet.logs import LONGEST, Question, Splitter, moment, tail_start

T = b"2026-01-01T00:00:00.000000001Z"
RECORDS = [
    b"2026-01-01T00:00:01.000000000Z stdout F one",
    b"2026-01-01T00:00:02.000000000Z stderr F two",
    b"2026-01-01T00:00:03.000000000Z stdout P thr",
    b"2026-01-01T00:00:03.000000000Z stdout F ee",
    b"2026-01-01T00:00:04.000000000Z stdout F ",
]


def test_moments() -> None:
    assert moment(1_767_225_600_000_000_001) == T


@pytest.mark.parametrize(
    ("pieces", "records"),
    [
        ([b"a\n"], [b"F a"]),
        ([b"a", b"b\nc", b"\n\n"], [b"F ab", b"F c", b"F "]),
        ([b"a\nb"], [b"F a", b"P b"]),
        ([b"x\ry\n"], [b"F x\ry"]),
        ([b"x" * LONGEST + b"y\n"], [b"P " + b"x" * LONGEST, b"F y"]),
        ([b"x" * LONGEST, b"y\n"], [b"P " + b"x" * LONGEST, b"F y"]),
    ],
)
def test_lines_become_records(pieces: list[bytes], records: list[bytes]) -> None:
    splitter = Splitter("stderr")
    found = b"".join(splitter.feed(piece, T) for piece in pieces) + splitter.end(T)
    assert found == b"".join(T + b" stderr " + record + b"\n" for record in records)


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        (Question(), b"one\ntwo\nthree\n\n"),
        (Question(stream="stderr"), b"two\n"),
        (Question(since="2026-01-01T00:00:03"), b"three\n\n"),
        (Question(limit=5), b"one\nt"),
        (Question(timestamps=True, stream="stdout", limit=1000), b"2026-01-01T00:00:01.000000000Z one\n2026-01-01T00:00:03.000000000Z three\n2026-01-01T00:00:04.000000000Z \n"),
    ],
)  # fmt: skip
def test_questions(question: Question, shown: bytes) -> None:
    assert b"".join(map(question.answer, RECORDS)) == shown
    assert question.is_answered is (question.limit == 0)


@pytest.mark.parametrize(
    ("count", "rest"),
    [(0, b""), (1, b"c\n"), (2, b"bb\nc\n"), (3, b"a\nbb\nc\n"), (9, b"a\nbb\nc\n")],
)
def test_tails(count: int, rest: bytes) -> None:
    data = b"a\nbb\nc\n"
    assert data[tail_start(data, count) :] == rest
