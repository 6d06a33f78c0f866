"""What becomes of a packet: the same tables that the kernel is given, walked in Python."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kubewire.lang.nftables.expressions import NFPROTO, Match, State, Verdict
from kubewire.lang.nftables.model import Chain, Rule, Table
from kubewire.lang.packet import Outcome, Packet


def evaluate(tables: Iterable[Table], hook: str, packet: Packet) -> Outcome:
    """Send a packet through every base chain of a hook, by priority."""
    base = [
        (c.priority, i, t, c)
        for i, t in enumerate(tables)
        for c in t.chains.values()
        if c.hook == hook
    ]
    mark, masquerade = packet.mark, False
    targets: tuple[tuple[str, int], ...] = ()
    reasons: list[str] = []
    for _, _, table, chain in sorted(base, key=lambda b: b[:2]):
        if chain.type == "nat" and packet.ct_state != "new":
            continue
        state = State(packet, table.sets.__getitem__, mark=mark)
        verdict = _walk(table, chain, state, reasons)
        mark, packet = state.mark, state.packet
        masquerade = masquerade or state.masquerade
        if state.targets and not targets:
            targets = _readable(state.targets)
            # Later chains of the hook see the packet as it was rewritten.
            address, port = targets[0]
            status = packet.ct_status | {"dnat"}
            packet = replace(packet, daddr=address, dport=port or packet.dport, ct_status=status)
        kind = verdict.kind if verdict else chain.policy
        if kind in ("drop", "reject"):
            return Outcome(kind, (), masquerade, mark, tuple(reasons))
    return Outcome("accept", targets, masquerade, mark, tuple(reasons))


def _walk(table: Table, chain: Chain, state: State, reasons: list[str]) -> Verdict | None:
    for rule in chain.rules:
        verdict = _apply(rule, state)
        if verdict is None:
            continue
        if rule.reason:
            reasons.append(rule.reason)
        if verdict is True:
            continue
        if verdict.kind in ("jump", "goto"):
            found = _walk(table, table.chains[verdict.chain], state, reasons)
            if found is not None or verdict.kind == "goto":
                return found
        elif verdict.kind == "return":
            return None
        else:
            return verdict  # type: ignore[no-any-return]
    return None


def _apply(rule: Rule, state: State) -> Any:
    """None: no match; True: matched without a verdict."""
    for expression in rule.expressions:
        if (
            isinstance(expression, Match)
            and expression.load is not NFPROTO
            and _foreign(expression, state)
        ):
            return None
        result = expression.run(state)
        if result is False:
            return None
        if result is not True:
            return result
    return True


def _foreign(expression: Match, state: State) -> bool:
    """A match on the other IP version's header never holds."""
    name = expression.load.render()
    version = 4 if name.startswith("ip ") else 6 if name.startswith("ip6 ") else 0
    return version not in (0, state.packet.version)


def _readable(targets: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, int], ...]:
    return tuple(
        (str(ipaddress.ip_address(address)), struct.unpack("!H", port)[0] if port else 0)
        for address, port in targets
    )
