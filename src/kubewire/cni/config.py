"""A network configuration, checked: every complaint names its field.

Keys of ``runtimeConfig`` are matched without regard to case: containerd 1.6 capitalises them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from kubewire.api.meta import JSON
from kubewire.api.selectors import LabelSelector
from kubewire.cni import bandwidth, ipam
from kubewire.cni.bandwidth import Limits
from kubewire.cni.ipam import Address, ExhaustedError, IpamError, Network, Range, RangeSet
from kubewire.cni.pools import Pod, Pool, Supply
from kubewire.cni.spec import (
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    LATEST,
    VERSIONS,
    CniError,
    Request,
    Result,
    ResultRoute,
    parse_result,
    parse_route,
)

MAIN = "kubewire-cni"
LOOPBACK = "loopback"
BUILTIN_IPAM = "kubewire-ipam"
DEFAULT_DATA_DIR = Path("/var/lib/cni/kubewire")
ANNOTATION_IP = "kubewire.dev/ip"
_SMALLEST_V6_MTU = 1280

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fit:
    """What a pod may send so that it fits the way to every other node; 0: nobody knows."""

    mtu: int = 0
    gso: int = 0
    """The largest IPv4 packet that TCP hands over at once, to be cut by the last device."""


# -- as it is written ------------------------------------------------------------------------------


class _Wire(msgspec.Struct, frozen=True, rename="camel"):
    """Unknown keys are other plugins' or a runtime's business; null is an absent key."""


class _Range(_Wire, frozen=True):
    subnet: str = ""
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""
    exclude: list[str] = []


class _Pool(_Wire, frozen=True):
    name: str
    ranges: list[list[_Range]]
    namespaces: list[str] = []
    namespace_selector: LabelSelector | None = None


_Count = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]


class _Route(_Wire, frozen=True):
    dst: str
    gw: str = ""
    mtu: _Count = 0
    advmss: _Count = 0
    priority: _Count = 0
    table: _Count | None = None
    scope: _Count | None = None


class _Ipam(_Range, frozen=True):
    ranges: list[list[_Range]] = []
    pools: list[_Pool] = []
    routes: list[JSON] = []
    data_dir: str = ""


class PortEntry(_Wire, frozen=True):
    """runtimeConfig.portMappings[]."""

    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = msgspec.field(name="hostIP", default="")


class _Bandwidth(_Wire, frozen=True):
    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


class _Dns(_Wire, frozen=True, omit_defaults=True):
    """``servers`` and ``searches`` are how runtimes write it, the others how results do."""

    nameservers: list[str] = []
    servers: list[str] = []
    domain: str = ""
    search: list[str] = []
    searches: list[str] = []
    options: list[str] = []


class _Runtime(_Wire, frozen=True):
    ips: list[str] = []
    mac: str = ""
    dns: _Dns = _Dns()
    port_mappings: list[PortEntry] = []
    bandwidth: _Bandwidth = _Bandwidth()


class _Attachment(_Wire, frozen=True):
    container_id: str = msgspec.field(name="containerID")
    ifname: str


_VALID, _ATTACHMENTS = "cni.dev/valid-attachments", "cni.dev/attachments"


class _CniArgs(_Wire, frozen=True):
    ips: list[str] = []


class _Args(_Wire, frozen=True):
    cni: _CniArgs = _CniArgs()


class _Network(_Wire, frozen=True):
    type: str = ""
    capabilities: dict[str, bool] = {}
    mtu: int = 0
    ipam: JSON = {}
    dns: _Dns = _Dns()
    runtime_config: JSON = {}
    args: _Args = _Args()
    data_dir: str = ""
    ip_masq: bool = False
    non_masquerade: list[str] = msgspec.field(name="nonMasqueradeCIDRs", default=[])
    disable_gc: bool | Literal["true", "false"] = msgspec.field(name="disableGC", default=False)
    """A string in the text of the specification, a boolean in what people write."""
    prev_result: JSON | None = None
    valid: list[_Attachment] | None = msgspec.field(name=_VALID, default=None)
    attachments: list[_Attachment] | None = msgspec.field(name=_ATTACHMENTS, default=None)
    """What the text of the specification called it at first; libcni gives both."""


_CANONICAL = {
    name.lower(): name
    for kind in (PortEntry, _Bandwidth, _Dns, _Runtime)
    for name in kind.__struct_encode_fields__
}


# -- as it is used ---------------------------------------------------------------------------------


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
    gso: int = 0
    """The largest IPv4 packet that TCP hands over at once; 0: the kernel's 64 KiB."""
    data_dir: Path = DEFAULT_DATA_DIR
    pod: Pod = field(default_factory=Pod)
    dns: JSON = field(default_factory=dict)
    mac: str = ""
    wanted: tuple[Address, ...] = ()
    ports: tuple[PortEntry, ...] = ()
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
    pod_cidrs: Iterable[str] = (),
    pod: Pod | None = None,
    pools: Sequence[Pool] = (),
) -> Config:
    """Check a configuration.

    Without ranges of its own, the IPAM gives from ``pod_cidrs``, and from ``pools`` of the cluster.
    """
    wire = convert(request.config, _Network)
    runtime = convert(_canonical(wire.runtime_config), _Runtime, "runtimeConfig")
    pod = pod or pod_of(request)
    if wire.mtu and not 68 <= wire.mtu <= 65535:
        raise CniError(INVALID_CONFIG, f"mtu {wire.mtu}: must be between 68 and 65535")
    _check_data_dir("dataDir", wire.data_dir)
    adding = request.command in ("ADD", "STATUS")
    given = _ipam(wire.ipam, pod_cidrs, pools, strict=adding)
    if adding:
        refuse_small_mtu(
            wire.mtu, (r.subnet.version for ranges in given.supply.sets for r in ranges)
        )
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


