"""KubeProxyConfiguration v1alpha1 as a schema: every field of upstream's, and what is wrong in one.

Most fields decide nothing here (Windows, profiling, logging); they are known so that upstream's file
is read unchanged and only a true slip is called one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from kubewire.api.errors import InputError

GROUP = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"
MODES = ("nftables", "iptables", "ipvs", "envoy")
DETECT = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
KEYWORDS = ("primary", "localhost", "all")
CIDR = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


class Section(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """A part of the file; null is as good as absent."""


class ClientConnection(Section, frozen=True, kw_only=True):
    """How the API server is reached."""

    kubeconfig: str | None = None
    accept_content_types: str | None = None
    content_type: str | None = None
    qps: float | None = None
    burst: int | None = None


class Iptables(Section, frozen=True, kw_only=True):
    """Of mode iptables."""

    masquerade_bit: int | None = None
    masquerade_all: bool | None = None
    localhost_node_ports: bool | None = None
    snat_node_internal_ip: bool | None = msgspec.field(name="snatNodeInternalIP", default=None)
    sync_period: str | None = None
    min_sync_period: str | None = None


class Nftables(Section, frozen=True, kw_only=True):
    """Of mode nftables; envoy's section is the same."""

    masquerade_bit: int | None = None
    masquerade_all: bool | None = None
    sync_period: str | None = None
    min_sync_period: str | None = None


class Ipvs(Section, frozen=True, kw_only=True):
    """Of mode ipvs; the iptables section gives its masquerading, as upstream."""

    sync_period: str | None = None
    min_sync_period: str | None = None
    scheduler: str | None = None
    exclude_cidrs: list[str] | None = msgspec.field(name="excludeCIDRs", default=None)
    strict_arp: bool | None = msgspec.field(name="strictARP", default=None)
    tcp_timeout: str | None = None
    tcp_fin_timeout: str | None = None
    udp_timeout: str | None = None


class Conntrack(Section, frozen=True, kw_only=True):
    """Limits of connection tracking."""

    max_per_core: int | None = None
    min: int | None = None
    tcp_established_timeout: str | None = None
    tcp_close_wait_timeout: str | None = None
    tcp_be_liberal: bool | None = None
    udp_timeout: str | None = None
    udp_stream_timeout: str | None = None


class Winkernel(Section, frozen=True, kw_only=True):
    """Of Windows."""

    network_name: str | None = None
    source_vip: str | None = None
    enable_dsr: bool | None = msgspec.field(name="enableDSR", default=None)
    root_hns_endpoint_name: str | None = None
    forward_health_check_vip: bool | None = None


class DetectLocal(Section, frozen=True, kw_only=True):
    """How pods of this node are known by interfaces."""

    bridge_interface: str | None = None
    interface_name_prefix: str | None = None


class TextLogging(Section, frozen=True, kw_only=True):
    """logging.options.text."""

    split_stream: bool | None = None
    info_buffer_size: str | int | None = None


class LoggingOptions(Section, frozen=True, kw_only=True):
    """logging.options."""

    text: TextLogging | None = None
    json: TextLogging | None = None


class VModule(Section, frozen=True, kw_only=True):
    """logging.vmodule[]."""

    file_pattern: str | None = None
    verbosity: int | None = None


class Logging(Section, frozen=True, kw_only=True):
    """How it logs."""

    format: str | None = None
    flush_frequency: str | int | None = None
    verbosity: int | None = None
    vmodule: list[VModule] | None = None
    options: LoggingOptions | None = None


class KubeProxyConfiguration(Section, frozen=True, kw_only=True):
    """The whole file."""

    api_version: str | None = None
    kind: str | None = None
    metadata: dict[str, Any] | None = None
    feature_gates: dict[str, bool] | None = None
    client_connection: ClientConnection | None = None
    logging: Logging | None = None
    hostname_override: str | None = None
    bind_address: str | None = None
    healthz_bind_address: str | None = None
    metrics_bind_address: str | None = None
    bind_address_hard_fail: bool | None = None
    enable_profiling: bool | None = None
    show_hidden_metrics_for_version: str | None = None
    mode: str | None = None
    iptables: Iptables | None = None
    ipvs: Ipvs | None = None
    nftables: Nftables | None = None
    envoy: Nftables | None = None
    winkernel: Winkernel | None = None
    detect_local_mode: str | None = None
    detect_local: DetectLocal | None = None
    cluster_cidr: str | None = msgspec.field(name="clusterCIDR", default=None)
    node_port_addresses: list[str] | None = None
    oom_score_adj: int | None = None
    conntrack: Conntrack | None = None
    config_sync_period: str | None = None
    port_range: str | None = None
    windows_run_as_service: bool | None = None
    # Of earlier files, which upstream still reads.
    linux: dict[str, Any] | None = None
    sync_period: str | None = None
    min_sync_period: str | None = None
    udp_idle_timeout: str | None = None


