"""tls: certificates of the encrypted listeners."""

from __future__ import annotations

import ssl
from pathlib import Path

from kubewire.dns import tls as settings
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Setup

AUTH = {
    "nocert": ssl.CERT_NONE,
    "request": ssl.CERT_OPTIONAL,
    "require": ssl.CERT_REQUIRED,
    "verify_if_given": ssl.CERT_OPTIONAL,
    "require_and_verify": ssl.CERT_REQUIRED,
}


class Tls(Plugin):
    """Sets the server block's certificate."""

    name = "tls"
    handles = False

    @classmethod
    def setup(cls, setup: Setup) -> Tls:
        """Read the directive."""
        args = setup.once()
        if not 2 <= len(args) <= 3:
            raise setup.arg_err()
        auth, keylog = "nocert", ""
        for word, values in setup.properties():
            match word, values:
                case "client_auth", [value]:
                    if value not in AUTH:
                        raise setup.err(f"unknown authentication type '{value}'")
                    auth = value
                case "keylog", [value]:
                    keylog = setup.path(value)
                case (("client_auth" | "keylog"), _):
                    raise setup.arg_err()
                case _:
                    raise setup.err(f"unknown option '{word}'")
        setup.no_more()
        found = settings.Tls(
            setup.path(args[0]), setup.path(args[1]), setup.path(args[2]) if args[2:] else "",
            AUTH[auth], keylog,
        )  # fmt: skip
        try:
            found.context()
        except ssl.SSLError as error:
            raise CorefileError(f"could not load TLS cert: {error}") from error
        except OSError as error:
            files = (found.certificate, found.key, found.authority)
            missing = next((f for f in files if f and not Path(f).exists()), found.certificate)
            why = (error.strerror or str(error)).lower()
            raise CorefileError(f"could not load TLS cert: open {missing}: {why}") from error
        setup.block.tls = found
        return cls()


PLUGIN = Tls
