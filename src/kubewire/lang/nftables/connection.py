"""Expressions about the connection that a packet belongs to: its mark, its direction, no tracking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubewire.lang.nftables import wire
from kubewire.lang.nftables.expressions import REG, State
from kubewire.lang.nftables.types import integer_bytes

_DIRECTION, _MARK = 1, 3


def _load(key: int) -> bytes:
    return wire.expression("ct", wire.be32(1, REG) + wire.be32(2, key))


def _bitwise(mask: int, xor: int) -> bytes:
    body = wire.be32(1, REG) + wire.be32(2, REG) + wire.be32(3, 4)
    values = (4, mask), (5, xor)
    body += b"".join(wire.nest(n, wire.value(integer_bytes(v))) for n, v in values)
    return wire.expression("bitwise", body)


def _compare(data: bytes, *, equal: bool) -> bytes:
    body = wire.be32(1, REG) + wire.be32(2, 0 if equal else 1) + wire.nest(3, wire.value(data))
    return wire.expression("cmp", body)


@dataclass(frozen=True, slots=True)
class CtMarkSet:
    """``ct mark & mask`` is not zero."""

    mask: int

    def render(self) -> str:
        """As nft writes it."""
        return f"ct mark & 0x{self.mask:08x} != 0"

    def encode(self) -> bytes:
        """Load, mask, compare with zero."""
        return _load(_MARK) + _bitwise(self.mask, 0) + _compare(bytes(4), equal=False)

    def run(self, state: State) -> Any:
        """Go on if it holds."""
        return bool(state.packet.ct_mark & self.mask)


@dataclass(frozen=True, slots=True)
class ChangeCtMark:
    """Set bits of the connection's mark, touching no other bit."""

    bits: int

    def render(self) -> str:
        """As nft writes it."""
        return f"ct mark set ct mark | 0x{self.bits:08x}"

    def encode(self) -> bytes:
        """Load, change, store."""
        store = wire.expression("ct", wire.be32(2, _MARK) + wire.be32(4, REG))
        return _load(_MARK) + _bitwise(~self.bits & 0xFFFFFFFF, self.bits) + store

    def run(self, state: State) -> Any:
        """The mark is for later packets: nothing that is asked about this one."""
        return True


@dataclass(frozen=True, slots=True)
class CtReply:
    """``ct direction reply``."""

    def render(self) -> str:
        """As nft writes it."""
        return "ct direction reply"

    def encode(self) -> bytes:
        """Load, compare."""
        return _load(_DIRECTION) + _compare(b"\1", equal=True)

    def run(self, state: State) -> Any:
        """Go on if it holds."""
        return state.packet.ct_reply


@dataclass(frozen=True, slots=True)
class Notrack:
    """``notrack``: the packet makes no connection and belongs to none."""

    def render(self) -> str:
        """As nft writes it."""
        return "notrack"

    def encode(self) -> bytes:
        """An expression without attributes."""
        return wire.expression("notrack", b"")

    def run(self, state: State) -> Any:
        """Go on."""
        return True
