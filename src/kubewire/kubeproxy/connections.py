"""Connections through Services that a kernel tracks, as plain values."""

from __future__ import annotations

from typing import Any

from kubewire.kernel.conntrack import Conntrack
from kubewire.kubeproxy.trace import endpoint_name
from kubewire.lang.packet import PROTOCOLS

NAMES = {number: name.upper() for name, number in PROTOCOLS.items()}


def tracked() -> list[list[Any]]:
    """[address, protocol, port, "ip:port" of the endpoint] of each in this network namespace."""
    with Conntrack() as conntrack:
        entries = conntrack.entries()
    found = []
    for entry in entries:
        to, (end, port) = entry.original, entry.translated_to
        if (to.destination, to.destination_port) != (end, port):
            name = NAMES.get(to.protocol, str(to.protocol))
            end_name = endpoint_name(str(end), port)
            found.append([str(to.destination), name, to.destination_port, end_name])
    return found
