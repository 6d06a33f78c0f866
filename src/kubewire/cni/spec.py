"""The CNI specification (0.1.0 to 1.1.0) without any I/O: requests, results, errors.

A runtime executes a plugin with CNI_* variables and a network configuration on stdin; the plugin
prints a result or an error on stdout. Results are kept in one form and rendered for the version
that the configuration asks for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network

import msgspec

from kubewire.api.meta import JSON
from kubewire.cni.ipam import Address, Network

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = VERSIONS[-1]
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
NOT_AVAILABLE_LIMITED = 51
FAILED = 100
"""Codes from 100 on are ours: something on the machine refused."""
CHECK_FAILED = 101

_NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_LONGEST_NAME = 200
"""Of a network: it is the name of a folder and, with the container's, of a device's alias."""
_NO_INTERFACES = {"all", "default"}
"""Folders of settings beside those of the interfaces."""
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*", re.ASCII)

Interface = IPv4Interface | IPv6Interface


class CniError(Exception):
    """An error as the specification prints it."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def to_wire(self, version: str) -> JSON:
        """Render it."""
        wire: JSON = {"cniVersion": version, "code": self.code, "msg": self.message}
        return wire | ({"details": self.details} if self.details else {})


def at_least(version: str, wanted: str) -> bool:
    """Compare two specification versions."""
    return VERSIONS.index(version) >= VERSIONS.index(wanted)


# -- requests --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a plugin."""

    command: str
    container_id: str
    netns: str
    interface: str
    args: Mapping[str, str]
    path: tuple[str, ...]
    config: JSON
    version: str
    name: str

    @property
    def owner(self) -> str:
        """Who holds the addresses: an attachment is a container and an interface."""
        return f"{self.container_id}/{self.interface}"


def parse_request(env: Mapping[str, str], stdin: bytes) -> Request:
    """Read and check one call; CniError names the variable or field that is wrong."""
    command = env.get("CNI_COMMAND", "")
    if not command:
        raise CniError(INVALID_ENVIRONMENT, "CNI_COMMAND: required environment variable is missing")
    if command not in COMMANDS:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_COMMAND: unknown command {command!r}")
    config = _config(stdin, command)
    version = _version(config, command)
    missing = [name for name in _NEEDED[command] if not env.get(name)]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"{', '.join(missing)}: required environment variable is missing")  # fmt: skip
    if command in _SINCE and not at_least(version, _SINCE[command]):
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion {version}: {command} needs {_SINCE[command]} or later")  # fmt: skip
    name = config.get("name", "")
    if command != "VERSION":
        _check_network_name(name)
    _check_variables(env, command)
    return Request(
        command=command,
        container_id=env.get("CNI_CONTAINERID", ""),
        netns=env.get("CNI_NETNS", ""),
        interface=env.get("CNI_IFNAME", ""),
        args=_args(env.get("CNI_ARGS", ""), command),
        path=tuple(p for p in env.get("CNI_PATH", "").split(":") if p),
        config=config,
        version=version,
        name=name,
    )


def _config(stdin: bytes, command: str) -> JSON:
    try:
        config = msgspec.json.decode(stdin)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if command == "VERSION":
            return {}
        raise CniError(DECODING_FAILURE, f"network configuration on stdin: {error}") from None
    if not isinstance(config, dict):
        raise CniError(DECODING_FAILURE, "network configuration on stdin: is not a JSON object")
    return config


def _version(config: JSON, command: str) -> str:
    if command == "VERSION":
        # Whoever asks need not know any version of ours; the answer repeats what was asked.
        return str(config.get("cniVersion") or LATEST)
    # An absent version means the first one.
    version = config.get("cniVersion")
    version = "0.1.0" if version in (None, "") else version
    if version not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion {version!r}: is not supported",
            f"supported versions: {', '.join(VERSIONS)}",
        )
    return str(version)


def _check_network_name(name: object) -> None:
    if name is None or name == "":
        raise CniError(INVALID_CONFIG, "name: is missing in the network configuration")
    if not isinstance(name, str):
        raise CniError(INVALID_CONFIG, "name: is not a string")
    if not _NAME.fullmatch(name):
        raise CniError(INVALID_CONFIG, f"name {name!r}: has illegal characters")
    if len(name) > _LONGEST_NAME:
        raise CniError(INVALID_CONFIG, f"name {name!r}: is longer than {_LONGEST_NAME} characters")


def _check_variables(env: Mapping[str, str], command: str) -> None:
    if "CNI_CONTAINERID" not in _NEEDED[command]:
        return
    container, interface = env["CNI_CONTAINERID"], env["CNI_IFNAME"]
    if not _NAME.fullmatch(container):
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_CONTAINERID {container!r}: has illegal characters"
        )
    if len(interface.encode()) > 15:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME {interface!r}: is longer than 15 characters")  # fmt: skip
    if interface in _NO_INTERFACES:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME {interface!r}: is not a name of an interface")  # fmt: skip
    # The kernel takes a percent sign for a number that it is to choose.
    if interface in {".", ".."} or any(c in "/:%" or c.isspace() for c in interface):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME {interface!r}: has illegal characters")


def _args(text: str, command: str) -> dict[str, str]:
    """KEY=VALUE pairs; DEL must undo also what ADD refused for them."""
    found = {}
    for pair in text.split(";"):
        if not pair:
            continue
        key, equals, value = pair.partition("=")
        if not equals and command != "DEL":
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {pair!r} is not KEY=VALUE")
        found[key] = value
    return found


# -- results ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """interfaces[]."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    socket_path: str = ""
    pci_id: str = ""
    """The last two, like the MTU, since 1.1.0; other plugins' devices have them."""


