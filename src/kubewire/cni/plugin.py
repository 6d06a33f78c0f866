"""The programs that runtimes execute: ``kubewire-cni``, ``kubewire-ipam`` and ``loopback``.

`Plugin.run` takes what a runtime passes (environment and stdin) and gives the exit status and what
is to be printed. It runs in the node's agent, which keeps its sockets and files open between calls
(`cni.server`), or alone in a process (`cni.standalone`); the state on disk is shared either way.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path

import msgspec

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON
from kubewire.cni import attach, builtin_ipam, check, ipam, journal, loopback, wiring
from kubewire.cni.config import (
    BUILTIN_IPAM,
    DEFAULT_DATA_DIR,
    LOOPBACK,
    MAIN,
    Config,
    Fit,
    for_removal,
    not_ready,
    parse,
    pod_of,
)
from kubewire.cni.delegate import Delegate
from kubewire.cni.hostports import HostPortError, HostPorts, PortMapping, mapping, table_name
from kubewire.cni.ipam import Address, ExhaustedError, IpamError, within
from kubewire.cni.journal import Journal
from kubewire.cni.masquerade import Masquerades
from kubewire.cni.pools import Pod, Pool, PoolSource, Supply
from kubewire.cni.source import Source
from kubewire.cni.spec import (
    FAILED,
    INVALID_CONFIG,
    IO_FAILURE,
    LATEST,
    NOT_AVAILABLE_LIMITED,
    TRY_AGAIN_LATER,
    VERSIONS,
    CniError,
    Request,
    Result,
    parse_request,
    versions,
)
from kubewire.cni.store import Store
from kubewire.kernel.rtnetlink import RtNetlink

PROGRAMS = (MAIN, BUILTIN_IPAM, LOOPBACK)

log = logging.getLogger(__name__)


async def _what_the_runtime_says(request: Request) -> Pod:
    return pod_of(request)


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a range set is."""

    network: str
    pool: str
    ranges: str
    size: int
    used: int


@dataclass(slots=True)
class _Network:
    """What stays open for a network between its calls."""

    store: Store
    journal: Journal
    supply: Supply = field(default_factory=Supply)