def decode(document: Mapping[str, Any], source: str) -> KubeProxyConfiguration:
    """Check a document; InputError names the file and the field."""
    if document.get("kind") != KIND:
        raise InputError(f"{source}: kind: expected {KIND}, not {document.get('kind')!r}")
    if document.get("apiVersion", GROUP) != GROUP:
        version = document["apiVersion"]
        raise InputError(
            f'{source}: apiVersion: no kind "{KIND}" is registered for version "{version}"'
        )
    try:
        found = msgspec.convert(document, KubeProxyConfiguration)
    except msgspec.ValidationError as error:
        raise InputError(f"{source}: {_told(str(error))}") from error
    for field, fault in _faults(found):
        raise InputError(f"{source}: {field}: {fault}")
    return found


def _told(text: str) -> str:
    """msgspec's complaint as upstream's strict decoder words it."""
    what, _, place = text.partition(" - at `$")
    place = place.strip(".`")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown:
        path = f"{place}.{unknown[1]}" if place else unknown[1]
        return f'strict decoding error: unknown field "{path}"'
    return f"{place}: {what}"


def seconds(text: str | None, default: float) -> float:
    """A Go duration; ValueError if it is none, the default where nothing or zero is said."""
    if text in (None, "", "0"):
        return default
    assert text is not None
    sign = -1 if text.startswith("-") else 1
    rest = text.lstrip("-")
    parts = _DURATION.findall(rest)
    if not parts or "".join(n + u for n, u in parts) != rest:
        raise ValueError(text)
    return sign * sum(float(n) * _UNITS[u] for n, u in parts) or default


Fault = tuple[str, str]


def _faults(found: KubeProxyConfiguration) -> Iterator[Fault]:
    yield from _mode_faults(found)
    yield from _section_faults("iptables", found.iptables)
    yield from _section_faults("nftables", found.nftables)
    yield from _section_faults("envoy", found.envoy)
    yield from _period_faults("ipvs", found.ipvs)
    yield from _conntrack_faults(found.conntrack or Conntrack())
    burst = found.client_connection and found.client_connection.burst
    if burst and burst < 0:
        yield "clientConnection.burst", _invalid(burst, "must be greater than or equal to 0")
    if found.oom_score_adj is not None and not -1000 <= found.oom_score_adj <= 1000:
        yield (
            "oomScoreAdj",
            _invalid(found.oom_score_adj, "must be within the range [-1000, 1000]"),
        )
    yield from _durations("", found, ("config_sync_period",), above=0)
    yield from _address_faults(found)
    yield from _network_faults(found)


def _invalid(value: object, text: str) -> str:
    shown = f'"{value}"' if isinstance(value, str) else value
    return f"Invalid value: {shown}: {text}"


def _mode_faults(found: KubeProxyConfiguration) -> Iterator[Fault]:
    if found.mode and found.mode not in MODES:
        text = f"must be {','.join(MODES)} or blank (blank means the best-available proxy [currently nftables])"
        yield "mode", _invalid(found.mode, text)
    mode = found.detect_local_mode
    if mode and mode not in DETECT:
        yield (
            "detectLocalMode",
            _invalid(mode, f"must be {','.join(DETECT)} or blank (blank means ClusterCIDR)"),
        )
    detect = found.detect_local or DetectLocal()
    for wanted, field, value in (
        ("BridgeInterface", "detectLocal.bridgeInterface", detect.bridge_interface),
        ("InterfaceNamePrefix", "detectLocal.interfaceNamePrefix", detect.interface_name_prefix),
    ):
        if mode == wanted and not value:
            yield field, "Required value"
        elif value and len(value) > 15:
            yield field, _invalid(value, "must be no more than 15 characters")


def _section_faults(name: str, section: Iptables | Nftables | None) -> Iterator[Fault]:
    if section is None:
        return
    bit = section.masquerade_bit
    if bit is not None and not 0 <= bit <= 31:
        yield f"{name}.masqueradeBit", _invalid(bit, "must be within the range [0, 31]")
    yield from _period_faults(name, section)


