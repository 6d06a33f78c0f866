"""cookies: server cookies (RFC 7873, RFC 9018) for clients that send theirs."""

from __future__ import annotations

import os

from kubewire.dns.cookies import Cookies
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Setup

SECRET = 16
MOST = 4


class CookiesPlugin(Plugin):
    """Gives the listener its secrets; the server signs, so that replayed answers are signed too."""

    name = "cookies"
    handles = False

    @classmethod
    def setup(cls, setup: Setup) -> CookiesPlugin:
        """Read the directive."""
        args = setup.once()
        if len(args) > MOST or setup.next_block():
            raise setup.arg_err()
        if args:
            secrets = tuple(_secret(arg) for arg in args)
        else:
            # A reload must not make the cookies that are out worthless.
            secrets = setup.env.kept.setdefault("cookies", (os.urandom(SECRET),))
        setup.block.cookies = Cookies(secrets)
        setup.no_more()
        return cls()


def _secret(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError as error:
        raise CorefileError("a secret is not hexadecimal") from error
    if len(raw) != SECRET:
        raise CorefileError(f"a secret has {len(raw)} octets instead of {SECRET}")
    return raw


PLUGIN = CookiesPlugin
