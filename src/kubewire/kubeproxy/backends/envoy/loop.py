"""How packets that Envoy sends in a client's name leave the node, and how the answers come back.

Envoy connects to an endpoint from the address of its client, so endpoints and NetworkPolicies see
who it is. Such a packet is not the client's, though: it starts on the node, and the answer to it
must end at Envoy instead of being forwarded to the client.

```
Envoy --mark sent--> table 16701 --> kwe0 ==veth== kwe1 --> prerouting, forward, postrouting --> endpoint
endpoint --> prerouting: the connection's mark says "back" --> table 16702: local --> Envoy
```

The loop (a veth pair with both ends in this namespace) turns what Envoy sends into *forwarded*
packets: they cross the same hooks as a pod's own, so policies judge client and endpoint as if the
kernel had translated the address. Before the loop they are not tracked, so the connection begins
where it enters the node again. Masquerading (by the usual bit of the mark, which survives the loop)
and hairpins are done in postrouting, as everywhere.

A process of the node has no need of that: it is let out directly, as its own packets would be.

Envoy's sockets have addresses of clients, so the kernel must not look for a socket before it has
translated a packet back and routed it, as it does to save time (``tcp_early_demux``): an answer to a
client itself would be taken for one to a socket that Envoy has, or had until a minute ago.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from kubewire.kernel import links, sysctl
from kubewire.kernel.netlink import Message, NetlinkError
from kubewire.kernel.routes import (
    Route,
    Rule,
    add_rule,
    delete_route,
    delete_rule,
    link_local,
    put_address,
    put_neighbour,
    put_route,
)
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubeproxy.backends.envoy.compile import ADDRESSES, marks
from kubewire.kubeproxy.config import Config
from kubewire.lang.nftables.connection import ChangeCtMark, CtMarkSet, CtReply, Notrack
from kubewire.lang.nftables.expressions import (
    ACCEPT,
    IIFNAME,
    IP6_DADDR,
    IP6_SADDR,
    IP_DADDR,
    IP_SADDR,
    ChangeMark,
    FibLocal,
    MarkSet,
    Masquerade,
    Match,
)
from kubewire.lang.nftables.lookups import Lookup
from kubewire.lang.nftables.model import PRIORITIES, Chain, Data, Set, Table
from kubewire.lang.nftables.model import Rule as NftRule
from kubewire.lang.nftables.types import IPV4, IPV6, ifname_bytes, ip_bytes

NAME = "kubewire-envoy-loop"
ENTRY, EXIT = "kwe0", "kwe1"
MTU = 1400
"""Fits every overlay: what is too large after the loop could not be told to Envoy."""
EARLY_DEMUX = "net/ipv4/tcp_early_demux"
"""Of both families."""
TIME_WAIT = 60.0
"""Seconds for which the kernel keeps a socket after its end."""
OUT, BACK = 16701, 16702
"""Routing tables."""
PROTOCOL = 87
"""Marks the loop's routes: those of the pod network have a number of their own."""
_PRIORITY = 90
_VIA = {4: "169.254.14.2", 6: "fe80::2"}
_ANY = {4: "0.0.0.0/0", 6: "::/0"}
_LOOPBACK = 1
_MACS = ("0a:58:a9:fe:0e:01", "0a:58:a9:fe:0e:02")
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_PAIR = {4: (IP_SADDR, IP_DADDR), 6: (IP6_SADDR, IP6_DADDR)}
_TYPE = {4: IPV4, 6: IPV6}


# -- rules ----------------------------------------------------------------------------------------


def table(config: Config, own: Iterable[str] = ()) -> Table:
    """The rules; ``own`` are the endpoints on this node."""
    sent, back = marks(config)
    pairs: dict[int, dict[bytes, Data]] = {4: {}, 6: {}}
    for ip in own:
        pairs[6 if ":" in ip else 4][ip_bytes(ip) * 2] = None
    sets = {f"own{v}": Set(f"own{v}", (_TYPE[v], _TYPE[v]), elements=pairs[v]) for v in pairs}
    is_sent, from_loop = MarkSet(sent), Match(IIFNAME, ifname_bytes(EXIT))
    # Of an endpoint elsewhere; of one in the node's own namespace; of a rule that rejects.
    answer = NftRule((CtMarkSet(back), CtReply(), ChangeMark(back)), "an answer to Envoy")
    chains = (
        Chain(
            "sent",
            (
                NftRule(
                    (is_sent, FibLocal(source=True), ChangeMark(sent, on=False)),
                    "a process of the node: not through the loop",
                ),
                NftRule((is_sent, FibLocal(), ACCEPT), "to the node itself: not through the loop"),
                NftRule((is_sent, Notrack()), "the connection begins behind the loop"),
            ),
            "route",
            "output",
            PRIORITIES["raw"],
        ),
        Chain(
            "here",
            (
                NftRule(
                    (is_sent, FibLocal(), ChangeCtMark(back)),
                    "sent to an endpoint of the node itself",
                ),
                answer,
            ),
            "route",
            "output",
            PRIORITIES["mangle"],
        ),
        Chain(
            "returned",
            (
                NftRule(
                    (from_loop, ChangeMark(sent, on=False), ChangeCtMark(back)),
                    "sent by Envoy in a client's name",
                ),
                answer,
            ),
            "filter",
            "prerouting",
            PRIORITIES["mangle"],
        ),
        Chain(
            "masquerading",
            tuple(_masquerading(config, back)),
            "nat",
            "postrouting",
            PRIORITIES["srcnat"],
        ),
    )
    return Table(NAME, "inet", sets, {c.name: c for c in chains})


