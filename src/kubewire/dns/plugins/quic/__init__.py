"""quic: how many streams a connection of a quic:// listener has, and how many questions are answered at a time."""

from __future__ import annotations

from kubewire.dns.limits import Limits


class Quic(Limits):
    """Limits of QUIC listeners."""

    name = "quic"
    properties = ("max_streams", "worker_pool_size")


PLUGIN = Quic
