"""Expressions that look a key up in a set or map of the table, and DNAT to what it holds there.

A key is several loads in consecutive registers; one of them may be a choice by number, in which
case every outcome counts when a packet is evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kubewire.lang.nftables import wire
from kubewire.lang.nftables.expressions import (
    ACCEPT,
    REG,
    Load,
    Numgen,
    State,
)
from kubewire.lang.nftables.types import integer_bytes, padded


def _keys(loads: Sequence[Load], register: int = REG) -> bytes:
    found = b""
    for load in loads:
        found += load.encode(register)
        register += padded(load.type.size) // 4
    return found


def _key_value(loads: Sequence[Load], state: State) -> bytes:
    if len(loads) == 1:
        return loads[0].value(state)
    return b"".join(v + bytes(-len(v) & 3) for v in (load.value(state) for load in loads))


def _key_text(loads: Sequence[Load]) -> str:
    return " . ".join(load.render() for load in loads)


@dataclass(frozen=True, slots=True)
class Lookup:
    """``a . b @set``, or ``!= @set``."""

    loads: tuple[Load, ...]
    set: str
    inverted: bool = False

    def render(self) -> str:
        """As nft writes it."""
        return f"{_key_text(self.loads)} {'!= ' if self.inverted else ''}@{self.set}"

    def encode(self) -> bytes:
        """Load the key, look it up."""
        body = wire.string(1, self.set) + wire.be32(2, REG)
        return _keys(self.loads) + wire.expression(
            "lookup", body + (wire.be32(5, 1) if self.inverted else b"")
        )

    def run(self, state: State) -> Any:
        """Go on if the key is (not) in the set."""
        return state.sets(self.set).has(_key_value(self.loads, state)) is not self.inverted


@dataclass(frozen=True, slots=True)
class Vmap:
    """``a . b vmap @map``."""

    loads: tuple[Load, ...]
    map: str

    def render(self) -> str:
        """As nft writes it."""
        return f"{_key_text(self.loads)} vmap @{self.map}"

    def encode(self) -> bytes:
        """Load the key, look up a verdict."""
        return _keys(self.loads) + wire.expression(
            "lookup", wire.string(1, self.map) + wire.be32(2, REG) + wire.be32(3, 0)
        )

    def run(self, state: State) -> Any:
        """The verdict; without one the rule does not match."""
        found = state.sets(self.map).get(_key_value(self.loads, state))
        return False if found is None else found


@dataclass(frozen=True, slots=True)
class DnatMap:
    """``dnat to <key> map @m``: the map gives address . port; a numgen in the key gives a choice."""

    loads: tuple[Load, ...]
    map: str
    version: int = 4

    def render(self) -> str:
        """As nft writes it."""
        family = "ip" if self.version == 4 else "ip6"
        return f"dnat {family} to {_key_text(self.loads)} map @{self.map}"

    def encode(self) -> bytes:
        """Load the key, look up the target, translate."""
        return _keys(self.loads) + _lookup(self.map, REG, REG) + _translate(REG, self.version)

    def run(self, state: State) -> Any:
        """Collect every target; ends the evaluation of the hook, as nat does."""
        return _run_choice(self.loads, self.map, self.version, state)


def _choices(loads: Sequence[Load], state: State) -> list[bytes]:
    keys = [b""]
    for load in loads:
        if isinstance(load, Numgen):
            keys = [
                k + integer_bytes(i)
                for k in keys
                for i in range(load.offset, load.offset + load.modulus)
            ]
        else:
            found = load.value(state)
            keys = [k + found + bytes(-len(found) & 3) for k in keys]
    return keys


def _run_choice(
    loads: Sequence[Load], name: str, version: int, state: State, skipped: int = 0
) -> Any:
    size = 4 if version == 4 else 16
    found = (state.sets(name).get(choice) for choice in _choices(loads, state))
    targets = [f[skipped:] for f in found if f is not None]
    if not targets:
        return False
    state.targets = tuple((t[:size], t[size : size + 2]) for t in targets)
    return ACCEPT


class _Registers(NamedTuple):
    """client . frontend, and right behind it a target: a rule that is sticky keeps them apart.

    What a map gives is the frontend's port . address . port, so the first part goes where the
    frontend's port is, and the rule fills the other two before it asks. Both are for nft's listing
    alone: it must have seen each register of a key being loaded by itself, or it ends (1.0.6: "Assertion
    consumed > 0"), whatever was to be listed, for it cannot tell the length of what a map gives.
    """

    key: int
    frontend: int
    port: int
    target: int

    @classmethod
    def of(cls, version: int) -> _Registers:
        words = 1 if version == 4 else 4
        return cls(REG, REG + words, REG + 2 * words + 1, REG + 2 * words + 2)

    def seen(self, loads: Sequence[Load]) -> bytes:
        """Something in the place of the target: an address and a port."""
        return _keys((loads[0], loads[-1]), self.target)

    def remember(self, memory: str, timeout: int) -> bytes:
        """Client . frontend -> target, from now on."""
        body = wire.string(1, memory) + wire.be32(3, 1) + wire.be32(4, self.key)
        return wire.expression(
            "dynset", body + wire.be32(5, self.port) + wire.be64(6, timeout * 1000)
        )


@dataclass(frozen=True, slots=True)
class StickyDnat:
    """Send a client where it was sent before, if that is still an endpoint.

    ``memory`` maps client . frontend to the target; ``valid`` holds frontend . target. A client
    whose target is gone is not renewed towards it (kubernetes#110302). nft's language cannot say
    this; the kernel can: the target travels in registers 12 ff. from one look-up to the next.
    """

    client: Load
    loads: tuple[Load, ...]
    memory: str
    valid: str
    timeout: int
    version: int = 4

    def render(self) -> str:
        """As close to nft as can be."""
        key = _key_text((self.client, *self.loads))
        return f"update @{self.memory} {{ {key} timeout {self.timeout}s }} dnat to {key} map @{self.memory}"

    def encode(self) -> bytes:
        """Look the client up, check the target, renew, translate."""
        at = _Registers.of(self.version)
        found = at.seen(self.loads) + _keys((self.client, *self.loads), at.key)
        found += _lookup(self.memory, at.key, at.port)
        # The frontend once more, right in front of the target: together they are the key of valid.
        found += _keys(self.loads, at.frontend)
        found += wire.expression("lookup", wire.string(1, self.valid) + wire.be32(2, at.frontend))
        found += at.remember(self.memory, self.timeout)
        return found + _translate(at.target, self.version)

    def run(self, state: State) -> Any:
        """A new client is in nobody's memory."""
        found = state.sets(self.memory).get(_key_value((self.client, *self.loads), state))
        target = None if found is None else found[4:]
        if target is None or not state.sets(self.valid).has(_key_value(self.loads, state) + target):
            return False
        size = 4 if self.version == 4 else 16
        state.targets = ((target[:size], target[size : size + 2]),)
        return ACCEPT


@dataclass(frozen=True, slots=True)
class RememberingDnat:
    """Choose a target as DnatMap does, and remember it for the client.

    What the map gives begins with the frontend's port, and so does what is remembered.
    """

    client: Load
    loads: tuple[Load, ...]
    map: str
    memory: str
    timeout: int
    version: int = 4

    def render(self) -> str:
        """As close to nft as can be."""
        choice = DnatMap(self.loads, self.map, self.version).render()
        return (
            f"add @{self.memory} {{ {self.client.render()} ... timeout {self.timeout}s }} {choice}"
        )

    def encode(self) -> bytes:
        """Choose into the registers behind the client's key, forget, remember, translate."""
        at = _Registers.of(self.version)
        frontend = tuple(x for x in self.loads if not isinstance(x, Numgen))
        found = at.seen(frontend) + _keys(self.loads) + _lookup(self.map, REG, at.port)
        found += _keys((self.client, *frontend), at.key)
        # An update would keep the old target, so it is deleted first.
        body = wire.string(1, self.memory) + wire.be32(3, 2) + wire.be32(4, at.key)
        found += wire.expression("dynset", body + wire.be32(5, at.port))
        found += at.remember(self.memory, self.timeout)
        return found + _translate(at.target, self.version)

    def run(self, state: State) -> Any:
        """As the choice."""
        return _run_choice(self.loads, self.map, self.version, state, skipped=4)


def _lookup(name: str, source: int, target: int) -> bytes:
    return wire.expression(
        "lookup", wire.string(1, name) + wire.be32(2, source) + wire.be32(3, target)
    )


def _translate(register: int, version: int) -> bytes:
    port = register + (1 if version == 4 else 4)
    body = wire.be32(1, 1) + wire.be32(2, 2 if version == 4 else 10)
    return wire.expression("nat", body + wire.be32(3, register) + wire.be32(5, port))
