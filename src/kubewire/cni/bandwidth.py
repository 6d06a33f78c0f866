"""Limits of a pod's bandwidth: a token bucket at each end of its cable.

What the pod receives leaves the node's end; what it sends leaves its own end. A queue shapes what
leaves, so no intermediate device is needed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kubewire.kernel import qdiscs
from kubewire.kernel.rtnetlink import RtNetlink

INGRESS = "kubernetes.io/ingress-bandwidth"
EGRESS = "kubernetes.io/egress-bandwidth"

MINIMUM, MAXIMUM = 1_000, 1_000_000_000_000_000
"""Bits per second of a limit, as the kubelet has them."""
_SUFFIXES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([kMGTP]i?|Ki)?", re.ASCII)


class BandwidthError(Exception):
    """A limit cannot be read; the text names the field."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bits per second, and bytes that may pass at once; 0 is no limit."""

    ingress: int = 0
    egress: int = 0
    ingress_burst: int = 0
    egress_burst: int = 0

    def __bool__(self) -> bool:
        return bool(self.ingress or self.egress)


def from_annotations(annotations: Mapping[str, str]) -> Limits:
    """Read a pod's annotations, as the kubelet does: 1k to 1P bits per second."""
    return Limits(_read(annotations, INGRESS), _read(annotations, EGRESS))


def _read(annotations: Mapping[str, str], name: str) -> int:
    text = annotations.get(name)
    if text is None:
        return 0
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or (match[2] or "") not in _SUFFIXES:
        raise BandwidthError(f"metadata.annotations[{name}]: {text!r} is not a quantity")
    value = int(float(match[1]) * _SUFFIXES[match[2] or ""])
    if not MINIMUM <= value <= MAXIMUM:
        raise BandwidthError(f"metadata.annotations[{name}]: {text!r} must be between 1k and 1P")
    return value


def apply(node: RtNetlink, interface: str, pod: RtNetlink, inside: str, limits: Limits) -> None:
    """Limit a cable that was just made: nothing is there to be removed."""
    if limits.ingress:
        index = node.index(interface)
        node.transact(
            [
                qdiscs.put_tbf(
                    index, bits_per_second=limits.ingress, burst_bytes=limits.ingress_burst
                )
            ]
        )
    if limits.egress:
        index = pod.index(inside)
        pod.transact(
            [qdiscs.put_tbf(index, bits_per_second=limits.egress, burst_bytes=limits.egress_burst)]
        )
