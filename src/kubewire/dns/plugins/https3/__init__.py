"""https3: how many connections an https3:// listener holds, and streams a connection."""

from __future__ import annotations

from kubewire.dns.limits import Limits


class Https3(Limits):
    """Limits of HTTPS/3 listeners."""

    name = "https3"
    properties = ("max_streams", "max_connections")
    unlimited = frozenset({"max_streams", "max_connections"})


PLUGIN = Https3
