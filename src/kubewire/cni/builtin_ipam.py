"""``kubewire-ipam``: addresses by our own store, for our plugin or any other (``bridge``, ``ptp``)."""

from ipaddress import ip_interface

from kubewire.cni import ipam
from kubewire.cni.config import Config
from kubewire.cni.ipam import Address, Range
from kubewire.cni.spec import (
    CHECK_FAILED,
    INVALID_CONFIG,
    NOT_AVAILABLE,
    CniError,
    Interface,
    Ip,
    Request,
    Result,
)
from kubewire.cni.store import Store


def run(store: Store, request: Request, config: Config, command: str = "") -> Result | None:
    """Answer one call."""
    match command or request.command:
        case "ADD":
            return _add(store, request, config)
        case "DEL":
            store.drop(request.owner)
        case "CHECK":
            _check(store, request, config)
        case "GC":
            _collect(store, config)
        case "STATUS":
            _status(store, config)
    return None


def _add(store: Store, request: Request, config: Config) -> Result:
    sets = config.sets
    if not sets:
        raise CniError(INVALID_CONFIG, f"ipam.pools: none is for namespace {config.pod.namespace!r}, and there are no other ranges")  # fmt: skip
    ips = []
    for address in store.take(request.owner, sets, config.wanted):
        found = _range_of(address, config)
        ips.append(Ip(_with_prefix(address, found), found.gateway if found else None))
    return Result(ips=tuple(ips), routes=config.ipam.routes, dns=config.dns)


def _range_of(address: Address, config: Config) -> Range | None:
    return next((r for ranges in config.ipam.supply.sets for r in ranges if address in r), None)


def _with_prefix(address: Address, found: Range | None) -> Interface:
    return ip_interface((address, found.subnet.prefixlen if found else address.max_prefixlen))


def _collect(store: Store, config: Config) -> None:
    if config.valid_attachments is None:
        raise CniError(INVALID_CONFIG, "cni.dev/valid-attachments: is required by GC")
    if not config.disable_gc:
        for owner in store.owners():
            if owner not in config.valid_attachments:
                store.drop(owner)


def _check(store: Store, request: Request, config: Config) -> None:
    held = store.held(request.owner)
    if not held:
        raise CniError(CHECK_FAILED, f"CNI_CONTAINERID {request.container_id}: {request.interface} holds no address")  # fmt: skip
    known = {ip.address.ip for ip in config.previous.ips} if config.previous else set(held)
    for address in held:
        if address not in known:
            raise CniError(CHECK_FAILED, f"prevResult.ips: {address} is missing, which {request.interface} holds")  # fmt: skip


def _status(store: Store, config: Config) -> None:
    """Without an address for pods that no pool selects, the network is not available."""
    supply = config.ipam.supply
    owners = store.snapshot()
    groups = [supply.default] if supply.default else [pool.sets for pool in supply.pools]
    if all(ipam.free(sets, owners) == 0 for sets in groups):
        names = "; ".join(ipam.title(ranges) for sets in groups for ranges in sets)
        raise CniError(NOT_AVAILABLE, f"ipam: no address is free in {names}")
