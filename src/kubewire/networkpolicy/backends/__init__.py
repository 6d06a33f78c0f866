"""The kernel's languages for programs: nftables, or iptables with ipset.

Each back end has ``compile`` (pure: program -> values of the language) and ``enforcer`` (brings the
difference into the kernel).
"""

from typing import Literal

from kubewire.api.errors import InputError
from kubewire.kernel.netns import Netns
from kubewire.networkpolicy.backends.kernel import KernelEnforcer

Backend = Literal["nftables", "iptables"]
BACKENDS: tuple[Backend, ...] = ("nftables", "iptables")


def installed(backend: str) -> bool:
    """Tell whether the programs that a back end runs are there; nftables needs none."""
    from kubewire.kernel import ipset
    from kubewire.kernel.iptables import VARIANTS, Iptables

    return backend == "nftables" or (
        ipset.available() and any(Iptables(4, v).available for v in VARIANTS)
    )


def require(backend: str) -> None:
    """Refuse a back end whose programs are missing."""
    if not installed(backend):
        raise InputError(
            f"--policy-backend {backend}: iptables-restore and ipset are needed; "
            "install the packages iptables and ipset"
        )


def enforcer(backend: str, netns: Netns | None = None) -> KernelEnforcer:
    """The enforcer of a back end, in the namespace of now or a given one."""
    if backend == "iptables":
        from kubewire.networkpolicy.backends.iptables.enforcer import IptablesEnforcer

        return IptablesEnforcer(netns)
    from kubewire.networkpolicy.backends.nftables.enforcer import Netfilter

    return Netfilter(netns)
