"""Runs ``iptables-save`` and ``iptables-restore`` of either family and either variant.

The *nft* variant writes nftables rules, the *legacy* one the kernel's older tables; both may be in
use on a machine at once, and rules in one are invisible to the other. ``detect`` tells which one
the rest of the machine uses, by the marks that a kubelet leaves, as kube-proxy's images do.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kubewire.kernel.nfnetlink import Nfnetlink

VARIANTS = ("nft", "legacy")
FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")
LOCK_SECONDS = 5
ENDLESS = 1 << 62
_SO_SNDBUFFORCE = 32
_PIPE = 1 << 20
HINTS = (":KUBE-IPTABLES-HINT", ":KUBE-KUBELET-CANARY", ":KUBE-PROXY-CANARY")
"""Chains that a kubelet and an earlier kube-proxy make in the mangle table."""


class IptablesError(RuntimeError):
    """A program is missing or failed; the text holds what it said and, where it can, the line."""


@dataclass(frozen=True, slots=True)
class Iptables:
    """The programs of one family and variant; they act on the current network namespace."""

    version: int = 4
    variant: str = ""
    """nft or legacy; "" for what the machine calls ``iptables``."""

    def program(self, kind: str = "") -> str:
        """Name of a program: kind "" for iptables itself, ``save``, ``restore``."""
        family = "iptables" if self.version == 4 else "ip6tables"
        return "-".join(filter(None, (family, self.variant, kind)))

    @property
    def available(self) -> bool:
        """The programs are installed."""
        return find(self.program("restore")) is not None

    @property
    def uses_nft(self) -> bool:
        """Its rules are nftables rules; a program without a variant in its name is asked."""
        if self.variant:
            return self.variant == "nft"
        return "nf_tables" in run([self.program(), "--version"])

    def save(self, table: str = "", *, counters: bool = False) -> str:
        """What is in the kernel, as text; "" for every table in use."""
        words = [self.program("save")]
        words += ["-t", table] if table else []
        words += ["-c"] if counters else []
        return run(words)

    def restore(self, lines: Iterable[str]) -> None:
        """Apply lines with ``--noflush``; what one table's part says happens at once or not at all.

        Lines are passed on while they are made.
        """
        feed([self.program("restore"), "-w", str(LOCK_SECONDS), "--noflush"], lines)

    def drop_unused(self, tables: Iterable[str]) -> None:
        """Remove tables that are as empty as the nft variant makes them when it needs them.

        The legacy variant's belong to kernel modules.
        """
        if self.uses_nft:
            with Nfnetlink() as netlink:
                for table in tables:
                    netlink.drop_unused("ip" if self.version == 4 else "ip6", table)

    def section(self) -> int:
        """How many characters one section (``*table`` to ``COMMIT``) had better hold.

        The legacy variant exchanges whole tables: everything in one. The nft variant sends a section
        as one netlink message, whose length an ordinary user may not choose; beyond some thousand
        lines it takes time by their square (1.8.9), and the kernel looks at all chains for each.
        """
        if not self.uses_nft:
            return ENDLESS
        return 250_000 if may_send_much() else 30_000


@lru_cache(maxsize=1)
def may_send_much() -> bool:
    """Whether a netlink message may be longer than ``net.core.wmem_default``: for real root only."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as one:
        try:
            one.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 1 << 22)
        except PermissionError:
            return False
    return True


def find(name: str) -> str | None:
    """Path of a program, also where an ordinary user's PATH does not look."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *FOLDERS))
    return shutil.which(name, path=path)


def _found(argv: list[str]) -> list[str]:
    path = find(argv[0])
    if path is None:
        raise IptablesError(f"{argv[0]}: not found; install the package iptables")
    return [path, *argv[1:]]


def run(argv: list[str]) -> str:
    """Run a program; returns what it printed."""
    done = subprocess.run(_found(argv), capture_output=True, text=True, check=False)
    if done.returncode:
        raise IptablesError(f"{argv[0]}: {_said(done.stderr) or f'status {done.returncode}'}")
    return done.stdout


def feed(argv: list[str], lines: Iterable[str]) -> None:
    """Run a program that reads lines; they are written in blocks while the iterable goes on."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            _found(argv), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
        )
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            # On a busy machine every change of turns costs; so there are fewer.
            fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, _PIPE)
        kept: list[str] = []
        try:
            with process.stdin as pipe:
                for block in blocks(lines):
                    kept.append(block)
                    pipe.write(block.encode())
        except BrokenPipeError:
            pass
        except BaseException:
            # Lines that break off must not be applied as far as they came.
            process.kill()
            process.wait()
            raise
        if process.wait():
            errors.seek(0)
            said = _said(errors.read().decode(errors="replace"))
            raise IptablesError(f"{argv[0]}: {said or process.returncode}{_blamed(said, kept)}")


def blocks(lines: Iterable[str], size: int = 1 << 16) -> Iterable[str]:
    """Join lines to texts of some length."""
    found: list[str] = []
    length = 0
    for line in lines:
        found.append(line)
        length += len(line) + 1
        if length >= size:
            yield "\n".join(found) + "\n"
            found, length = [], 0
    if found:
        yield "\n".join(found) + "\n"


def _said(text: str) -> str:
    kept = (line.strip() for line in text.splitlines())
    return "; ".join(line for line in kept if line and not line.startswith(("Try `", "# Warning")))


def _blamed(said: str, kept: list[str]) -> str:
    """The input line that an error text names."""
    words = said.replace(":", " ").split()
    numbers = [w for before, w in itertools.pairwise(words) if before == "line"]
    if not numbers or not numbers[0].isdecimal():
        return ""
    lines = "".join(kept).splitlines()
    number = int(numbers[0])
    return f" ({lines[number - 1]})" if 0 < number <= len(lines) else ""


def detect() -> str:
    """The variant that this network namespace uses: a kubelet's or kube-proxy's hints, else the one with more rules.

    "" where the programs are installed without one in their names.
    """
    usable = [v for v in VARIANTS if Iptables(4, v).available]
    if not usable:
        return ""
    if len(usable) == 1:
        return usable[0]
    for variant in usable:
        if any(hint in _listed(variant, "mangle") for hint in HINTS):
            return variant
    rules = {v: _listed(v).count("\n-A ") for v in usable}
    return "legacy" if rules["legacy"] > rules["nft"] else "nft"


def _listed(variant: str, table: str = "") -> str:
    """Both families' listings; a family that the kernel lacks has none.

    A legacy table is asked for only if it is there: asking would make it.
    """
    found = []
    for version in (4, 6):
        if table and variant == "legacy" and table not in _legacy_tables(version):
            continue
        try:
            found.append(Iptables(version, variant).save(table))
        except IptablesError:
            continue
    return "\n".join(found)


def _legacy_tables(version: int) -> list[str]:
    family = "ip" if version == 4 else "ip6"
    try:
        return Path(f"/proc/thread-self/net/{family}_tables_names").read_text().split()
    except OSError:
        return []
