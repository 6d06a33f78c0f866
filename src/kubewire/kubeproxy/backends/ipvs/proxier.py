"""Keeps IPVS, its sets and rules, and the addresses of Services equal to the frontends.

It remembers what it committed. New things go in before what needs them and go out after it: sets and
rules, then virtual servers, then addresses. A destination that is no longer wanted gets weight 0 and
stays while it has connections (``retire`` looks); one of UDP goes at once.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from kubewire.api.errors import InputError
from kubewire.api.meta import Key
from kubewire.kernel import ipset, ipvs
from kubewire.kernel.iptables import Iptables
from kubewire.kernel.ipvs import Ipvs, IpvsError
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kubeproxy.backends.ipvs import rules, settings
from kubewire.kubeproxy.backends.ipvs.addresses import Addresses
from kubewire.kubeproxy.backends.ipvs.compile import Compiled, Element, compile_frontend
from kubewire.kubeproxy.config import Config, contains
from kubewire.kubeproxy.plan import FrontendKey
from kubewire.kubeproxy.proxier import Dump, Stay
from kubewire.kubeproxy.table import Change
from kubewire.lang.iptables import ipset as sets
from kubewire.lang.iptables.change import Change as RuleChange
from kubewire.lang.iptables.change import difference
from kubewire.lang.iptables.model import Chain, Rule, Table
from kubewire.lang.iptables.parse import parse
from kubewire.lang.ipvs.connections import Connection
from kubewire.lang.ipvs.listing import entries
from kubewire.lang.ipvs.model import ServerKey, VirtualServer, diff, draining
from kubewire.lang.ipvs.wire import Load

log = logging.getLogger(__name__)

Servers = dict[ServerKey, VirtualServer]
T = TypeVar("T")
PATIENCE = 50
"""A quick look comes after so many times as long as the last one took."""


class IpvsProxier:
    """Virtual servers of the current network namespace; those of ``excludeCIDRs`` are others'."""

    def __init__(self, config: Config, service_cidrs: Iterable[str] = ()) -> None:
        self._config = config
        self._iptables = {version: Iptables(version) for version in rules.VERSIONS}
        if why := lacking():
            raise InputError(f"mode ipvs: {why}")
        try:
            self._ipvs = Ipvs()
        except IpvsError as error:
            raise InputError(f"mode ipvs: {error}") from error
        self._addresses = Addresses()
        self._compiled: dict[FrontendKey, Compiled] = {}
        self._elements: Counter[Element] = Counter()
        self._bound: Counter[str] = Counter()
        self._wanted: Servers = {}
        self._servers: Servers = {}
        """As committed: what is wanted, and what drains."""
        self._leaving: set[ServerKey] = set()
        """Servers of which something drains."""
        self._look_again = 0.0
        self._generation = 0
        """Of the kernel's nftables rules when ours were last seen to be right."""
        self._nft: bool | None = None

    def close(self) -> None:
        """Close the sockets; everything in the kernel stays."""
        self._ipvs.close()
        self._addresses.close()

    # -- changes ----------------------------------------------------------------------------------

    def sync(self, changes: Iterable[Change], cluster_ips: dict[Key, tuple[str, ...]]) -> None:
        """Put everything in place, whatever there is."""
        found = {c.key: compile_frontend(c.new, self._config) for c in changes if c.new}
        self._compiled = found
        self._elements = Counter(e for c in found.values() for e in c.elements)
        self._bound = Counter(c.address for c in found.values() if c.address)
        self._wanted = {s.key: s for c in found.values() for s in c.servers}
        settings.put(self._ipvs, self._config.ipvs)
        self._mend()

    def apply(self, changes: Iterable[Change], cluster_ips: dict[Key, tuple[str, ...]]) -> None:
        """Commit what changed; the addresses of Services without frontends are not the node's."""
        marked: set[int] = set()
        elements: Counter[Element] = Counter()
        bound: Counter[str] = Counter()
        touched: set[ServerKey] = set()
        for change in changes:
            old = self._compiled.pop(change.key, None)
            new = compile_frontend(change.new, self._config) if change.new else None
            for compiled, by in ((old, -1), (new, 1)):
                if compiled:
                    _count(compiled, by, elements, bound)
                    touched |= {s.key for s in compiled.servers}
            for server in old.servers if old else ():
                self._wanted.pop(server.key, None)
            if new:
                self._compiled[change.key] = new
                self._wanted |= {s.key: s for s in new.servers}
            if (old.rules if old else ()) != (new.rules if new else ()):
                marked.add(6 if ":" in change.key.address else 4)
        for version in marked:
            self._mark(version)
        self._change(elements, bound, touched)

    def _mark(self, version: int) -> None:
        """Write the one chain that depends on Services."""
        chain = Chain(rules.INSIDE, tuple(self._inside(version)))
        written = RuleChange("nat", [(chain.name, chain.lines())])
        self._iptables[version].restore(written.lines())

    def _change(
        self, elements: Counter[Element], bound: Counter[str], touched: Iterable[ServerKey]
    ) -> None:
        """Sets, then servers, then addresses; the counters say how many more need a thing."""
        added, removed = _transitions(self._elements, elements)
        new, gone = _transitions(self._bound, bound)
        new = self._addresses.foreign(new)
        lines = [f"add {name} {element}" for name, element in added]
        lines += [f"del {name} {element}" for name, element in removed]
        lines += [f"add {_address_set(ip)} {ip}" for ip in new]
        lines += [f"del {_address_set(ip)} {ip}" for ip in gone]
        if lines:
            ipset.restore(lines)
        self._commit(touched)
        self._addresses.put(new)
        self._addresses.remove(gone)

    def _commit(self, keys: Iterable[ServerKey]) -> None:
        """Bring some servers to what is wanted; destinations that they lose drain first."""
        before = {key: self._servers[key] for key in keys if key in self._servers}
        after = {key: self._wanted[key] for key in keys if key in self._wanted}
        for key in before.keys() & after.keys():
            after[key] = draining(after[key], before[key], before[key].destinations)
        self._replace(before, after)
        self._leaving |= {key for key in after if after[key] != self._wanted[key]}
        self.retire()

    def retire(self) -> None:
        """Remove destinations that have drained."""
        before = {key: self._servers[key] for key in self._leaving if key in self._servers}
        after = {}
        for key, server in before.items():
            busy = [end for end, load in self._ipvs.loads(server).items() if load.busy]
            after[key] = draining(self._wanted[key], server, busy)
        self._replace(before, after)
        self._leaving = {key for key in after if after[key] != self._wanted[key]}

    def _replace(self, before: Servers, after: Servers) -> None:
        self._ipvs.commit(diff(before, after))
        for key in before.keys() - after.keys():
            del self._servers[key]
        self._servers |= after

    # -- the kernel as it is ----------------------------------------------------------------------

    def heal(self) -> bool:
        """Mend what somebody else changed; whether or not there was any, look who has drained."""
        dump = self.dump()
        if differs := dump.desired != dump.actual:
            self._mend()
        else:
            self.retire()
        return differs

    def _mend(self) -> None:
        """From whatever there is to what is wanted."""
        self._addresses.open()
        present = self._present()
        wanted_sets = self._sets()
        known = _own_sets()
        ipset.restore(
            sets.difference({n: s for n, s in known.items() if n in wanted_sets}, wanted_sets)
        )
        self._put_rules()
        self._servers = present
        self._leaving = set()
        self._commit({*present, *self._wanted})
        bound = self._addresses.bound(ip for k in present if (ip := k.address))
        wanted = self._addresses.foreign(self._bound)
        self._addresses.put(wanted - bound)
        self._addresses.remove(bound - wanted)

    def _present(self) -> Servers:
        """The kernel's virtual servers, without those that the configuration leaves to others."""
        excluded = self._config.ipvs.exclude_cidrs
        found = self._ipvs.servers()
        return {k: s for k, s in found.items() if not (k.address and contains(excluded, k.address))}

    def _sets(self) -> dict[str, sets.IpSet]:
        elements: dict[str, list[str]] = {}
        for name, element in self._elements:
            elements.setdefault(name, []).append(element)
        for ip in self._addresses.foreign(self._bound):
            elements.setdefault(_address_set(ip), []).append(ip)
        return rules.sets(elements)

    def _tables(self, version: int) -> dict[str, Table]:
        return rules.tables(self._config, version, self._inside(version))

    def _inside(self, version: int) -> Iterator[Rule]:
        for key, compiled in sorted(self._compiled.items()):
            if (":" in key.address) == (version == 6):
                yield from compiled.rules

    def _put_rules(self) -> None:
        for version in rules.VERSIONS:
            present = self._present_tables(version)
            changes = [
                difference(present.get(name), table)
                for name, table in self._tables(version).items()
            ]
            self._restore(version, changes)

    def _restore(self, version: int, changes: Iterable[RuleChange]) -> None:
        if lines := [line for change in changes for line in change.lines()]:
            self._iptables[version].restore(lines)

    def _present_tables(self, version: int) -> dict[str, Table]:
        found = parse(self._iptables[version].save(), version)
        return {name: rules.ours(table) for name, table in found.items()}

    # -- what there is to see ---------------------------------------------------------------------

    def intact(self) -> bool:
        """Nothing of ours is missing or changed; what others have added is for ``heal``.

        With so many Services that looking takes long, not every look is one.
        """
        now = time.monotonic()
        if now < self._look_again:
            return True
        whole = self._looks_right()
        self._look_again = now + PATIENCE * (time.monotonic() - now)
        return whole

    def _looks_right(self) -> bool:
        counted = ipset.counts()
        wanted = self._addresses.foreign(self._bound)
        return (
            {e for server in self._servers.values() for e in entries(server)} <= self._ipvs.listed()
            and wanted <= self._addresses.bound(self._bound)
            and all(counted.get(n, -1) >= len(s.elements) for n, s in self._sets().items())
            and self._rules_are_right()
        )

    def _rules_are_right(self) -> bool:
        """Read only after somebody has changed rules; in the legacy variant nobody can tell."""
        if not self._uses_nft:
            return True
        with Nfnetlink() as netlink:
            generation = netlink.generation()
        if generation != self._generation:
            wanted, found = (
                _lines({}, {}, {v: tables(v) for v in rules.VERSIONS}, ())
                for tables in (self._tables, self._present_tables)
            )
            if wanted != found:
                return False
            self._generation = generation
        return True

    @property
    def _uses_nft(self) -> bool:
        if self._nft is None:
            self._nft = self._iptables[4].uses_nft
        return self._nft

    def dump(self) -> Dump:
        """Servers as ``ipvsadm`` prints them, elements of sets, rules, addresses."""
        foreign = self._addresses.foreign(self._bound)
        desired = _lines(
            self._servers, self._sets(), {v: self._tables(v) for v in rules.VERSIONS}, foreign
        )
        actual = _lines(
            present := self._present(),
            _own_sets(),
            {v: self._present_tables(v) for v in rules.VERSIONS},
            self._addresses.bound(ip for k in present if (ip := k.address)),
        )
        return Dump(desired, actual)

    def connections(self) -> list[Connection]:
        """The kernel's connection table."""
        return self._ipvs.connections()

    def stays(self) -> Iterator[Stay]:
        """Clients of servers with persistence; nobody but a packet can make IPVS remember one."""
        for one in self._ipvs.connections():
            if one.template and one.virtual_port:
                frontend = FrontendKey(one.virtual, one.protocol, one.virtual_port)
                yield Stay(frontend, one.client, (one.destination, one.destination_port))

    def loads(self) -> dict[ServerKey, Mapping[str, Load]]:
        """Connections and traffic of every destination of every server."""
        return {
            key: {str(end): load for end, load in self._ipvs.loads(server).items()}
            for key, server in self._servers.items()
        }

    # -- the end ----------------------------------------------------------------------------------

    def clear(self) -> None:
        """Remove everything of this back end, of earlier runs too.

        Virtual servers have no owner's name. Where our device is, those that are not excluded are
        taken for ours, as upstream does; where it is not, none is.
        """
        self._compiled, self._wanted = {}, {}
        self._elements, self._bound = Counter(), Counter()
        if self._addresses.found():
            self._ipvs.commit(diff(self._present(), {}))
        self._servers, self._leaving = {}, set()
        self._clear_rules()
        self._addresses.clear()

    def leave(self) -> bool:
        """Keep the virtual servers and addresses of open connections; rules see only new ones."""
        present = self._present() if self._addresses.found() else {}
        busy = {
            key: server
            for key, server in present.items()
            if any(load.busy for load in self._ipvs.loads(server).values())
        }
        if not busy:
            self.clear()
            return True
        self._ipvs.commit(diff(present, busy))
        self._clear_rules()
        return False

    def _clear_rules(self) -> None:
        for version in rules.VERSIONS:
            present = self._present_tables(version)
            self._restore(version, rules.removal(present.values()))
            self._iptables[version].drop_unused(n for n, table in present.items() if table.chains)
        for name in _own_sets():
            ipset.destroy(name)