def _period_faults(name: str, section: Iptables | Nftables | Ipvs | None) -> Iterator[Fault]:
    if section is None:
        return
    yield from _durations(name, section, ("sync_period",), above=0)
    timeouts = ("min_sync_period", "tcp_timeout", "tcp_fin_timeout", "udp_timeout")
    yield from _durations(name, section, timeouts)
    if seconds(section.min_sync_period, 1.0) > seconds(section.sync_period, 30.0):
        text = f"must be greater than or equal to {name}.minSyncPeriod"
        yield f"{name}.syncPeriod", _invalid(section.sync_period or "30s", text)


def _durations(
    name: str, section: Section, fields: tuple[str, ...], above: int | None = None
) -> Iterator[Fault]:
    for field in fields:
        text = getattr(section, field, None)
        head, *rest = field.split("_")
        place = f"{name}." * bool(name) + head + "".join(part.title() for part in rest)
        try:
            value = seconds(text, 0.0)
        except ValueError:
            yield place, f'time: invalid duration "{text}"'
            return
        if value < 0:
            limit = "must be greater than 0" if above == 0 else "must be greater than or equal to 0"
            yield place, _invalid(text, limit)
            return


def _conntrack_faults(section: Conntrack) -> Iterator[Fault]:
    for field, value in (("maxPerCore", section.max_per_core), ("min", section.min)):
        if value is not None and value < 0:
            yield f"conntrack.{field}", _invalid(value, "must be greater than or equal to 0")
    timeouts = ("tcp_established_timeout", "tcp_close_wait_timeout", "udp_timeout")
    yield from _durations("conntrack", section, (*timeouts, "udp_stream_timeout"))


def _address_faults(found: KubeProxyConfiguration) -> Iterator[Fault]:
    if found.bind_address and not is_ip(found.bind_address):
        text = "not a valid textual representation of an IP address"
        yield "bindAddress", _invalid(found.bind_address, text)
    for field, value in (
        ("healthzBindAddress", found.healthz_bind_address),
        ("metricsBindAddress", found.metrics_bind_address),
    ):
        if value:
            yield from _host_port_faults(field, value)


def _host_port_faults(field: str, text: str) -> Iterator[Fault]:
    """What is wrong with ``IP:port``; a bare address gets the usual port."""
    if is_ip(text):
        return
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        yield field, _invalid(text, "must be IP:port")
        return
    if not is_ip(host.strip("[]")):
        yield field, _invalid(host, "must be a valid IP")
    if not (port.isdecimal() and 0 < int(port) < 65536):
        yield field, _invalid(port, "must be a valid port")


def is_ip(text: str) -> bool:
    """Tell an address from something else."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_cidr(text: str) -> bool:
    if "/" not in text:
        return False
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _network_faults(found: KubeProxyConfiguration) -> Iterator[Fault]:
    text = found.cluster_cidr or ""
    cidrs = [part.strip() for part in text.split(",")] if text.strip() else []
    dual = "must be a valid DualStack CIDR (e.g. 10.100.0.0/16,fde4:8dba:82e1::/48)"
    if len(cidrs) > 2:
        yield "clusterCIDR", _invalid(text, f"only one CIDR allowed or {dual[8:]}")
    elif len(cidrs) == 2:
        versions = {":" in c for c in cidrs if _is_cidr(c)}
        if len(versions) != 2:
            yield "clusterCIDR", _invalid(text, dual)
    elif cidrs and not _is_cidr(cidrs[0]):
        yield "clusterCIDR", _invalid(text, CIDR)
    for index, entry in enumerate(found.node_port_addresses or ()):
        if entry not in KEYWORDS and not _is_cidr(entry.strip()):
            yield f"nodePortAddresses[{index}]", _invalid(entry, f"{CIDR} or one of {KEYWORDS}")
    for index, entry in enumerate((found.ipvs and found.ipvs.exclude_cidrs) or ()):
        if not _is_cidr(entry):
            yield f"ipvs.excludeCIDRs[{index}]", _invalid(entry, CIDR)
    if found.port_range and not re.fullmatch(r"\d+([-+]\d+)?", found.port_range):
        yield (
            "portRange",
            _invalid(found.port_range, "must be a valid port range (e.g. 300-2000)"),
        )
