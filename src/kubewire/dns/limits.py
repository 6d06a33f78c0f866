"""Limits of the encrypted listeners: what the plugins https, https3, quic and grpc_server share."""

from __future__ import annotations

from typing import ClassVar

from kubewire.dns.plugin import Plugin, Setup


class Limits(Plugin):
    """Reads numbers of a block into the server block."""

    handles = False
    properties: ClassVar[tuple[str, ...]] = ()
    unlimited: ClassVar[frozenset[str]] = frozenset()
    """Properties that may be 0."""

    @classmethod
    def setup(cls, setup: Setup) -> Limits:
        """Read the directive."""
        if setup.once():
            raise setup.arg_err()
        for word, args in setup.properties():
            if word not in cls.properties:
                raise setup.err(f"unknown property '{word}'")
            if len(args) != 1:
                raise setup.arg_err()
            key = f"{cls.name}.{word}"
            if key in setup.block.limits:
                raise setup.err(f"{word} already defined for this server block")
            setup.block.limits[key] = cls._number(setup, word, args[0])
        setup.no_more()
        return cls()

    @classmethod
    def _number(cls, setup: Setup, word: str, text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise setup.err(f"invalid {word} value '{text}'") from error
        if value < (0 if word in cls.unlimited else 1):
            least = "a non-negative" if word in cls.unlimited else "a positive"
            raise setup.err(f"{word} must be {least} integer: {value}")
        return value