def lacking() -> str:
    """What this machine lacks, and the fix; "" if nothing."""
    for there, package in ((Iptables(4).available, "iptables"), (ipset.available(), "ipset")):
        if not there:
            return f"{package} is not installed: install the package {package}"
    return ipvs.lacking()


def _count(compiled: Compiled, by: int, elements: Counter[Element], bound: Counter[str]) -> None:
    for element in compiled.elements:
        elements[element] += by
    if compiled.address:
        bound[compiled.address] += by


def _transitions(held: Counter[T], more: Counter[T]) -> tuple[set[T], set[T]]:
    """(needed from now on, needed no more); ``held`` is brought up to date."""
    added, removed = set(), set()
    for item, by in more.items():
        before, after = held[item], held[item] + by
        held[item] = after
        if not after:
            del held[item]
        if before and not after:
            removed.add(item)
        elif after and not before:
            added.add(item)
    return added, removed


def _own_sets() -> dict[str, sets.IpSet]:
    return {n: s for n, s in sets.parse(ipset.save()).items() if n in rules.SET_NAMES}


def _address_set(ip: str) -> str:
    return rules.set_name("IPVS-IPS", ipaddress.ip_address(ip).version)


def _lines(
    servers: Servers,
    own_sets: Mapping[str, sets.IpSet],
    tables: Mapping[int, Mapping[str, Table]],
    addresses: Iterable[str],
) -> list[str]:
    """One canonical order."""
    found = [line for _, server in sorted(servers.items()) for line in server.lines()]
    for _, one in sorted(own_sets.items()):
        found += [one.create_line(), *sorted(f"add {one.name} {e}" for e in one.elements)]
    for version, by_name in sorted(tables.items()):
        for name, table in sorted(by_name.items()):
            for _, chain in sorted(table.chains.items()):
                found += [f"ipv{version} {name} {line}" for line in chain.lines()]
    return found + [f"address {ip}" for ip in sorted(addresses)]
