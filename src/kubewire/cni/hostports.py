"""Ports of the node that lead to pods (``hostPort``), as one nftables table.

A port of one address (``hostIP``) is looked up before a port of all. Connections that come from the
node's own loopback or from the pod itself are masqueraded, or their answers would not find back;
nobody else may send to the loopback, although it must be routed for that (route_localnet). IPv6 has
no such setting: the kernel drops what a pod answers to ::1, so nothing is mapped there. A UDP
"connection" keeps its old way in conntrack, so entries of a port that changes are deleted.

What is mapped is kept in a file; the kernel's table follows from it, whoever restarts.
"""

import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import msgspec

from kubewire.kernel import sysctl
from kubewire.kernel.conntrack import Conntrack
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.lang.nftables import model
from kubewire.lang.nftables.expressions import (
    DPORT,
    IIFNAME,
    IP6_DADDR,
    IP_DADDR,
    IP_SADDR,
    L4PROTO,
    CtStatus,
    FibLocal,
    Masquerade,
    Match,
    Verdict,
)
from kubewire.lang.nftables.families import ADDRESS, DADDR, FAMILY, SADDR
from kubewire.lang.nftables.lookups import DnatMap, Lookup
from kubewire.lang.nftables.model import PRIORITIES, Chain, Data, Rule, Set, Table
from kubewire.lang.nftables.types import (
    IPV4,
    PORT,
    PROTO,
    ifname_bytes,
    ip_bytes,
    port_bytes,
    proto_bytes,
)
from kubewire.lang.packet import PROTOCOLS

log = logging.getLogger(__name__)

NAME = "kubewire-hostports"

_LOOPBACK_V4, _LOOPBACK_V6 = "127.0.0.1", "::1"
# Before kube-proxy's: a hostPort is decided by the node, a NodePort by the cluster.
_PRIORITY = PRIORITIES["dstnat"] - 5


_GUARD = Rule(
    (
        Match(IIFNAME, ifname_bytes("lo"), equal=False),
        Lookup((IP_DADDR,), "loopback"),
        Verdict("drop"),
    ),
    "the loopback is nobody else's",
)


class HostPortError(Exception):
    """A port cannot be mapped; the text names it."""


class PortMapping(msgspec.Struct, frozen=True):
    """One port of the node and where it leads; ``host_ip`` "" is every address of the node."""

    host_port: int
    protocol: str
    target: str
    target_port: int
    host_ip: str = ""

    @property
    def version(self) -> int:
        """IP version."""
        return ip_address(self.target).version

    def __str__(self) -> str:
        where = f"{self.host_ip}:" if self.host_ip else ""
        return f"hostPort {where}{self.host_port}/{self.protocol}"


Mappings = Mapping[str, tuple[PortMapping, ...]]
"""By their owner (a pod's uid, an attachment)."""


def mapping(
    host_port: int, protocol: str, target: str, target_port: int, host_ip: str = ""
) -> PortMapping | None:
    """Check one mapping; None if ``host_ip`` is of the other family than the pod's address."""
    protocol = (protocol or "TCP").upper()
    for name, port in (("hostPort", host_port), ("containerPort", target_port)):
        if not 0 < port < 65536:
            raise HostPortError(f"{name} {port}: must be between 1 and 65535")
    if protocol.lower() not in ("tcp", "udp", "sctp"):
        raise HostPortError(f"hostPort {host_port}: protocol {protocol!r} is not supported")
    if host_ip:
        try:
            wanted = ip_address(host_ip)
        except ValueError as error:
            raise HostPortError(f"hostPort {host_port}: hostIP {error}") from None
        if str(wanted) == _LOOPBACK_V6 and ip_address(target).version == 6:
            raise HostPortError(f"hostPort {host_port}: hostIP ::1: the kernel takes no answers of a pod for it")  # fmt: skip
        if wanted.version != ip_address(target).version:
            return None
        host_ip = "" if wanted.is_unspecified else str(wanted)
    return PortMapping(host_port, protocol, target, target_port, host_ip)


