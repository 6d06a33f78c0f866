"""A network configuration as it is written: what its keys are called, and of which kind they are.

Unknown keys are other plugins' or a runtime's business; null is an absent key. Keys of
``runtimeConfig`` are matched without regard to case: containerd 1.6 capitalises them.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from kubewire.api.meta import JSON
from kubewire.api.selectors import LabelSelector
from kubewire.cni.spec import INVALID_CONFIG, LATEST, CniError

T = TypeVar("T")


class _Wire(msgspec.Struct, frozen=True, rename="camel"):
    """What all of it is."""


class Range(_Wire, frozen=True):
    """ipam.ranges[][], and ``ipam`` itself in its oldest form."""

    subnet: str = ""
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""
    exclude: list[str] = []


class Pool(_Wire, frozen=True):
    """ipam.pools[]."""

    name: str
    ranges: list[list[Range]]
    namespaces: list[str] = []
    namespace_selector: LabelSelector | None = None


_Count = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]


class Route(_Wire, frozen=True):
    """ipam.routes[] and prevResult.routes[]."""

    dst: str
    gw: str = ""
    mtu: _Count = 0
    advmss: _Count = 0
    priority: _Count = 0
    table: _Count | None = None
    scope: _Count | None = None


class Ipam(Range, frozen=True):
    """ipam, if it is ours."""

    ranges: list[list[Range]] = []
    pools: list[Pool] = []
    routes: list[JSON] = []
    data_dir: str = ""


class PortEntry(_Wire, frozen=True):
    """runtimeConfig.portMappings[]."""

    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = msgspec.field(name="hostIP", default="")


class Bandwidth(_Wire, frozen=True):
    """runtimeConfig.bandwidth."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


class Dns(_Wire, frozen=True, omit_defaults=True):
    """``servers`` and ``searches`` are how runtimes write it, the others how results do."""

    nameservers: list[str] = []
    servers: list[str] = []
    domain: str = ""
    search: list[str] = []
    searches: list[str] = []
    options: list[str] = []


class Runtime(_Wire, frozen=True):
    """runtimeConfig."""

    ips: list[str] = []
    mac: str = ""
    dns: Dns = Dns()
    port_mappings: list[PortEntry] = []
    bandwidth: Bandwidth = Bandwidth()


class Attachment(_Wire, frozen=True):
    """An element of GC's list."""

    container_id: str = msgspec.field(name="containerID")
    ifname: str


_VALID, _ATTACHMENTS = "cni.dev/valid-attachments", "cni.dev/attachments"


class _CniArgs(_Wire, frozen=True):
    ips: list[str] = []


class _Args(_Wire, frozen=True):
    cni: _CniArgs = _CniArgs()


class Network(_Wire, frozen=True):
    """The whole."""

    type: str = ""
    capabilities: dict[str, bool] = {}
    mtu: int = 0
    ipam: JSON = {}
    dns: Dns = Dns()
    runtime_config: JSON = {}
    args: _Args = _Args()
    data_dir: str = ""
    ip_masq: bool = False
    non_masquerade: list[str] = msgspec.field(name="nonMasqueradeCIDRs", default=[])
    disable_gc: bool | Literal["true", "false"] = msgspec.field(name="disableGC", default=False)
    """A string in the text of the specification, a boolean in what people write."""
    prev_result: JSON | None = None
    valid: list[Attachment] | None = msgspec.field(name=_VALID, default=None)
    attachments: list[Attachment] | None = msgspec.field(name=_ATTACHMENTS, default=None)
    """What the text of the specification called it at first; libcni gives both."""


_CANONICAL = {
    name.lower(): name
    for kind in (PortEntry, Bandwidth, Dns, Runtime)
    for name in kind.__struct_encode_fields__
}


class _PreviousLink(_Wire, frozen=True):
    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""


class _PreviousIp(_Wire, frozen=True):
    address: str
    gateway: str = ""
    interface: int | None = None


class Previous(_Wire, frozen=True):
    """prevResult."""

    cni_version: str = LATEST
    interfaces: list[_PreviousLink] = []
    ips: list[_PreviousIp] = []
    routes: list[Route] = []
    dns: Dns = Dns()


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


def canonical(value: Any) -> Any:
    """``PortMappings`` -> ``portMappings``, and so on below."""
    if isinstance(value, dict):
        return {_CANONICAL.get(k.lower(), k): canonical(v) for k, v in value.items()}
    return [canonical(v) for v in value] if isinstance(value, list) else value
