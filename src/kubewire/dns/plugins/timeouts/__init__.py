"""timeouts: how long connections may be silent."""

from __future__ import annotations

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Setup, duration


class Timeouts(Plugin):
    """Sets read, write and idle times and the number of questions of a TCP connection."""

    name = "timeouts"
    handles = False

    @classmethod
    def setup(cls, setup: Setup) -> Timeouts:
        """Read the directive."""
        if setup.once():
            raise CorefileError("config block doesn't accept args")
        seen = False
        for word, args in setup.properties():
            seen = True
            if word not in ("read", "write", "idle", "maxtcpqueries"):
                raise setup.err(f"unknown option: '{word}'")
            if len(args) != 1:
                raise setup.arg_err()
            if word == "maxtcpqueries":
                setup.block.max_tcp_queries = _queries(setup, args[0])
                continue
            try:
                seconds = float(args[0]) if args[0].isdecimal() else duration(args[0])
            except ValueError as error:
                raise setup.err(f"failed to parse duration '{args[0]}'") from error
            if not 1 <= seconds <= 86400:
                raise setup.err(
                    f"timeout provided '{args[0]}' needs to be between 1 second and 24 hours"
                )
            setup.block.timeouts[word] = seconds
        if not seen:
            raise setup.err("timeouts block with no timeouts specified")
        return cls()


def _queries(setup: Setup, text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise setup.err(
            f"invalid value for maxtcpqueries '{text}': strconv.Atoi: parsing \"{text}\": invalid syntax"
        ) from error
    if value == 0 or value < -1:
        raise setup.err(
            f"maxtcpqueries provided '{text}' needs to be -1 (unlimited) or a positive integer"
        )
    return max(0, value)


PLUGIN = Timeouts
