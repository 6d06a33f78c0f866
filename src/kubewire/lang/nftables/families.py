"""What is the same in both IP families but for its name, by the IP version."""

from kubewire.lang.nftables.expressions import (
    IP6_DADDR,
    IP6_SADDR,
    IP_DADDR,
    IP_SADDR,
    NFPROTO,
    Match,
)
from kubewire.lang.nftables.types import IPV4, IPV6

SADDR = {4: IP_SADDR, 6: IP6_SADDR}
DADDR = {4: IP_DADDR, 6: IP6_DADDR}
ADDRESS = {4: IPV4, 6: IPV6}
FAMILY = {4: Match(NFPROTO, b"\2"), 6: Match(NFPROTO, b"\12")}
"""Packets of one version, in a table of both."""