@dataclass(frozen=True, slots=True)
class Ip:
    """ips[]; ``interface`` is an index into interfaces."""

    address: Interface
    gateway: Address | None = None
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class ResultRoute:
    """routes[]; the last five since 1.1.0."""

    destination: Network
    gateway: Address | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What ADD answers, in no version's form."""

    interfaces: tuple[Link, ...] = ()
    ips: tuple[Ip, ...] = ()
    routes: tuple[ResultRoute, ...] = ()
    dns: JSON = field(default_factory=dict)

    def after(self, previous: "Result") -> "Result":
        """Join to what an earlier plugin of the chain has made."""
        shift = len(previous.interfaces)
        ips = tuple(
            replace(ip, interface=None if ip.interface is None else ip.interface + shift)
            for ip in self.ips
        )
        return Result(
            interfaces=previous.interfaces + self.interfaces,
            ips=previous.ips + ips,
            routes=previous.routes + tuple(r for r in self.routes if r not in previous.routes),
            dns=previous.dns | self.dns,
        )

    def to_wire(self, version: str) -> JSON:
        """Render it for one version of the specification."""
        if not at_least(version, "0.3.0"):
            return self._to_old_wire(version)
        wire: JSON = {"cniVersion": version}
        if self.interfaces:
            wire["interfaces"] = [_link_to_wire(link, version) for link in self.interfaces]
        if self.ips:
            wire["ips"] = [_ip_to_wire(ip, version) for ip in self.ips]
        if self.routes:
            wire["routes"] = [_route_to_wire(route, version) for route in self.routes]
        return wire | {"dns": self.dns}

    def _to_old_wire(self, version: str) -> JSON:
        """Before 0.3.0: at most one address per family, with its routes."""
        wire: JSON = {"cniVersion": version}
        for family in (4, 6):
            found = next((ip for ip in self.ips if ip.address.version == family), None)
            if found is None:
                continue
            part: JSON = {"ip": str(found.address)}
            if found.gateway:
                part["gateway"] = str(found.gateway)
            routes = [r for r in self.routes if r.destination.version == family]
            if routes:
                part["routes"] = [_route_to_wire(route, version) for route in routes]
            wire[f"ip{family}"] = part
        return wire | {"dns": self.dns}


def _link_to_wire(link: Link, version: str) -> JSON:
    wire: JSON = {"name": link.name}
    if link.mac:
        wire["mac"] = link.mac
    if link.mtu and at_least(version, "1.1.0"):
        wire["mtu"] = link.mtu
    if link.sandbox:
        wire["sandbox"] = link.sandbox
    if at_least(version, "1.1.0"):
        wire |= {"socketPath": link.socket_path} if link.socket_path else {}
        wire |= {"pciID": link.pci_id} if link.pci_id else {}
    return wire


def _ip_to_wire(ip: Ip, version: str) -> JSON:
    wire: JSON = {}
    if not at_least(version, "1.0.0"):
        wire["version"] = str(ip.address.version)
    if ip.interface is not None:
        wire["interface"] = ip.interface
    wire["address"] = str(ip.address)
    if ip.gateway:
        wire["gateway"] = str(ip.gateway)
    return wire


def _route_to_wire(route: ResultRoute, version: str) -> JSON:
    wire: JSON = {"dst": str(route.destination)}
    if route.gateway:
        wire["gw"] = str(route.gateway)
    if at_least(version, "1.1.0"):
        for name in ("mtu", "advmss", "priority"):
            if value := getattr(route, name):
                wire[name] = value
        wire |= {} if route.table is None else {"table": route.table}
        wire |= {} if route.scope is None else {"scope": route.scope}
    return wire


def parse_result(wire: JSON, what: str = "prevResult") -> Result:
    """Read a result of any version; CniError names the field that is wrong."""
    try:
        if "ip4" in wire or "ip6" in wire:
            return _parse_old(wire)
        return Result(
            interfaces=tuple(
                Link(
                    name=i["name"],
                    mac=i.get("mac", ""),
                    mtu=i.get("mtu", 0),
                    sandbox=i.get("sandbox", ""),
                    socket_path=i.get("socketPath", ""),
                    pci_id=i.get("pciID", ""),
                )
                for i in wire.get("interfaces") or ()
            ),
            ips=tuple(
                Ip(ip_interface(i["address"]), _address(i.get("gateway")), i.get("interface"))
                for i in wire.get("ips") or ()
            ),
            routes=tuple(parse_route(r) for r in wire.get("routes") or ()),
            dns=wire.get("dns") or {},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CniError(DECODING_FAILURE, f"{what}: {error}") from None


def parse_route(wire: JSON) -> ResultRoute:
    """Read one element of routes."""
    return ResultRoute(
        destination=ip_network(wire["dst"], strict=False),
        gateway=_address(wire.get("gw")),
        mtu=wire.get("mtu", 0),
        advmss=wire.get("advmss", 0),
        priority=wire.get("priority", 0),
        table=wire.get("table"),
        scope=wire.get("scope"),
    )


def _parse_old(wire: JSON) -> Result:
    parts = [wire[key] for key in ("ip4", "ip6") if wire.get(key)]
    return Result(
        ips=tuple(Ip(ip_interface(p["ip"]), _address(p.get("gateway"))) for p in parts),
        routes=tuple(parse_route(r) for p in parts for r in p.get("routes") or ()),
        dns=wire.get("dns") or {},
    )


def _address(text: str | None) -> Address | None:
    return ip_address(text) if text else None


def versions(version: str) -> JSON:
    """The answer to VERSION."""
    return {"cniVersion": version, "supportedVersions": list(VERSIONS)}
