"""A network configuration, checked: every complaint names its field."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import msgspec

from kubewire.api.meta import JSON
from kubewire.cni import bandwidth, ipam, written
from kubewire.cni.bandwidth import Limits
from kubewire.cni.ipam import Address, ExhaustedError, IpamError, Network, Range, RangeSet
from kubewire.cni.pools import Pod, Pool, Supply
from kubewire.cni.spec import (
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    LATEST,
    NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    VERSIONS,
    CniError,
    Request,
    Result,
    ResultRoute,
    parse_result,
    parse_route,
)
from kubewire.kernel.links import DEFAULT_GSO, Gso

MAIN = "kubewire-cni"
LOOPBACK = "loopback"
BUILTIN_IPAM = "kubewire-ipam"
DEFAULT_DATA_DIR = Path("/var/lib/cni/kubewire")
ANNOTATION_IP = "kubewire.dev/ip"
_SMALLEST_V6_MTU = 1280


@dataclass(frozen=True, slots=True)
class Fit:
    """What a pod may send so that it fits the way to every other node; 0: nobody knows."""

    mtu: int = 0
    gso: Gso = DEFAULT_GSO

    def at(self, mtu: int) -> "Fit":
        """With the MTU that somebody has set, if any.

        Where it is more than fits, TCP finds the way's own: long IPv6 packets would then always be
        too big by their header (`wiring.ways`).
        """
        if not mtu:
            return self
        return Fit(mtu, self.gso if mtu <= self.mtu else replace(self.gso, v6=0))


@dataclass(frozen=True, slots=True)
class IpamConfig:
    """``ipam``: ours, or another plugin by name."""

    type: str
    supply: Supply = field(default_factory=Supply)
    routes: tuple[ResultRoute, ...] = ()
    of_node: bool = False
    """The default ranges are the node's podCIDRs."""


@dataclass(frozen=True, slots=True)
class Config:
    """What ``kubewire-cni`` is to do."""

    name: str
    mtu: int
    ipam: IpamConfig
    previous: Result | None
    gso: Gso = DEFAULT_GSO
    data_dir: Path = DEFAULT_DATA_DIR
    pod: Pod = field(default_factory=Pod)
    dns: JSON = field(default_factory=dict)
    mac: str = ""
    wanted: tuple[Address, ...] = ()
    ports: tuple[written.PortEntry, ...] = ()
    limits: Limits = field(default_factory=Limits)
    masquerade: bool = False
    not_masqueraded: tuple[Network, ...] = ()
    valid_attachments: frozenset[str] | None = None
    """Owners that the runtime knows; None if it did not say."""
    disable_gc: bool = False

    @property
    def sets(self) -> tuple[RangeSet, ...]:
        """What this attachment's addresses are taken from."""
        try:
            return self.ipam.supply.sets_for(self.pod, self.wanted)
        except ExhaustedError:
            raise
        except IpamError as error:
            raise CniError(INVALID_CONFIG, str(error)) from None


def parse(
    request: Request,
    pod_cidrs: Sequence[str] | None = None,
    pod: Pod | None = None,
    pools: Sequence[Pool] = (),
) -> Config:
    """Check a configuration.

    Without ranges of its own, the IPAM gives from ``pod_cidrs``, and from ``pools`` of the cluster. No
    podCIDRs means that the node has got none yet, None that it will never have any.
    """
    wire = written.convert(request.config, written.Network)
    runtime = written.convert(
        written.canonical(wire.runtime_config), written.Runtime, "runtimeConfig"
    )
    pod = pod or pod_of(request)
    if wire.mtu and not 68 <= wire.mtu <= 65535:
        raise CniError(INVALID_CONFIG, f"mtu {wire.mtu}: must be between 68 and 65535")
    _check_data_dir("dataDir", wire.data_dir)
    given = _ipam(wire.ipam, pod_cidrs or (), pools)
    if request.command in ("ADD", "STATUS"):
        if given.of_node and pod_cidrs is not None and not (pod_cidrs or pools):
            raise not_ready(request, "spec.podCIDRs of this node's Node: there are none yet")
        _refuse_unusable(given, wire.mtu)
    return Config(
        name=request.name,
        mtu=wire.mtu,
        ipam=given,
        previous=None if wire.prev_result is None else _previous(wire.prev_result),
        data_dir=_data_dir(request.config),
        pod=pod,
        dns=_dns(runtime.dns) or _dns(wire.dns),
        mac=_mac(runtime.mac or request.args.get("MAC") or ""),
        wanted=tuple(dict.fromkeys(_wanted(request, runtime.ips, wire.args.cni.ips, pod))),
        ports=tuple(runtime.port_mappings),
        limits=_limits(runtime.bandwidth),
        masquerade=wire.ip_masq,
        not_masqueraded=tuple(_cidrs("nonMasqueradeCIDRs", wire.non_masquerade)),
        valid_attachments=_owners(wire.attachments if wire.valid is None else wire.valid),
        disable_gc=wire.disable_gc in (True, "true"),
    )  # fmt: skip