class Plugin:
    """Answers calls; sockets and stores stay open between them.

    ``pod_cidrs``, ``cluster_cidrs`` and ``fit`` are the node's, for networks that do not say their
    own; ``identify`` tells more about a pod than the runtime does, ``pools`` are the cluster's.
    Networks that name no ``dataDir`` are expected in ``data_dir``.
    """

    def __init__(
        self,
        pod_cidrs: Callable[[], Sequence[str] | None] = lambda: None,
        *,
        cluster_cidrs: Sequence[str] = (),
        fit: Callable[[], Fit] = Fit,
        identify: Callable[[Request], Awaitable[Pod]] = _what_the_runtime_says,
        pools: PoolSource | None = None,
        data_dir: Path = DEFAULT_DATA_DIR,
    ) -> None:
        self._data_dir = data_dir
        self._pod_cidrs = pod_cidrs
        self._cluster_cidrs = [ip_network(cidr) for cidr in cluster_cidrs]
        self._fit = fit
        self._identify = identify
        self._pools = pools
        self._netlink = RtNetlink()
        self._source = Source(self._netlink)
        self._sweeper = wiring.Sweeper()
        self._networks: dict[Path, _Network] = {}
        self._ports: dict[Path, HostPorts] = {}
        self._masquerades = Masquerades()
        self.exhausted: Counter[str] = Counter()
        """Network -> ADDs that failed because no address was free."""

    async def close(self) -> None:
        """Finish what was begun and close everything."""
        await self._sweeper.close()
        self._source.close()
        self._netlink.close()
        for network in self._networks.values():
            network.store.close()
        for ports in self._ports.values():
            ports.close()

    async def run(
        self,
        program: str,
        env: Mapping[str, str],
        stdin: bytes,
        held: contextlib.ExitStack | None = None,
    ) -> tuple[int, bytes]:
        """Answer one call: exit status and stdout.

        The mark of an ADD goes when ``held`` is closed: once the answer has been given, for an ADD
        of which the runtime does not hear has failed.
        """
        with contextlib.ExitStack() as own:
            try:
                answer = await self._answer(program, env, stdin, held or own)
            except Exception as error:
                failed = _as_cni_error(error)
                return 1, msgspec.json.encode(failed.to_wire(_wanted_version(stdin)))
            return 0, b"" if answer is None else msgspec.json.encode(answer)

    async def recover(self) -> None:
        """Undo the ADDs that a killed process has left in any network."""
        for found in Journal.below(self._data_dir):
            await self._undo_abandoned(found)

    def in_use(self) -> set[Address]:
        """Every address that a network of this node has given, also one that was not used since the start."""
        opened = {folder: network.store for folder, network in self._networks.items()}
        found = {address for store in opened.values() for address in store.snapshot()}
        for data_dir in {self._data_dir, *(folder.parent for folder in opened)}:
            for path in data_dir.glob("*/leases"):
                if path.parent not in opened:
                    with contextlib.closing(Store(path.parent)) as store:
                        found.update(store.snapshot())
        return found

    def usage(self) -> Iterator[Usage]:
        """How full the networks are that were used since the start."""
        for folder, network in self._networks.items():
            owners = network.store.snapshot()
            for pool, ranges in network.supply.named_sets():
                size, used = ipam.size(ranges), ipam.used(ranges, owners)
                yield Usage(folder.name, pool, ipam.title(ranges), size, used)

    async def _answer(
        self, program: str, env: Mapping[str, str], stdin: bytes, held: contextlib.ExitStack
    ) -> JSON | None:
        request = parse_request(env, stdin)
        if request.command == "VERSION":
            return versions(request.version)
        if program == LOOPBACK:
            result = loopback.run(request)
        elif program in PROGRAMS:
            config = await self._config(request)
            network = await self._network(config)
            if request.command == "ADD":
                # What a kill leaves of it is undone.
                held.enter_context(network.journal.mark(program, env, stdin))
            work = self._main if program == MAIN else self._ipam
            result = await self._supplied(work, request, config)
            if self._pools and request.command in ("DEL", "GC"):
                self._pools.freed()
        else:
            raise CniError(INVALID_CONFIG, f"type {program!r}: is not one of {', '.join(PROGRAMS)}")
        return None if result is None else result.to_wire(request.version)

    async def _config(self, request: Request) -> Config:
        if request.command == "DEL":
            return for_removal(request)
        pod = await self._identify(request) if request.command == "ADD" else pod_of(request)
        pools: Sequence[Pool] = ()
        if self._pools:
            if request.command == "ADD":
                pod = await self._pools.complete(pod)
            pools = self._pools.pools()
        cidrs = self._own_cidrs()
        config = parse(request, cidrs, pod, pools)
        if config.ipam.of_node and request.command in ("ADD", "STATUS"):
            self._refuse_foreign(cidrs or ())
        return self._fitting(request, config) if request.command == "ADD" else config

    def _own_cidrs(self) -> list[str] | None:
        """The node's podCIDRs; the API takes some with host bits, too."""
        found = self._pod_cidrs()
        return None if found is None else [str(ip_network(c, strict=False)) for c in found]

    def _fitting(self, request: Request, config: Config) -> Config:
        """The same with the MTU of the way between nodes, if it does not say its own."""
        try:
            fit = self._fit().at(config.mtu)
        except LookupError as error:
            if config.mtu:
                return config
            raise not_ready(request, f"status.addresses of this node's Node: {error}") from None
        return replace(config, mtu=fit.mtu, gso=fit.gso)

    async def _supplied(
        self,
        work: Callable[[Request, Config], Awaitable[Result | None]],
        request: Request,
        config: Config,
    ) -> Result | None:
        """Do it; where no address is left for an ADD, find some first."""
        if request.command != "ADD" or config.ipam.type != BUILTIN_IPAM:
            return await work(request, config)
        far = [address for address in config.wanted if not config.ipam.supply.holds(address)]
        if self._pools and far and all([await self._pools.reach(address) for address in far]):
            config = await self._config(request)
        try:
            return await work(request, config)
        except ExhaustedError:
            reclaimed = work == self._main and await self._reclaim(config)
            if not reclaimed and not await self._grow(config):
                self.exhausted[config.name] += 1
                raise
        return await work(request, await self._config(request))

    async def _grow(self, config: Config) -> bool:
        """Get more of the cluster's pool that the pod takes from."""
        pool = config.ipam.supply.pool_for(config.pod)
        return bool(self._pools and pool and await self._pools.grow(pool))

    async def _reclaim(self, config: Config) -> bool:
        """Take back the addresses of attachments that ended without a DEL: their cables are gone."""
        freed = False
        async with self._gate(config, exclusive=True):
            present = {link.name for link in self._netlink.links()}
            store = self._networks[config.data_dir / config.name].store
            for owner in store.owners():
                if attach.host_interface(config.name, owner) not in present:
                    self._unmap(config, owner)
                    freed |= bool(store.drop(owner))
        return freed

    def _refuse_foreign(self, pod_cidrs: Iterable[str]) -> None:
        for cidr in map(ip_network, pod_cidrs):
            if self._cluster_cidrs and not any(within(cidr, c) for c in self._cluster_cidrs):
                names = ",".join(map(str, self._cluster_cidrs))
                raise CniError(INVALID_CONFIG, f"podCIDR {cidr}: is outside the cluster CIDR {names}")  # fmt: skip

    async def _network(self, config: Config) -> _Network:
        folder = config.data_dir / config.name
        found = self._networks.get(folder)
        if found and found.store.removed():
            # Somebody has cleared the node's state; what is kept open is not what others see.
            found.store.close()
            found = None
        if found is None:
            found = _Network(Store(folder), Journal(folder / journal.NAME))
            self._networks[folder] = found
            await self._undo_abandoned(found.journal)
        if config.ipam.supply.sets:
            found.supply = config.ipam.supply
        return found

    async def _undo_abandoned(self, marks: Journal) -> None:
        for call in marks.abandoned():
            status, answer = await self.run(
                call.program, call.env | {"CNI_COMMAND": "DEL"}, call.stdin
            )
            if status:
                log.warning("undoing an ADD that was killed: %s", answer.decode())

    async def _ipam(self, request: Request, config: Config) -> Result | None:
        return self._builtin_ipam(request, config, request.command)

    async def _main(self, request: Request, config: Config) -> Result | None:
        async with self._gate(config, exclusive=request.command == "GC"):
            if request.command == "ADD":
                return await self._add(request, config)
            if request.command == "CHECK":
                self._check_rules(request, config, check.attachment(self._netlink, request, config))
                await self._address(request, config)
            elif request.command == "DEL":
                await self._delete(request, config)
            elif request.command == "GC":
                await self._collect(request, config)
            else:
                await self._status(request, config)
        return None

    async def _add(self, request: Request, config: Config) -> Result:
        with attach.entering(request) as room:
            attach.refuse_unusable(self._netlink, room, request)
            try:
                assigned = await self._address(request, config)
                assert assigned is not None
                ports = list(_port_mappings(config, assigned))
                self._source.ensure(ip.address.version for ip in assigned.ips)
                result = attach.add(self._netlink, room, request, config, assigned)
                if ports:
                    self._host_ports(config).put(_label(config, request.owner), ports)
                if config.masquerade:
                    self._masquerades.ensure(config, assigned)
            except BaseException:
                with contextlib.suppress(Exception):
                    await self._delete(request, config)
                raise
            return result

    def _check_rules(self, request: Request, config: Config, own: Result) -> None:
        """What ADD put into nftables for this attachment."""
        if ports := list(_port_mappings(config, own)):
            lost = self._host_ports(config).lost(_label(config, request.owner), ports)
            check.require(not lost, f"runtimeConfig.portMappings: {', '.join(map(str, lost))}: is missing in nftables")  # fmt: skip
        if config.masquerade:
            check.require(self._masquerades.present(config), "ipMasq: the rules are missing in nftables")  # fmt: skip

    async def _delete(self, request: Request, config: Config) -> None:
        self._unmap(config, request.owner)
        await self._sweeper.remove(self._netlink, attach.host_interface(config.name, request.owner))
        await self._address(request, config, "DEL")

    async def _collect(self, request: Request, config: Config) -> None:
        """Remove every attachment that the runtime does not know, and go on after errors."""
        if config.valid_attachments is None:
            raise CniError(INVALID_CONFIG, "cni.dev/valid-attachments: is required by GC")
        if config.disable_gc:
            return
        errors: list[Exception] = []
        for owner in self._strays(config):
            try:
                self._unmap(config, owner)
                await self._sweeper.remove(self._netlink, attach.host_interface(config.name, owner))
            except OSError as error:
                errors.append(error)
        await self._address(request, config)
        if errors:
            raise CniError(FAILED, f"GC: {'; '.join(map(str, errors))}")

    def _strays(self, config: Config) -> set[str]:
        start = f"{config.name}:"
        mapped = [
            label.removeprefix(start)
            for label in (self._host_ports(config).owners() if self._has_ports(config) else ())
            if label.startswith(start)
        ]
        valid = config.valid_attachments or ()
        return {*attach.strays(self._netlink, config), *(o for o in mapped if o not in valid)}

    async def _status(self, request: Request, config: Config) -> None:
        families = {ranges[0].subnet.version for ranges in config.ipam.supply.sets}
        if attach.is_limited(self._netlink, families):
            raise CniError(NOT_AVAILABLE_LIMITED, "net.ipv4.ip_forward: forwarding is off, so pods reach only this node")  # fmt: skip
        await self._address(request, config)

    async def _address(self, request: Request, config: Config, command: str = "") -> Result | None:
        """Pass the call on to the IPAM: ours, or another program."""
        command = command or request.command
        if config.ipam.type == BUILTIN_IPAM:
            return self._builtin_ipam(request, config, command)
        folder = config.data_dir / config.name
        delegate = Delegate(request, folder, config.valid_attachments or frozenset())
        return await delegate.run(command)

    def _builtin_ipam(self, request: Request, config: Config, command: str) -> Result | None:
        store = self._networks[config.data_dir / config.name].store
        result = builtin_ipam.run(store, request, config, command)
        if self._pools and command == "ADD" and result:
            self._refuse_withdrawn(store, request, config, self._pools.pools())
        return result

    def _refuse_withdrawn(
        self, store: Store, request: Request, config: Config, now: Iterable[Pool]
    ) -> None:
        """A part of a pool may have been given back since the configuration was read."""
        for address in store.held(request.owner):
            if config.ipam.supply.withdrawn(address, now):
                store.drop(request.owner)
                raise ExhaustedError(f"{address} is this node's no more")

    def _has_ports(self, config: Config) -> bool:
        return config.data_dir in self._ports or HostPorts.exist(config.data_dir)

    def _host_ports(self, config: Config) -> HostPorts:
        folder = config.data_dir
        if folder not in self._ports:
            self._ports[folder] = HostPorts(folder, table_name(folder))
        return self._ports[folder]

    def _unmap(self, config: Config, owner: str) -> None:
        if self._has_ports(config):
            self._host_ports(config).drop(_label(config, owner))

    @asynccontextmanager
    async def _gate(self, config: Config, *, exclusive: bool) -> AsyncIterator[None]:
        """GC runs alone; everything else runs together. Held across processes by a file."""
        path = config.data_dir / f"{config.name}.gate"
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.to_thread(fcntl.flock, fd, kind)
            yield
        finally:
            os.close(fd)


