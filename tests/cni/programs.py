"""The plugins as installed programs: their configuration, and what they have made."""

from pathlib import Path
from typing import Any

from kubewire.kernel.rtnetlink import RtNetlink

MAIN: dict[str, Any] = {
    "type": "kubewire-cni",
    "ipam": {"type": "kubewire-ipam", "subnet": "10.1.0.0/24", "dataDir": "/run/data"},
    "capabilities": {"ips": True, "mac": True, "dns": True},
}


def cables() -> list[str]:
    with RtNetlink() as netlink:
        return [link.name for link in netlink.links() if link.name.startswith("kc") and link.up]


def held() -> int:
    return len((Path("/run/data/net/leases")).read_text().splitlines())
