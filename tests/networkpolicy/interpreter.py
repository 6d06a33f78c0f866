"""Runs a node's program on one packet, as the language of each back end says."""

from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from kubewire.lang.iptables import matches
from kubewire.lang.iptables import model as iptables
from kubewire.lang.nftables.evaluate import evaluate
from kubewire.lang.nftables.model import Table
from kubewire.lang.packet import Packet
from kubewire.networkpolicy.backends.iptables.compile import Compiler as IptablesCompiler
from kubewire.networkpolicy.backends.nftables.compile import Compiler as NftablesCompiler
from kubewire.networkpolicy.program import Program


class _ById:
    def __init__(self, program: Program) -> None:
        self.program = program

    def __hash__(self) -> int:
        return id(self.program)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.program is self.program


@lru_cache
def _canonical(address: str) -> str:
    return str(ip_address(address))


@lru_cache(maxsize=8)
def _nftables(program: _ById) -> Table:
    return NftablesCompiler("test").table(program.program)


@lru_cache(maxsize=8)
def _iptables(program: _ById) -> tuple[Any, matches.World]:
    rules = IptablesCompiler().rules(program.program)
    tables = {version: {"mangle": table} for version, table in rules.tables.items()}
    return tables, matches.World(rules.sets)


def judged(program: Program, packet: Packet, backend: str) -> tuple[str, tuple[str, ...]]:
    """The verdict of a back end's rules on a packet, and what is written at rules that it met."""
    if backend == "nftables":
        found = evaluate([_nftables(_ById(program))], "postrouting", packet)
        return found.verdict, found.reasons
    tables, world = _iptables(_ById(program))
    outcome = iptables.evaluate(tables[packet.version], "POSTROUTING", packet, world)
    return outcome.verdict, outcome.reasons


def passes(
    program: Program,
    source: str,
    target: str,
    port: int,
    protocol: str,
    backend: str = "nftables",
) -> bool:
    """Tell whether this node lets a new packet pass."""
    packet = Packet(_canonical(source), _canonical(target), protocol.lower(), dport=port)
    return judged(program, packet, backend)[0] == "accept"
