"""https: how many connections an https:// listener holds."""

from __future__ import annotations

from kubewire.dns.limits import Limits


class Https(Limits):
    """Limits of HTTPS listeners."""

    name = "https"
    properties = ("max_connections",)
    unlimited = frozenset({"max_connections"})


PLUGIN = Https