def _owners(attachments: list[_Attachment] | None) -> frozenset[str] | None:
    if attachments is None:
        return None
    return frozenset(f"{one.container_id}/{one.ifname}" for one in attachments)


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


def convert(wire: JSON, kind: type[T], where: str = "") -> T:
    """Read a struct; CniError names the field that is wrong."""
    try:
        return msgspec.convert(_present(wire), kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        path = f"{where}{path.rstrip('`')}".lstrip(".")
        missing = re.fullmatch(r"Object missing required field `(.+)`", text)
        if missing:
            raise CniError(INVALID_CONFIG, f"{path}.{missing[1]}: is missing") from None
        raise CniError(INVALID_CONFIG, f"{path}: {text[:1].lower()}{text[1:]}") from None


def _present(value: Any) -> Any:
    """Without what is null."""
    if isinstance(value, dict):
        return {k: _present(v) for k, v in value.items() if v is not None or k in _NULLABLE}
    return [_present(v) for v in value] if isinstance(value, list) else value


_NULLABLE = frozenset({_VALID, _ATTACHMENTS})


def _canonical(value: Any) -> Any:
    """``PortMappings`` -> ``portMappings``, and so on below."""
    if isinstance(value, dict):
        return {_CANONICAL.get(k.lower(), k): _canonical(v) for k, v in value.items()}
    return [_canonical(v) for v in value] if isinstance(value, list) else value


class _PreviousLink(_Wire, frozen=True):
    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""


class _PreviousIp(_Wire, frozen=True):
    address: str
    gateway: str = ""
    interface: int | None = None


class _Previous(_Wire, frozen=True):
    cni_version: str = LATEST
    interfaces: list[_PreviousLink] = []
    ips: list[_PreviousIp] = []
    routes: list[_Route] = []
    dns: _Dns = _Dns()


def _previous(wire: JSON) -> Result:
    """What earlier plugins of the chain, or our own ADD, have answered."""
    found = convert(wire, _Previous, "prevResult")
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


def _ipam(
    wire: JSON, pod_cidrs: Iterable[str], pools: Sequence[Pool], *, strict: bool
) -> IpamConfig:
    """Check ``ipam``, which may be missing; ``strict``: there must be something to give from."""
    kind = wire.get("type") or BUILTIN_IPAM
    if not isinstance(kind, str):
        raise CniError(INVALID_CONFIG, "ipam.type: is not a string")
    if kind in (MAIN, LOOPBACK):
        # It would call itself for ever.
        raise CniError(INVALID_CONFIG, f"ipam.type {kind!r}: is not an IPAM plugin")
    if kind != BUILTIN_IPAM:
        return IpamConfig(kind)
    found = convert(wire, _Ipam, "ipam")
    _check_data_dir("ipam.dataDir", found.data_dir)
    try:
        own = _sets(found)
        named = [*map(_pool, found.pools), *(() if own else pools)]
        supply = Supply.of(own or ipam.range_sets(pod_cidrs), named)
        if strict:
            supply.check()
    except IpamError as error:
        raise CniError(INVALID_CONFIG, f"ipam.{error}") from None
    return IpamConfig(BUILTIN_IPAM, supply, tuple(_routes(found.routes)), of_node=not own)


def _routes(wire: Iterable[JSON]) -> Iterator[ResultRoute]:
    for number, route in enumerate(wire):
        convert(route, _Route, f"ipam.routes[{number}]")
        try:
            yield parse_route(route)
        except ValueError as error:
            raise CniError(INVALID_CONFIG, f"ipam.routes[{number}]: {error}") from None


def _sets(wire: _Ipam) -> tuple[RangeSet, ...]:
    sets = _range_sets(wire.ranges, "ranges")
    return ((_range(wire, ""),), *sets) if wire.subnet else sets


def _range_sets(wire: Iterable[Iterable[_Range]], where: str) -> tuple[RangeSet, ...]:
    return tuple(
        tuple(_range(one, f"{where}[{n}][{m}].") for m, one in enumerate(ranges))
        for n, ranges in enumerate(wire)
    )


def _range(wire: _Range, where: str) -> Range:
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


def _pool(wire: _Pool) -> Pool:
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


def _limits(wire: _Bandwidth) -> Limits:
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


def _dns(wire: _Dns) -> JSON:
    merged = _Dns(
        nameservers=wire.nameservers or wire.servers,
        domain=wire.domain,
        search=wire.search or wire.searches,
        options=wire.options,
    )
    found: JSON = msgspec.to_builtins(merged)
    return found
