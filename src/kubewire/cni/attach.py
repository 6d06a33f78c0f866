"""What ``kubewire-cni`` does in the kernel for one attachment (a container and an interface)."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_interface

from kubewire.cni import bandwidth, wiring
from kubewire.cni.config import Config, refuse_small_mtu
from kubewire.cni.spec import (
    FAILED,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    UNKNOWN_CONTAINER,
    UNSUPPORTED_FIELD,
    CniError,
    Ip,
    Link,
    Request,
    Result,
    ResultRoute,
)
from kubewire.cni.wiring import Cable, Room
from kubewire.kernel import netns, sysctl
from kubewire.kernel.routes import TABLE_MAIN, Route
from kubewire.kernel.rtnetlink import RtNetlink

_PREFIX = "kc"
_LONGEST_ALIAS = 255
FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


@contextmanager
def entering(request: Request) -> Iterator[Room]:
    """Open the container's namespace; CniError if there is none."""
    with ExitStack() as stack:
        try:
            room = stack.enter_context(wiring.entering(request.netns))
        except OSError:
            raise CniError(UNKNOWN_CONTAINER, f"CNI_NETNS {request.netns}: is not a network namespace") from None  # fmt: skip
        yield room


def refuse_unusable(node: RtNetlink, room: Room, request: Request) -> None:
    """Before anything is taken: the namespace must not be the node's nor have the interface yet."""
    if netns.inode(room.fd) == netns.inode("/proc/thread-self/ns/net"):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS {request.netns}: is the node's own namespace")  # fmt: skip
    if request.interface in room.netlink:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME {request.interface}: already exists in {request.netns}")  # fmt: skip
    if len(f"{request.name}:{request.owner}") > _LONGEST_ALIAS:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_CONTAINERID {request.container_id}: is too long")
    name = host_interface(request.name, request.owner)
    if name in node:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_CONTAINERID {request.container_id}: {request.interface} is attached elsewhere already, by {name}")  # fmt: skip


def add(node: RtNetlink, room: Room, request: Request, config: Config, assigned: Result) -> Result:
    """Connect the container with the addresses that the IPAM gave; on a failure nothing stays."""
    addresses = tuple(ip.address.ip for ip in assigned.ips)
    if not addresses:
        raise CniError(INVALID_CONFIG, f"ipam.type {config.ipam.type}: gave no address")
    versions = {a.version for a in addresses}
    refuse_small_mtu(config.mtu, versions)
    for version in versions:
        sysctl.write(FORWARDING[version], 1)
    cable = Cable(
        host_interface=host_interface(config.name, request.owner),
        interface=request.interface,
        mac=config.mac or wiring.pod_mac(addresses),
        addresses=addresses,
        mtu=config.mtu,
        gso=config.gso,
        alias=f"{config.name}:{request.owner}",
        routes=tuple(map(_way, assigned.routes)),
    )
    try:
        wiring.wire(node, room, cable)
    except wiring.TakenError as error:
        raise CniError(FAILED, f"{error}: is there already, to an attachment of another network") from None  # fmt: skip
    try:
        if config.limits:
            where = cable.host_interface, room.netlink, cable.interface
            bandwidth.apply(node, *where, config.limits)
        result = _result(node, request, config, cable, assigned)
    except BaseException:
        wiring.unwire(node, cable.host_interface)
        raise
    return result.after(config.previous) if config.previous else result


def _result(
    node: RtNetlink, request: Request, config: Config, cable: Cable, assigned: Result
) -> Result:
    mtu = node.mtu(cable.host_interface)
    routes = tuple(
        ResultRoute(
            destination=way.destination,
            gateway=wiring.next_hop(version),
            mtu=way.mtu,
            advmss=way.advmss,
            priority=way.metric,
            table=None if way.table == TABLE_MAIN else way.table,
        )
        for version in sorted({a.version for a in cable.addresses})
        for way in wiring.ways(cable, version)
    )
    return Result(
        interfaces=(
            Link(cable.host_interface, wiring.HOST_MAC, mtu),
            Link(cable.interface, cable.mac, mtu, request.netns),
        ),
        ips=tuple(
            Ip(ip_interface(address), wiring.next_hop(address.version), 1)
            for address in cable.addresses
        ),
        routes=routes,
        dns=config.dns or assigned.dns,
    )


def _way(wanted: ResultRoute) -> Route:
    if wanted.scope:
        raise CniError(UNSUPPORTED_FIELD, f"ipam.routes scope {wanted.scope}: every route of a pod has a next hop")  # fmt: skip
    return Route(
        wanted.destination,
        mtu=wanted.mtu,
        advmss=wanted.advmss,
        metric=wanted.priority,
        table=TABLE_MAIN if wanted.table is None else wanted.table,
    )


def host_interface(network: str, owner: str) -> str:
    """The node's end of an attachment: another network's DEL must not find it."""
    return wiring.host_interface(f"{network}:{owner}", _PREFIX)


def is_limited(node: RtNetlink, versions: Iterable[int]) -> bool:
    """Attachments are there, and the kernel does not forward for them."""
    off = any(sysctl.read(FORWARDING[version]) != "1" for version in versions)
    return off and any(link.name.startswith(_PREFIX) and link.up for link in node.links())


def strays(node: RtNetlink, config: Config) -> Iterator[str]:
    """Attachments of this network whose devices are there but which the runtime does not know."""
    start = f"{config.name}:"
    for link in node.links():
        if link.name.startswith(_PREFIX) and link.alias.startswith(start):
            owner = link.alias.removeprefix(start)
            if owner not in (config.valid_attachments or ()):
                yield owner
