"""Runs ``ipset``: reads and writes sets of the current network namespace as text.

How many elements they have is asked for without it: that is done every second.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from kubewire.kernel.iptables import IptablesError, feed, find, run
from kubewire.kernel.netlink import NetlinkSocket, attr, attributes, u8

_NETLINK_NETFILTER = 12
_LIST = 6 << 8 | 7
_VERSION = 6
"""The oldest that kernels still speak."""
_HEADERS_ONLY = 1 << 2
_PROTOCOL, _NAME, _FLAGS, _DATA, _ELEMENTS = 1, 2, 6, 7, 24


def available() -> bool:
    """The program is installed."""
    return find("ipset") is not None


def save(name: str = "") -> str:
    """One set, or all of them, as ``ipset restore`` reads them."""
    return run(["ipset", "save", *([name] if name else [])])


def names() -> list[str]:
    """Names of all sets."""
    return run(["ipset", "list", "-n"]).split()


def counts() -> dict[str, int]:
    """How many elements each set has."""
    flags = attr(_FLAGS, struct.pack(">I", _HEADERS_ONLY))
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + u8(_PROTOCOL, _VERSION) + flags
    with NetlinkSocket(_NETLINK_NETFILTER) as asking:
        answers = [dict(attributes(data, 4)) for _, data in asking.dump(_LIST, body, "list sets")]
    found = {}
    for one in answers:
        elements = dict(attributes(one[_DATA])).get(_ELEMENTS, b"")
        found[one[_NAME].rstrip(b"\0").decode()] = int.from_bytes(elements, "big")
    return found


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
