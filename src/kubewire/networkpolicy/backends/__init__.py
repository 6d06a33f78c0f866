"""The kernel's languages for programs: nftables, or iptables with ipset.

Each back end has ``compile`` (pure: program -> values of the language) and ``enforcer`` (brings the
difference into the kernel).
"""

from typing import Literal

from kubewire.kernel.netns import Netns
from kubewire.networkpolicy.backends.kernel import KernelEnforcer

Backend = Literal["nftables", "iptables"]
BACKENDS: tuple[Backend, ...] = ("nftables", "iptables")


def enforcer(backend: str, netns: Netns | None = None) -> KernelEnforcer:
    """The enforcer of a back end, in the namespace of now or a given one."""
    if backend == "iptables":
        from kubewire.networkpolicy.backends.iptables.enforcer import IptablesEnforcer

        return IptablesEnforcer(netns)
    from kubewire.networkpolicy.backends.nftables.enforcer import Netfilter

    return Netfilter(netns)
