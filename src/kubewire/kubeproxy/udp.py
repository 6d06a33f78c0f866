"""UDP flows that lead nowhere any more are ended: the next packet of the client chooses anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kubewire.kernel.conntrack import Conntrack, Entry
from kubewire.kubeproxy.table import Change

UDP = 17


def forget(changes: Sequence[Change]) -> Counter[str]:
    """Delete tracked flows to changed UDP frontends whose answers come from no serving endpoint.

    Call it when the new rules are in, or a packet in between records the old way again. Flows to an
    endpoint that still serves stay, also where new ones no longer go (draining, hints, policies).
    Returns how many were deleted of each IP family.
    """
    valid = {
        (c.key.address, c.key.port): c.new.serving if c.new else frozenset()
        for c in changes
        if c.key.protocol == "UDP"
    }
    deleted: Counter[str] = Counter()
    if not valid:
        return deleted

    def unwanted(entry: Entry) -> bool:
        if entry.original.protocol != UDP:
            return False
        ends = valid.get((str(entry.original.destination), entry.original.destination_port))
        if ends is None:
            return False
        address, port = entry.translated_to
        if (str(address), port) in ends:
            return False
        deleted[f"IPv{address.version}"] += 1
        return True

    with Conntrack() as conntrack:
        conntrack.delete_where(unwanted)
    return deleted
