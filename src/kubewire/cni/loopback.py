"""``loopback``: the device ``lo`` of a container, as runtimes expect of a plugin of that name."""

from kubewire.cni.spec import (
    CHECK_FAILED,
    UNKNOWN_CONTAINER,
    CniError,
    Ip,
    Link,
    Request,
    Result,
    parse_result,
)
from kubewire.kernel import netns
from kubewire.kernel.links import set_link
from kubewire.kernel.rtnetlink import RtNetlink


def run(request: Request) -> Result | None:
    """Answer one call; DEL is content with a namespace that is gone."""
    present = netns.is_namespace(request.netns)
    if request.command not in ("ADD", "CHECK", "DEL") or (request.command == "DEL" and not present):
        return None
    if not present:
        raise CniError(UNKNOWN_CONTAINER, f"CNI_NETNS {request.netns}: is not a network namespace")
    with RtNetlink(request.netns) as netlink:
        if request.command == "CHECK":
            if not netlink.link("lo").up:
                raise CniError(CHECK_FAILED, f"CNI_NETNS {request.netns}: lo is down")
            return None
        netlink.transact([set_link("lo", up=request.command == "ADD")])
        if request.command == "DEL":
            return None
        addresses = [a.address for a in netlink.addresses() if a.address.is_loopback]
    previous = request.config.get("prevResult")
    if isinstance(previous, dict):
        return parse_result(previous)
    return Result(
        interfaces=(Link("lo", "00:00:00:00:00:00", sandbox=request.netns),),
        ips=tuple(Ip(address, interface=0) for address in addresses),
    )
