"""Certificates of a server block, and the contexts that its listeners need of them."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tls:
    """What the tls plugin sets."""

    certificate: str
    key: str
    authority: str = ""
    verify: ssl.VerifyMode = ssl.CERT_NONE
    keylog: str = ""

    def context(self, protocols: Sequence[str] = ()) -> ssl.SSLContext:
        """A server's context for these ALPN protocols. Raises OSError or ssl.SSLError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        if self.authority:
            context.load_verify_locations(self.authority)
        context.verify_mode = self.verify
        if self.keylog:
            context.keylog_filename = self.keylog
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context
