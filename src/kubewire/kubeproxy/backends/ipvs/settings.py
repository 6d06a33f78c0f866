"""Kernel settings that IPVS needs to serve Services; each is as upstream sets it."""

from __future__ import annotations

import logging

from kubewire.kernel import sysctl
from kubewire.kernel.ipvs import Ipvs, kernel_release
from kubewire.kubeproxy.ipvsoptions import IpvsOptions

log = logging.getLogger(__name__)

_REUSE_MENDED = (5, 9)
"""From here on a client's port that is used again costs no second."""


def wanted(options: IpvsOptions, release: tuple[int, ...]) -> dict[str, int]:
    """Settings by name.

    ``conntrack``: what IPVS translates can be masqueraded. ``expire_nodest_conn`` and
    ``expire_quiescent_template``: nobody stays with a destination that is gone, or that drains.
    """
    found = {
        "net.ipv4.vs.conntrack": 1,
        "net.ipv4.vs.expire_nodest_conn": 1,
        "net.ipv4.vs.expire_quiescent_template": 1,
        "net.ipv4.ip_forward": 1,
    }
    if release < _REUSE_MENDED:
        found["net.ipv4.vs.conn_reuse_mode"] = 0
    if options.strict_arp:
        found |= {"net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2}
    return found


def put(ipvs: Ipvs, options: IpvsOptions) -> None:
    """Set them; one that this machine does not let us set is logged."""
    for name, value in wanted(options, kernel_release()).items():
        try:
            sysctl.write(name, value)
        except OSError as error:
            log.warning("cannot set %s = %d: %s", name, value, error)
    timeouts = (options.tcp_timeout, options.tcp_fin_timeout, options.udp_timeout)
    if any(timeouts):
        ipvs.set_timeouts(*timeouts)