def _label(config: Config, owner: str) -> str:
    """An attachment among those of all networks."""
    return f"{config.name}:{owner}"


def _port_mappings(config: Config, assigned: Result) -> Iterator[PortMapping]:
    for entry in config.ports:
        # A runtime may list ports that are not to be mapped.
        for ip in assigned.ips if entry.host_port else ():
            found = mapping(
                entry.host_port,
                entry.protocol,
                str(ip.address.ip),
                entry.container_port,
                entry.host_ip,
            )
            if found is not None:
                yield found


def _as_cni_error(error: Exception) -> CniError:
    match error:
        case CniError():
            return error
        case ExhaustedError():
            return CniError(TRY_AGAIN_LATER, str(error))
        case IpamError():
            return CniError(INVALID_CONFIG, str(error))
        case HostPortError():
            return CniError(INVALID_CONFIG, f"runtimeConfig.portMappings: {error}")
        case StatusError():
            return CniError(TRY_AGAIN_LATER, f"Kubernetes API: {error}")
        case OSError(filename=str() as path):
            return CniError(IO_FAILURE, f"{path}: {error.strerror}")
        case OSError():
            return CniError(FAILED, str(error))
    log.error("CNI call failed", exc_info=error)
    return CniError(FAILED, f"{type(error).__name__}: {error}")


def _wanted_version(stdin: bytes) -> str:
    """The version to print an error in, also where the configuration cannot be used."""
    try:
        version = msgspec.json.decode(stdin).get("cniVersion")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
        return LATEST
    return version if version in VERSIONS else LATEST
