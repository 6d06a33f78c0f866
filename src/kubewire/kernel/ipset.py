"""Runs ``ipset``: reads and writes sets of the current network namespace as text."""

from __future__ import annotations

from collections.abc import Iterable

from kubewire.kernel.iptables import IptablesError, feed, find, run


def available() -> bool:
    """The program is installed."""
    return find("ipset") is not None


def save(name: str = "") -> str:
    """One set, or all of them, as ``ipset restore`` reads them."""
    return run(["ipset", "save", *([name] if name else [])])


def names() -> list[str]:
    """Names of all sets."""
    return run(["ipset", "list", "-n"]).split()


def restore(lines: Iterable[str]) -> None:
    """Apply lines (create, add, del, swap, destroy ...); what is there already is no error."""
    feed(["ipset", "restore", "-exist"], lines)


def swap(one: str, other: str) -> None:
    """Exchange the contents of two sets at once."""
    run(["ipset", "swap", one, other])


def destroy(name: str) -> None:
    """Remove a set; one that is gone is fine, one that a rule uses is an IptablesError."""
    try:
        run(["ipset", "destroy", name])
    except IptablesError:
        if name in names():
            raise