def _owners(attachments: list[written.Attachment] | None) -> frozenset[str] | None:
    if attachments is None:
        return None
    return frozenset(f"{one.container_id}/{one.ifname}" for one in attachments)


def not_ready(request: Request, why: str) -> CniError:
    """What ADD and STATUS say of a node that is not complete yet."""
    return CniError(NOT_AVAILABLE if request.command == "STATUS" else TRY_AGAIN_LATER, why)


def refuse_small_mtu(mtu: int, versions: Iterable[int]) -> None:
    """The kernel has no IPv6 on a device that takes less; 0: it is not known yet."""
    if 0 < mtu < _SMALLEST_V6_MTU and 6 in versions:
        raise CniError(INVALID_CONFIG, f"mtu {mtu}: IPv6 needs {_SMALLEST_V6_MTU} at least")


def for_removal(request: Request) -> Config:
    """What DEL needs: it must work with a configuration that ADD has refused."""
    wire = request.config
    found = wire.get("ipam")
    kind = found.get("type") if isinstance(found, dict) else ""
    if isinstance(kind, str) and ("/" in kind or kind in (MAIN, LOOPBACK)):
        # No name of an IPAM plugin: nobody can have given an address.
        kind = BUILTIN_IPAM
    ipam_config = IpamConfig(kind if isinstance(kind, str) and kind else BUILTIN_IPAM)
    return Config(request.name, 0, ipam_config, None, data_dir=_data_dir(wire))


def pod_of(request: Request) -> Pod:
    """What the runtime itself says of the pod (CNI_ARGS of a kubelet's runtime)."""
    return Pod(namespace=request.args.get("K8S_POD_NAMESPACE", ""))


def _previous(wire: JSON) -> Result:
    """What earlier plugins of the chain, or our own ADD, have answered."""
    found = written.convert(wire, written.Previous, "prevResult")
    if (found.cni_version or LATEST) not in VERSIONS:
        raise CniError(INCOMPATIBLE_VERSION, f"prevResult.cniVersion {found.cni_version!r}: is not supported")  # fmt: skip
    for number, ip in enumerate(found.ips):
        where = f"prevResult.ips[{number}]"
        _read(f"{where}.address", ip_interface, ip.address)
        if ip.gateway:
            _read(f"{where}.gateway", ip_address, ip.gateway)
        if ip.interface is not None and not 0 <= ip.interface < len(found.interfaces):
            raise CniError(INVALID_CONFIG, f"{where}.interface {ip.interface}: there is no such interface")  # fmt: skip
    for number, route in enumerate(found.routes):
        _read(f"prevResult.routes[{number}].dst", _any_network, route.dst)
        if route.gw:
            _read(f"prevResult.routes[{number}].gw", ip_address, route.gw)
    try:
        return parse_result(wire)
    except CniError as error:
        raise CniError(INVALID_CONFIG, error.message) from None


def _read(where: str, kind: Callable[[str], object], text: str) -> None:
    try:
        kind(text)
    except ValueError as error:
        raise CniError(INVALID_CONFIG, f"{where}: {error}") from None


def _any_network(text: str) -> Network:
    return ip_network(text, strict=False)


def _data_dir(wire: JSON) -> Path:
    """Our IPAM's, else the network's: ``ipam.dataDir`` of another IPAM is its own."""
    found = wire.get("dataDir")
    match wire.get("ipam"):
        case {"dataDir": folder, **rest} if rest.get("type") in (None, "", BUILTIN_IPAM):
            found = folder or found
    return Path(found) if isinstance(found, str) and found.startswith("/") else DEFAULT_DATA_DIR


def _check_data_dir(where: str, folder: str) -> None:
    """It must be the same for whoever runs the plugin, wherever that is."""
    if folder and not folder.startswith("/"):
        raise CniError(INVALID_CONFIG, f"{where} {folder!r}: is not an absolute path")


def _ipam(wire: JSON, pod_cidrs: Iterable[str], pools: Sequence[Pool]) -> IpamConfig:
    """Read ``ipam``, which may be missing."""
    kind = wire.get("type") or BUILTIN_IPAM
    if not isinstance(kind, str):
        raise CniError(INVALID_CONFIG, "ipam.type: is not a string")
    if kind in (MAIN, LOOPBACK):
        # It would call itself for ever.
        raise CniError(INVALID_CONFIG, f"ipam.type {kind!r}: is not an IPAM plugin")
    if kind != BUILTIN_IPAM:
        return IpamConfig(kind)
    found = written.convert(wire, written.Ipam, "ipam")
    _check_data_dir("ipam.dataDir", found.data_dir)
    try:
        own = _sets(found)
        named = [*map(_pool, found.pools), *(() if own else pools)]
        supply = Supply.of(own or ipam.range_sets(pod_cidrs), named)
    except IpamError as error:
        raise CniError(INVALID_CONFIG, f"ipam.{error}") from None
    return IpamConfig(BUILTIN_IPAM, supply, tuple(_routes(found.routes)), of_node=not own)