def table_name(folder: Path) -> str:
    """Name of the table for the mappings that are kept in a folder, where there may be several."""
    return f"{NAME}-{hashlib.sha256(bytes(folder)).hexdigest()[:8]}"


def table(mappings: Mappings, name: str = NAME) -> Table:
    """The whole table."""
    sets: dict[str, Set] = {}
    for version in (4, 6):
        chosen = [m for found in mappings.values() for m in found if m.version == version]
        address, data = ADDRESS[version], (ADDRESS[version], PORT)
        one, every, back = f"one{version}", f"every{version}", f"back{version}"
        # The first of a container's networks has its ports; the next one follows when that goes.
        first = list(reversed(chosen))
        ones: dict[bytes, Data] = {_key(m): _target(m) for m in first if m.host_ip}
        everys: dict[bytes, Data] = {_key(m): _target(m) for m in first if not m.host_ip}
        backs: dict[bytes, Data] = {ip_bytes(m.target) * 2: None for m in chosen}
        sets[one] = Set(one, (address, PROTO, PORT), data, elements=ones)
        sets[every] = Set(every, (PROTO, PORT), data, elements=everys)
        sets[back] = Set(back, (address, address), elements=backs)
    loopback = {ip_bytes("127.0.0.0"): ip_bytes("127.255.255.255")}
    sets["loopback"] = Set("loopback", (IPV4,), elements=loopback, interval=True)
    chains = (
        Chain("map", tuple(_mapping_rules())),
        # route_localnet lets in what claims to come for the loopback from elsewhere.
        Chain("guard", (_GUARD,), type="filter", hook="prerouting", priority=PRIORITIES["raw"]),
        _base("prerouting", _PRIORITY, (Rule((Verdict("jump", "map"),)),)),
        _base("output", _PRIORITY, (Rule((Verdict("jump", "map"),)),)),
        _base("postrouting", PRIORITIES["srcnat"] - 5, tuple(_masquerading())),
    )
    return Table(name, sets=sets, chains={chain.name: chain for chain in chains})


def _base(hook: str, priority: int, rules: tuple[Rule, ...]) -> Chain:
    return Chain(hook, rules, type="nat", hook=hook, priority=priority)


def _mapping_rules() -> Iterator[Rule]:
    for version in (4, 6):
        exact = DnatMap((DADDR[version], L4PROTO, DPORT), f"one{version}", version)
        yield Rule((FAMILY[version], exact), "hostPort of one address")
    others = {4: (), 6: (Match(IP6_DADDR, ip_bytes(_LOOPBACK_V6), equal=False),)}
    for version in (4, 6):
        anywhere = DnatMap((L4PROTO, DPORT), f"every{version}", version)
        yield Rule((FAMILY[version], *others[version], FibLocal(), anywhere), "hostPort")


def _masquerading() -> Iterator[Rule]:
    local = Match(IP_SADDR, ip_bytes(_LOOPBACK_V4))
    yield Rule((FAMILY[4], local, CtStatus("dnat"), Masquerade()), "from the node's loopback")
    for version in (4, 6):
        family, source = FAMILY[version], SADDR[version]
        pair = Lookup((source, DADDR[version]), f"back{version}")
        yield Rule((family, pair, CtStatus("dnat"), Masquerade()), "a pod to itself")


def _key(found: PortMapping) -> bytes:
    head = ip_bytes(found.host_ip) if found.host_ip else b""
    return head + proto_bytes(PROTOCOLS[found.protocol.lower()]) + port_bytes(found.host_port)


def _target(found: PortMapping) -> bytes:
    return ip_bytes(found.target) + port_bytes(found.target_port)