def _masquerading(config: Config, back: int) -> Iterable[NftRule]:
    clear = ChangeMark(config.mark, on=False)
    yield NftRule((MarkSet(config.mark), clear, Masquerade()), "masquerade")
    for version, pair in _PAIR.items():
        yield NftRule((CtMarkSet(back), Lookup(pair, f"own{version}"), Masquerade()), "hairpin")


# -- devices and routes ---------------------------------------------------------------------------


def versions() -> tuple[int, ...]:
    """The families that this namespace has."""
    return (4, 6) if sysctl.exists("net/ipv6/conf/all/forwarding") else (4,)


def make(config: Config, before: Path) -> None:
    """Make sure of devices, addresses, routes and rules.

    ``before``: the file that keeps the one setting which ``restore`` puts back.
    """
    if not before.exists():
        before.write_text(sysctl.read(EARLY_DEMUX))
    sysctl.write(EARLY_DEMUX, 0)
    with RtNetlink() as netlink:
        if not _present(netlink):
            netlink.transact(
                [links.add_veth(ENTRY, EXIT, mac=_MACS[0], peer_mac=_MACS[1], mtu=MTU)]
            )
        entry, leave = netlink.index(ENTRY), netlink.index(EXIT)
        # Its packets have addresses of clients that are reached by other devices.
        sysctl.write(f"net/ipv4/conf/{EXIT}/rp_filter", 0)
        batch = [links.set_link(i, up=True, no_autoconf=True) for i in (entry, leave)]
        batch.append(links.set_link(_LOOPBACK, up=True))
        for version in versions():
            batch += _routes(entry, version)
        netlink.transact(batch)
        for version in versions():
            for rule in _rules(config, version):
                _unless(errno.EEXIST, netlink, add_rule(rule))


def _routes(entry: int, version: int) -> Iterable[Message]:
    length = 32 if version == 4 else 128
    via, anywhere = ip_address(_VIA[version]), ip_network(_ANY[version])
    yield put_address(entry, ip_interface(f"{ADDRESSES[version]}/{length}"))
    if version == 6:
        yield put_address(entry, link_local(_MACS[0]))
    yield put_neighbour(entry, via, _MACS[1])
    yield put_route(Route(anywhere, entry, via, onlink=True, table=OUT, protocol=PROTOCOL))
    yield put_route(Route(anywhere, _LOOPBACK, table=BACK, kind="local", protocol=PROTOCOL))


def _rules(config: Config, version: int) -> tuple[Rule, Rule]:
    sent, back = marks(config)
    family = _FAMILY[version]
    return (
        Rule(OUT, _PRIORITY, family, mark=sent, mask=sent),
        Rule(BACK, _PRIORITY + 1, family, mark=back, mask=back),
    )


def intact() -> bool:
    """Tell whether the devices and their routes are still there, and no socket is looked for early."""
    with RtNetlink() as netlink:
        tables = {route.table for route in netlink.routes()}
        there = _present(netlink) and {OUT, BACK} <= tables
    return there and sysctl.read(EARLY_DEMUX) == "0"


def remove(config: Config) -> None:
    """Remove devices, routes and rules."""
    with RtNetlink() as netlink:
        for version in versions():
            for rule in _rules(config, version):
                _unless(errno.ENOENT, netlink, delete_rule(rule))
        stale = [r for r in netlink.routes() if r.table in (OUT, BACK)]
        _drop(netlink, stale)
        if _present(netlink):
            netlink.transact([links.delete_link(ENTRY)])


def restore(before: Path) -> None:
    """What ``make`` found, once Envoy's last socket is gone."""
    if before.exists():
        sysctl.write(EARLY_DEMUX, before.read_text())


def _drop(netlink: RtNetlink, stale: Iterable[Route]) -> None:
    for route in stale:
        _unless(errno.ESRCH, netlink, delete_route(route))


def _present(netlink: RtNetlink) -> bool:
    names = {link.name for link in netlink.links()}
    return {ENTRY, EXIT} <= names


def _unless(number: int, netlink: RtNetlink, message: Message) -> None:
    try:
        netlink.transact([message])
    except NetlinkError as error:
        if error.errno != number:
            raise
