"""The sandbox: the namespaces that hold a whole cluster, made by one ordinary process.

An ordinary user gets a user namespace around the others; root needs none. The first process of the
new pid namespace is the supervisor. Nothing here changes the host: mounts are private, the underlay
is a switch in a network namespace that nobody else sees.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_interface, ip_network
from pathlib import Path

from kubewire.api.errors import InputError
from kubewire.cluster.addresses import UNDERLAY, Address, Addresses
from kubewire.cluster.options import Options
from kubewire.cluster.underlay import GATEWAY, UPLINK, Switch
from kubewire.kernel import links, namespaces, netns, routes, sysctl
from kubewire.kernel import sandbox as kernel_sandbox
from kubewire.kernel.netlink import Message
from kubewire.kernel.routes import Route
from kubewire.kernel.rtnetlink import RtNetlink

ANYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
STATIC = 4
"""Routing protocol number of the administrator: the pod network removes only routes of its own."""

_NODE_SETTINGS = {
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    # A node forwards nearly all that it receives: no socket is looked for before the route.
    "net.ipv4.ip_early_demux": 0,
    # No address is checked for a duplicate, which would take a second.
    "net.ipv6.conf.default.accept_dad": 0,
}


def enter(run_dir: Path) -> None:
    """Move this process into new namespaces; its next child is PID 1 of them. Raises InputError."""
    try:
        kernel_sandbox.enter()
    except OSError as error:
        raise InputError(f"cannot make the sandbox: {error}{_advice(error)}") from error
    namespaces.mount("none", "/", flags=namespaces.MS_REC | namespaces.MS_PRIVATE)
    namespaces.mount_tmpfs(run_dir, mode=0o700)


def _advice(error: OSError) -> str:
    known = {
        errno.EACCES: ": a security module of this machine forbids user namespaces",
        errno.ENOSPC: ": the limit of namespaces is reached (sysctl user.max_user_namespaces)",
        errno.EINVAL: ": this kernel lacks a kind of namespace that kubewire needs",
    }
    return known.get(error.errno or 0, "")


def fork_first(body: Callable[[], None], go: int) -> int:
    """Fork PID 1 of the new pid namespace, which waits for a byte; its pid as the host counts.

    It waits because it replaces the /proc in which its maker still looks it up.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.read(go, 1)
        namespaces.mount_proc()
        body()
        os._exit(0)
    finally:
        os._exit(1)


def make_underlay(options: Options, run_dir: Path) -> None:
    """Join the nodes' network namespaces by a switch in the current one."""
    (run_dir / "netns").mkdir()
    (run_dir / "nodes").mkdir()
    gateways = options.addresses.gateways
    # A node's way out ends here, where it is refused at once instead of being lost in silence.
    _forward(options.addresses.versions)
    _refuse_all()
    with RtNetlink() as netlink:
        netlink.transact([links.set_link("lo", up=True)])
        switch = Switch(netlink, _mac(1))
        netlink.transact(list(_addresses(netlink.index(GATEWAY), gateways, _mac(1))))
        for index, name in enumerate(options.node_names):
            path = run_dir / "netns" / name
            netns.create(path)
            with netns.opened(path) as node:
                switch.join(node, _mac(10 + index))
            _set_up_node(path, options.addresses, index)


def _set_up_node(path: Path, addresses: Addresses, index: int) -> None:
    with netns.entered(path):
        _forward(addresses.versions)
        _refuse_all()
        for name, value in _NODE_SETTINGS.items():
            if sysctl.exists(name):
                sysctl.write(name, value)
        with RtNetlink() as netlink:
            uplink = netlink.index(UPLINK)
            netlink.transact(
                [
                    *links.bring_up(UPLINK),
                    *_addresses(uplink, addresses.node(index), _mac(10 + index)),
                    *(
                        routes.add_route(Route(ANYWHERE[via.version], uplink, via, protocol=STATIC))
                        for via in addresses.gateways
                    ),
                ]
            )


def _mac(number: int) -> str:
    """Of the device that has the underlay's address of this number."""
    return links.mac_text(b"\x0a\x56" + number.to_bytes(4, "big"))


def _addresses(index: int, addresses: Iterable[Address], mac: str) -> Iterator[Message]:
    """A device's addresses, the IPv6 ones usable at once (without detection of duplicates)."""
    for address in addresses:
        prefix = UNDERLAY[address.version].prefixlen
        yield routes.add_address(index, ip_interface(f"{address}/{prefix}"))
        if address.version == 6:
            yield routes.add_address(index, routes.link_local(mac))


def _forward(versions: Iterable[int]) -> None:
    for version in versions:
        name = "net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding"
        sysctl.write(name, 1)


def _refuse_all() -> None:
    """Refuse each datagram, not only one in a second: who is not told waits for a timeout."""
    for name in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"):
        if sysctl.exists(name):
            sysctl.write(name, 0)
