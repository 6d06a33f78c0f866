"""errors: log what went wrong while answering."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass

from kubewire.dns import re2
from kubewire.dns.plugin import Plugin, Request, Response, Setup, Shortcut, duration
from kubewire.lang.dns import codes

log = logging.getLogger("kubewire.dns.plugin.errors")

_LEVELS = {
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}


@dataclass
class Pattern:
    """A ``consolidate`` line: equal errors are counted and told once per period."""

    period: float
    regex: re.Pattern[str]
    level: int = logging.ERROR
    show_first: bool = False
    count: int = 0
    since: float = 0.0

    def note(self, text: str, now: float) -> None:
        """Count one error; tell of the period that is over."""
        if now - self.since >= self.period:
            self.flush()
            self.since = now
            if self.show_first:
                log.log(self.level, "plugin/errors: %s", text)
                return
        self.count += 1

    def flush(self) -> None:
        """Tell how many there were."""
        if self.count:
            log.log(
                self.level,
                "plugin/errors: %d errors like '%s' occurred in last %gs",
                self.count, self.regex.pattern, self.period,
            )  # fmt: skip
        self.count = 0


class Errors(Plugin):
    """Logs rcodes that nobody composed, with the reason."""

    name = "errors"

    def __init__(self, patterns: list[Pattern], *, silent: bool = False) -> None:
        self._patterns = patterns
        self._silent = silent

    @classmethod
    def setup(cls, setup: Setup) -> Errors:
        """Read the directive."""
        patterns: list[Pattern] = []
        args = setup.once()
        if args and args != ["stdout"]:
            raise setup.err(f"invalid log file: {args[0]}") if len(args) == 1 else setup.arg_err()
        for word, values in setup.properties():
            if word == "consolidate":
                patterns.append(_consolidate(setup, values))
            elif word == "stacktrace":
                if values:
                    raise setup.arg_err()
            else:
                raise setup.unknown(word)
        setup.no_more()
        return cls(patterns, silent=setup.env.offline)

    async def serve(self, request: Request) -> Response:
        """Log failures on their way back."""
        response = await self.next.serve(request)
        if self._silent or response.written:
            return response
        if response.rcode == codes.SERVFAIL and response.reason:
            self._tell(
                f"{response.rcode} {request.qname} {codes.type_name(request.qtype)}: "
                f"{response.reason}"
            )
        return response

    def shortcut(self, behind: Shortcut | None, server: str, view: str) -> Shortcut | None:
        """What is composed is no error."""
        return behind

    def _tell(self, text: str) -> None:
        for pattern in self._patterns:
            if pattern.regex.search(text):
                pattern.note(text, time.monotonic())
                return
        log.error("plugin/errors: %s", text)

    async def stop(self, *, final: bool) -> None:
        """Tell what is still counted."""
        for pattern in self._patterns:
            pattern.flush()


def _consolidate(setup: Setup, args: list[str]) -> Pattern:
    if not 2 <= len(args) <= 4:
        raise setup.arg_err()
    try:
        pattern = Pattern(duration(args[0]), re2.pattern(args[1]))
    except re.error as error:
        raise setup.err(f"error parsing regexp: {error}") from error
    except ValueError as error:
        raise setup.err(str(error)) from error
    levels: list[str] = []
    for arg in args[2:]:
        if arg == "show_first":
            pattern.show_first = True
        elif arg not in _LEVELS:
            raise setup.err(f"unknown option in consolidate: {arg}")
        elif pattern.show_first:
            raise setup.err("log level must come before show_first in consolidate")
        elif levels:
            raise setup.err("multiple log levels specified in consolidate")
        else:
            levels.append(arg)
            pattern.level = _LEVELS[arg]
    return pattern


PLUGIN = Errors
