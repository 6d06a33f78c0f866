"""CHECK: compares the kernel with what ADD answered, and names the first thing that differs.

What keeps a pod from being reached counts, and what ADD was asked for: both ends of the cable, its
addresses, routes and neighbours, forwarding, limits. Plugins later in a chain may have changed the
rest (``tuning`` gives another hardware address or a smaller MTU).
"""

from collections.abc import Iterable
from ipaddress import ip_network

from kubewire.cni import attach, wiring
from kubewire.cni.config import Config
from kubewire.cni.spec import (
    CHECK_FAILED,
    INVALID_CONFIG,
    CniError,
    Ip,
    Link,
    Request,
    Result,
    ResultRoute,
)
from kubewire.kernel import sysctl
from kubewire.kernel.links import Link as Device
from kubewire.kernel.routes import TABLE_MAIN, Route
from kubewire.kernel.rtnetlink import RtNetlink


def attachment(node: RtNetlink, request: Request, config: Config) -> Result:
    """Check one attachment; returns our part of the prevResult, with its IPs as the IPAM gave them."""
    if config.previous is None:
        raise CniError(INVALID_CONFIG, "prevResult: is required by CHECK")
    link, ips = _own_part(request, config.previous)
    name = attach.host_interface(config.name, request.owner)
    with attach.entering(request) as room:
        pod = room.netlink
        require(request.interface in pod, f"{request.interface}: is missing in {request.netns}")
        require(name in node, f"interface {name} of the node is missing")
        inner, outer = pod.link(request.interface), node.link(name)
        _check_pod(pod, inner, link, ips, config)
        _check_routes(pod.routes(), inner.name, config.previous.routes)
    _check_node(node, outer, config.previous, ips)
    require(inner.mtu <= outer.mtu, f"{inner.name}: mtu {inner.mtu} is larger than {outer.mtu} of {name}")  # fmt: skip
    if config.limits.ingress:
        require((outer.index, "tbf") in node.qdiscs(), f"{name}: the limit of ingressRate is missing")  # fmt: skip
    for version in {ip.address.version for ip in ips}:
        setting = attach.FORWARDING[version]
        require(sysctl.read(setting) == "1", f"{setting}: forwarding is off")
    return Result(ips=ips)


def require(true: bool, complaint: str) -> None:
    """CniError of code 101 unless it is true."""
    if not true:
        raise CniError(CHECK_FAILED, complaint)


def _own_part(request: Request, previous: Result) -> tuple[Link, tuple[Ip, ...]]:
    for index, link in enumerate(previous.interfaces):
        if link.name == request.interface and link.sandbox:
            return link, tuple(ip for ip in previous.ips if ip.interface in (index, None))
    raise CniError(
        INVALID_CONFIG, f"prevResult.interfaces: has no {request.interface} in a sandbox"
    )


def _check_pod(
    pod: RtNetlink, device: Device, wanted: Link, ips: Iterable[Ip], config: Config
) -> None:
    name = device.name
    require(device.up, f"{name}: is down")
    require(wanted.mac in ("", device.mac), f"{name}: mac is {device.mac}, not {wanted.mac}")
    present = {a.address for a in pod.addresses() if a.index == device.index}
    known = {n.address for n in pod.neighbours() if n.index == device.index and n.permanent}
    for ip in ips:
        require(ip.address in present, f"{name}: address {ip.address} is missing")
        hop = wiring.next_hop(ip.address.version)
        require(hop in known, f"{name}: neighbour {hop} is missing")
    if config.limits.egress:
        limited = (device.index, "tbf") in pod.qdiscs()
        require(limited, f"{name}: the limit of egressRate is missing")


def _check_routes(present: list[Route], name: str, wanted: Iterable[ResultRoute]) -> None:
    """The device does not count: another interface may have had the route first, and others make theirs."""
    for route in wanted:
        table = route.table or TABLE_MAIN
        found = [r for r in present if (r.destination, r.table) == (route.destination, table)]
        require(bool(found), f"{name}: route {route.destination} is missing")
        leads = route.gateway is None or any(r.via == route.gateway for r in found)
        require(leads, f"{name}: route {route.destination} does not lead to {route.gateway}")


def _check_node(node: RtNetlink, device: Device, previous: Result, ips: Iterable[Ip]) -> None:
    name = device.name
    require(device.up, f"interface {name} of the node is down")
    for link in previous.interfaces:
        if link.name == name and not link.sandbox:
            require(link.mac in ("", device.mac), f"interface {name} of the node: mac is {device.mac}, not {link.mac}")  # fmt: skip
            require(link.mtu in (0, device.mtu), f"interface {name} of the node: mtu is {device.mtu}, not {link.mtu}")  # fmt: skip
    reachable = {r.destination for r in node.routes() if r.device == device.index}
    known = {n.address for n in node.neighbours() if n.index == device.index and n.permanent}
    for ip in ips:
        address = ip.address.ip
        require(ip_network(address) in reachable, f"route {address} of the node to {name} is missing")  # fmt: skip
        require(address in known, f"neighbour {address} of the node on {name} is missing")
