"""The section ``ipvs`` of a KubeProxyConfiguration, read as upstream reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubewire.api.errors import InputError

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh")
"""Every scheduler of the kernel that balances."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class IpvsOptions:
    """What only the IPVS back end acts on; a timeout of 0 leaves the kernel's as it is."""

    scheduler: str = "rr"
    strict_arp: bool = False
    exclude_cidrs: tuple[str, ...] = ()
    """Virtual servers with such addresses are somebody else's."""
    tcp_timeout: int = 0
    tcp_fin_timeout: int = 0
    udp_timeout: int = 0


def read_ipvs(section: Mapping[str, Any], source: str) -> IpvsOptions:
    """Read the section; InputError names the field."""
    scheduler = str(section.get("scheduler") or "rr")
    if scheduler not in SCHEDULERS:
        raise InputError(
            f"{source}: ipvs.scheduler: must be one of {', '.join(SCHEDULERS)}, not {scheduler!r}"
        )
    return IpvsOptions(
        scheduler=scheduler,
        strict_arp=bool(section.get("strictARP")),
        exclude_cidrs=tuple(map(str, section.get("excludeCIDRs") or ())),
        tcp_timeout=_seconds(section, "tcpTimeout", source),
        tcp_fin_timeout=_seconds(section, "tcpFinTimeout", source),
        udp_timeout=_seconds(section, "udpTimeout", source),
    )


def _seconds(section: Mapping[str, Any], name: str, source: str) -> int:
    """A Go duration ("15m0s") in whole seconds; the kernel knows no smaller unit."""
    text = str(section.get(name) or "0s")
    if text == "0":
        return 0
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise InputError(f"{source}: ipvs.{name}: must be a duration such as 15m, not {text!r}")
    return int(sum(float(number) * _UNITS[unit] for number, unit in parts))
