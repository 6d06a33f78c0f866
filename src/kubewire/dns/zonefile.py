"""Zone files (RFC 1035): entry by entry, so that what is wrong is told with its file and line.

dnspython reads each entry; which lines make one up, and ``$INCLUDE``, are decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kubewire.dns.zone import Zone
from kubewire.lang.dns.name import within
from kubewire.lang.dns.record import RR, split_rdata

if TYPE_CHECKING:
    import dns.transaction
    import dns.zone

INCLUDES = 7
"""How deep files may include others."""


class ZoneFileError(ValueError):
    """What is wrong, after the file and line where it is."""


def load(path: str, origin: str) -> Zone:
    """Read a zone file. Raises OSError, or ZoneFileError that names file and line."""
    return parse(_text(Path(path).read_bytes(), path), origin, path)


def parse(text: str, origin: str, file: str = "") -> Zone:
    """Read a zone file's text. Raises ZoneFileError."""
    import dns.name
    import dns.zone

    file = file or origin
    try:
        # All at once is faster; it only does not know where a mistake is.
        parsed = dns.zone.from_text(
            text, dns.name.from_text(origin), relativize=False, check_origin=False
        )
    except Exception:
        parsed = _by_entry(text, origin, file)
    zone = Zone(origin)
    for name, ttl, rdata in parsed.iterate_rdatas():
        wire = rdata.to_wire()
        owner = name.to_text()
        if wire is None or not within(owner.lower(), origin):
            continue
        zone.add(RR(owner, int(rdata.rdtype), ttl, split_rdata(wire, 0, len(wire), rdata.rdtype)))
    if zone.soa is None:
        raise ZoneFileError(f'file "{file}" has no SOA record for origin {origin}')
    return zone


def _by_entry(text: str, origin: str, file: str) -> dns.zone.Zone:
    import dns.name
    import dns.zone

    parsed = dns.zone.Zone(dns.name.from_text(origin), relativize=False)
    try:
        with parsed.writer(replacement=True) as transaction:
            _Reader(transaction).read(text, file, 0)
    except ZoneFileError as error:
        raise ZoneFileError(
            f'failed to parse file "{file}" for origin {origin} with error {error}'
        ) from error
    return parsed


def entries(text: str) -> Iterator[tuple[int, str]]:
    """Entries and the numbers of their first lines; parentheses hold several lines together."""
    first, held, depth = 1, "", 0
    for number, line in enumerate(text.split("\n"), 1):
        first, held = (number, line) if not held else (first, f"{held}\n{line}")
        depth += _opened(line)
        if depth <= 0:
            yield first, held
            held, depth = "", 0
    if held:
        yield first, held


def _opened(line: str) -> int:
    """How many parentheses a line leaves open."""
    depth, quoted, i = 0, False, 0
    while i < len(line):
        match line[i]:
            case "\\":
                i += 1
            case '"':
                quoted = not quoted
            case ";" if not quoted:
                break
            case "(" if not quoted:
                depth += 1
            case ")" if not quoted:
                depth -= 1
        i += 1
    return depth


def _text(data: bytes, file: str) -> str:
    try:
        return data.decode().removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ZoneFileError(f"{file}:{line}: not UTF-8: {error.reason}") from error


class _Reader:
    """Owner, TTL and origin go on from entry to entry."""

    def __init__(self, transaction: dns.transaction.Transaction) -> None:
        import dns.rdataclass
        import dns.tokenizer
        import dns.zonefile

        self._tokenizer = dns.tokenizer.Tokenizer
        self._reader = dns.zonefile.Reader(
            dns.tokenizer.Tokenizer(""), dns.rdataclass.IN, transaction, allow_include=False
        )

    def read(self, text: str, file: str, depth: int) -> None:
        """Take every entry over."""
        for number, entry in entries(text):
            words = entry.split(";")[0].split()
            if not words:
                continue
            if words[0].upper() == "$INCLUDE":
                self._include(words[1:], file, number, depth)
                continue
            try:
                self._reader.tok = self._tokenizer(entry + "\n", "")
                self._reader.read()
            except Exception as error:
                # dnspython has an exception for everything, not all of one family.
                why = str(error).removeprefix(":").partition(": ")[2] or str(error)
                why = why or type(error).__name__
                raise ZoneFileError(f"{file}:{number}: {why} in {entry.strip()!r}") from error

    def _include(self, words: list[str], file: str, number: int, depth: int) -> None:
        import dns.name

        place = f"{file}:{number}"
        if not 1 <= len(words) <= 2:
            raise ZoneFileError(f"{place}: $INCLUDE needs a file, and perhaps an origin")
        if depth >= INCLUDES:
            raise ZoneFileError(f"{place}: too deeply nested $INCLUDE")
        path = str(Path(file).parent / words[0].strip('"'))
        try:
            text = _text(Path(path).read_bytes(), path)
        except ZoneFileError:
            raise
        except (OSError, ValueError) as error:
            why = str(getattr(error, "strerror", error)).lower()
            raise ZoneFileError(f"{place}: failed to open `{words[0]}': {why}") from error
        reader = self._reader
        origin, owner = reader.current_origin, reader.last_name
        if len(words) == 2:
            reader.current_origin = dns.name.from_text(words[1], origin)
        self.read(text, path, depth + 1)
        reader.current_origin, reader.last_name = origin, owner