class HostPorts:
    """The mappings of a node, in a file and in the kernel."""

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self._name = name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / "hostports.json"
        self._lock = folder / "hostports.lock"
        self._nftables = Nfnetlink()
        self._conntrack = Conntrack()

    @staticmethod
    def exist(folder: Path) -> bool:
        """Tell whether anything was ever mapped there."""
        return (folder / "hostports.json").exists()

    def close(self) -> None:
        """Close the sockets; the mappings stay."""
        self._nftables.close()
        self._conntrack.close()

    def put(self, owner: str, wanted: Iterable[PortMapping]) -> None:
        """Map an owner's ports; HostPortError if another container has one of them, or one leads to two."""
        mappings = tuple(dict.fromkeys(wanted))
        slots = [_slot(one) for one in mappings]
        if not mappings and not self._path.exists():
            return
        with self._locked():
            before = self._load()
            others = (other for other in before if _container(other) != _container(owner))
            taken = {_slot(m): other for other in others for m in before[other]}
            for one, slot in zip(mappings, slots, strict=True):
                if holder := taken.get(slot):
                    raise HostPortError(f"{one}: is held by {holder}")
                if slots.count(slot) > 1:
                    raise HostPortError(f"{one}: is there twice")
            rest = {o: m for o, m in before.items() if o != owner}
            self._change(before, rest | ({owner: mappings} if mappings else {}))

    def drop(self, owner: str) -> None:
        """Remove an owner's mappings; none is fine."""
        self.put(owner, ())

    def lost(self, owner: str, wanted: Iterable[PortMapping]) -> list[PortMapping]:
        """Those of an owner's mappings that are not in the kernel."""
        hooked = self._name in self._nftables.hooked()
        names = [f"{kind}{version}" for kind in ("one", "every") for version in (4, 6)]
        actual = self._nftables.elements(self._name, names) if hooked else {}
        own = [ms for other, ms in self._load().items() if _container(other) == _container(owner)]
        targets = {(_slot(m), _target(m)) for ms in own for m in ms}

        def found(one: PortMapping) -> Data:
            kind = f"{'one' if one.host_ip else 'every'}{one.version}"
            return actual.get(kind, {}).get(_key(one))

        return [one for one in wanted if (_slot(one), found(one)) not in targets]

    def owners(self) -> tuple[str, ...]:
        """Everyone who has a mapping."""
        return tuple(self._load())

    def _change(self, before: Mappings, after: Mappings) -> None:
        if before == after:
            return
        self._save(after)
        new = table(after, self._name)
        try:
            change = (
                model.difference(table(before, self._name), new) if before else model.replace(new)
            )
            self._nftables.commit(change)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST):
                self._save(before)
                raise
            # The kernel does not have what the file says: a reboot, or a kill between the two.
            self._nftables.commit(model.replace(new))
        if after and sysctl.read("net.ipv4.conf.all.route_localnet") != "1":
            sysctl.write("net.ipv4.conf.all.route_localnet", 1)
        self._forget(set(_flat(before)) ^ set(_flat(after)))

    def _forget(self, changed: set[PortMapping]) -> None:
        """Delete UDP entries to ports that lead elsewhere now."""
        ports = {m.host_port for m in changed if m.protocol == "UDP"}
        if ports:
            self._conntrack.delete_where(
                lambda e: (
                    e.original.protocol == PROTOCOLS["udp"] and e.original.destination_port in ports
                )
            )

    def _load(self) -> dict[str, tuple[PortMapping, ...]]:
        try:
            return msgspec.json.decode(
                self._path.read_bytes(), type=dict[str, tuple[PortMapping, ...]]
            )
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError as error:
            log.warning("%s: counts for nothing: %s", self._path, error)
            return {}

    def _save(self, mappings: Mappings) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(mappings))
        beside.replace(self._path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _container(owner: str) -> str:
    """Whose attachment it is: NETWORK:CONTAINER/INTERFACE; runtimes map its ports on each network."""
    return owner.rpartition(":")[2].partition("/")[0]


def _slot(found: PortMapping) -> tuple[int, int, str, str]:
    return found.version, found.host_port, found.protocol, found.host_ip


def _flat(mappings: Mappings) -> Iterator[PortMapping]:
    for found in mappings.values():
        yield from found
