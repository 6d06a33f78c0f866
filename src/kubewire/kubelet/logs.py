"""Logs of containers: the record that a line becomes, and which records a question is about. Pure.

A file holds CRI records, as every container runtime writes them:

    2026-01-02T03:04:05.678901234Z stdout F a whole line
    2026-01-02T03:04:05.678901234Z stderr P part of a line that is longer than 16 KiB

What a question selects follows the kubelet: first the last lines of the file, then those since a
moment, then those of a stream, and of all that the first bytes.
"""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field

LONGEST = 16 << 10
"""Bytes of a line that go into one record."""
STREAMS = ("stdout", "stderr")


class Splitter:
    """The output of one stream -> records."""

    def __init__(self, stream: str) -> None:
        self._head = f" {stream} ".encode()
        self._rest = b""

    def feed(self, data: bytes, moment: bytes) -> bytes:
        """Records of every line that is complete, or too long to wait for its end."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        out = [record for line in whole for record in self._records(line, moment, b"F")]
        while len(self._rest) >= LONGEST:
            part, self._rest = self._rest[:LONGEST], self._rest[LONGEST:]
            out.append(self._record(part, moment, b"P"))
        return b"".join(out)

    def end(self, moment: bytes) -> bytes:
        """The last line, which has no end."""
        rest, self._rest = self._rest, b""
        return self._record(rest, moment, b"P") if rest else b""

    def _records(self, line: bytes, moment: bytes, last: bytes) -> Iterator[bytes]:
        while len(line) > LONGEST:
            part, line = line[:LONGEST], line[LONGEST:]
            yield self._record(part, moment, b"P")
        yield self._record(line, moment, last)

    def _record(self, text: bytes, moment: bytes, tag: bytes) -> bytes:
        return moment + self._head + tag + b" " + text + b"\n"


def moment(nanoseconds: int) -> bytes:
    """A time since the epoch as records have it."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    text = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:09d}Z".encode()


@dataclass(slots=True)
class Question:
    """What of a log is wanted, as the query of /containerLogs says it."""

    tail: int | None = None
    since: str = ""
    """A moment as records have it."""
    stream: str = ""
    limit: int | None = None
    timestamps: bool = False
    _is_inside: bool = field(default=False, init=False)
    """The last record was a part: the next one goes on in the same line."""

    def answer(self, record: bytes) -> bytes:
        """What a reader gets to see of one record (without its newline)."""
        stamp, _, rest = record.partition(b" ")
        stream, _, rest = rest.partition(b" ")
        tag, _, text = rest.partition(b" ")
        if self.since and stamp.decode("latin-1") < self.since:
            return b""
        if self.stream and stream.decode("latin-1") != self.stream:
            return b""
        begins, self._is_inside = not self._is_inside, tag == b"P"
        shown = (stamp + b" " if self.timestamps and begins else b"") + text
        return self._limited(shown if self._is_inside else shown + b"\n")

    @property
    def is_answered(self) -> bool:
        """No more bytes are wanted."""
        return self.limit == 0

    def _limited(self, shown: bytes) -> bytes:
        if self.limit is None:
            return shown
        shown = shown[: self.limit]
        self.limit -= len(shown)
        return shown


def tail_start(data: bytes, count: int) -> int:
    """Where the last ``count`` lines of a file's bytes begin."""
    if count <= 0:
        return len(data)
    end = len(data) - 1 if data.endswith(b"\n") else len(data)
    for _ in range(count):
        end = data.rfind(b"\n", 0, end)
        if end < 0:
            return 0
    return end + 1