def _refuse_unusable(given: IpamConfig, mtu: int) -> None:
    """There must be something to give from, and it must fit."""
    if given.type != BUILTIN_IPAM:
        return
    try:
        given.supply.check()
    except IpamError as error:
        raise CniError(INVALID_CONFIG, f"ipam.{error}") from None
    refuse_small_mtu(mtu, (r.subnet.version for ranges in given.supply.sets for r in ranges))


def _routes(wire: Iterable[JSON]) -> Iterator[ResultRoute]:
    for number, route in enumerate(wire):
        written.convert(route, written.Route, f"ipam.routes[{number}]")
        try:
            yield parse_route(route)
        except ValueError as error:
            raise CniError(INVALID_CONFIG, f"ipam.routes[{number}]: {error}") from None


def _sets(wire: written.Ipam) -> tuple[RangeSet, ...]:
    sets = _range_sets(wire.ranges, "ranges")
    return ((_range(wire, ""),), *sets) if wire.subnet else sets


def _range_sets(wire: Iterable[Iterable[written.Range]], where: str) -> tuple[RangeSet, ...]:
    return tuple(
        tuple(_range(one, f"{where}[{n}][{m}].") for m, one in enumerate(ranges))
        for n, ranges in enumerate(wire)
    )


def _range(wire: written.Range, where: str) -> Range:
    if not wire.subnet:
        raise IpamError(f"{where}subnet: is missing")
    try:
        return Range.of(
            wire.subnet,
            start=wire.range_start,
            end=wire.range_end,
            gateway=wire.gateway,
            exclude=wire.exclude,
        )
    except IpamError as error:
        raise IpamError(f"{where}{error}") from None


def _pool(wire: written.Pool) -> Pool:
    if not wire.ranges:
        raise IpamError(f"pools[{wire.name}].ranges: is empty")
    sets = _range_sets(wire.ranges, f"pools[{wire.name}].ranges")
    return Pool(wire.name, sets, frozenset(wire.namespaces), wire.namespace_selector)


def _wanted(
    request: Request, runtime: Iterable[str], args: Iterable[str], pod: Pod
) -> Iterator[Address]:
    """Static addresses: capability, args.cni.ips, IP= in CNI_ARGS, the pod's annotation."""
    for where, texts in (
        ("runtimeConfig.ips", runtime),
        ("args.cni.ips", args),
        ("CNI_ARGS IP", request.args.get("IP", "").split(",")),
        (f"metadata.annotations[{ANNOTATION_IP}]", pod.annotations.get(ANNOTATION_IP, "").split(",")),
    ):  # fmt: skip
        for text in filter(None, (text.strip() for text in texts)):
            try:
                yield ip_interface(text).ip
            except ValueError as error:
                raise CniError(INVALID_CONFIG, f"{where}: {error}") from None


def _cidrs(where: str, texts: Iterable[str]) -> Iterator[Network]:
    for text in texts:
        try:
            yield ip_network(text, strict=False)
        except ValueError as error:
            raise CniError(INVALID_CONFIG, f"{where}: {error}") from None


def _mac(text: str) -> str:
    parts = text.split(":")
    if text and (len(parts) != 6 or any(len(p) != 2 or not _is_hex(p) for p in parts)):
        raise CniError(INVALID_CONFIG, f"runtimeConfig.mac {text!r}: is not a hardware address")
    if text and (int(parts[0], 16) & 1 or not any(int(p, 16) for p in parts)):
        raise CniError(INVALID_CONFIG, f"runtimeConfig.mac {text!r}: is not of one interface")
    return text.lower()


def _is_hex(text: str) -> bool:
    return all(c in "0123456789abcdefABCDEF" for c in text)


def _limits(wire: written.Bandwidth) -> Limits:
    """The wire has bits everywhere; a burst is counted in bytes from here on."""
    for name, rate, burst in (
        ("ingress", wire.ingress_rate, wire.ingress_burst),
        ("egress", wire.egress_rate, wire.egress_burst),
    ):
        where = f"runtimeConfig.bandwidth.{name}"
        if rate and not bandwidth.MINIMUM <= rate <= bandwidth.MAXIMUM:
            raise CniError(INVALID_CONFIG, f"{where}Rate {rate}: must be between 1k and 1P")
        if burst < 0:
            raise CniError(INVALID_CONFIG, f"{where}Burst {burst}: must not be negative")
        if burst and not rate:
            raise CniError(INVALID_CONFIG, f"{where}Burst {burst}: needs {name}Rate")
    return Limits(wire.ingress_rate, wire.egress_rate, wire.ingress_burst // 8, wire.egress_burst // 8)  # fmt: skip


def _dns(wire: written.Dns) -> JSON:
    merged = written.Dns(
        nameservers=wire.nameservers or wire.servers,
        domain=wire.domain,
        search=wire.search or wire.searches,
        options=wire.options,
    )
    found: JSON = msgspec.to_builtins(merged)
    return found
