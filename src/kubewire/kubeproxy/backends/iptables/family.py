"""One IP family's rules: which sections ``iptables-restore`` must read to bring them about.

Entries of the shared chains are kept in the order in which they were put in; a new one goes to the
front of its chain, so the kernel has them the other way round, before the fixed rules. That is all
that has to be remembered beside the frontends: everything else is compiled again where it is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from kubewire.kubeproxy.backends.iptables import names
from kubewire.kubeproxy.backends.iptables.base import (
    SERVICES,
    SHARED,
    Base,
    Place,
    Setting,
    base,
    node_port_addresses,
)
from kubewire.kubeproxy.backends.iptables.compile import LARGE, Compiled, compile_port
from kubewire.kubeproxy.backends.iptables.listing import Listing, jump_lines, meant
from kubewire.kubeproxy.backends.iptables.names import ServicePort
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import Frontend, FrontendKey
from kubewire.kubeproxy.table import Change as Told
from kubewire.kubeproxy.trace import endpoint_name
from kubewire.lang.iptables.change import Change, Written

Group = dict[FrontendKey, Frontend]


class Family:
    """What one family should be; knows nothing of processes."""

    def __init__(self, version: int, config: Config, *, liberal: bool) -> None:
        self.version = version
        self._setting = Setting(config, liberal=liberal)
        self._groups: dict[ServicePort, Group] = {}
        self._entries: dict[Place, dict[str, None]] = {place: {} for place in SHARED}
        self._fixed = base(version, self._setting)
        self._of_ports = 0
        """Rules in the chains that Service ports have for themselves."""

    def sticky(self) -> Iterator[tuple[str, tuple[str, int], list[FrontendKey]]]:
        """Endpoints of ports with affinity: the name of their list of clients, place, frontends."""
        for port, group in self._groups.items():
            ends = {
                (target.ip, target.port)
                for frontend in group.values()
                if frontend.affinity is not None
                for decision in frontend.decisions.values()
                for target in decision.endpoints
            }
            for ip, number in ends:
                yield port.endpoint_chain(endpoint_name(ip, number)), (ip, number), [*group]

    # -- whole ------------------------------------------------------------------------------------

    def take(self, frontends: Iterable[Frontend], *, liberal: bool) -> None:
        """Mean these frontends and no others."""
        self._groups = {}
        for frontend in frontends:
            port = ServicePort.of(frontend)
            if port.version == self.version:
                self._groups.setdefault(port, {})[frontend.key] = frontend
        ends = sum(_endpoints(group) for group in self._groups.values())
        self._setting = Setting(self._setting.config, comments=ends <= LARGE, liberal=liberal)
        self._fixed = self._base(self._groups)

    def _base(self, groups: dict[ServicePort, Group]) -> Base:
        frontends = (f for group in groups.values() for f in group.values())
        return base(self.version, self._setting, node_port_addresses(frontends))

    def repair(self, actual: Listing) -> Iterator[Change]:
        """What turns what is there into what should be, table by table.

        Each change must be written before the next is asked for: chains are compiled on the way.
        """
        self._entries = {place: {} for place in SHARED}
        nat = Change("nat")
        nat.written = self._chains(actual, nat)
        yield nat
        for table in ("filter", "mangle"):
            change = Change(table)
            change.written = self._shared_chains(actual, change)
            yield change

    def _chains(self, actual: Listing, nat: Change) -> Iterator[Written]:
        """Chains of the nat table that are not there as they should be."""
        yield from self._fixed_chains(actual, "nat")
        self._of_ports = 0
        own = set(self._fixed.chains)
        for port, group in self._groups.items():
            compiled = self._compile(port, group)
            for chain in compiled.chains.values():
                own.add(("nat", chain.name))
                lines = list(chain.lines())
                self._of_ports += len(lines)
                if actual.chains.get(("nat", chain.name)) != lines:
                    yield chain.name, lines
            for place, rule in compiled.entries:
                self._entries[place][f"{place[1]} {rule.render()}"] = None
        yield from self._shared_chains(actual, nat, own)

    def _fixed_chains(self, actual: Listing, table: str) -> Iterator[Written]:
        for place, rules in self._fixed.chains.items():
            lines = [f"-A {place[1]} {rule.render()}" for rule in rules]
            if place[0] == table and place not in SHARED and actual.chains.get(place) != lines:
                yield place[1], lines

    def _shared_chains(
        self, actual: Listing, change: Change, own: Collection[Place] = ()
    ) -> Iterator[Written]:
        """The rest of a table: chains with entries, jumps, and what is stale."""
        table = change.table
        if table != "nat":
            yield from self._fixed_chains(actual, table)
        for place in SHARED:
            if place[0] == table and self._repair_shared(place, actual, change):
                yield place[1], self._shared_lines(place)
        self._repair_jumps(actual, change)
        known = own or self._fixed.chains
        stale = (p for p in actual.chains if p[0] == table and p not in known)
        change.removed += [place[1] for place in stale if _may_remove(place, actual)]

    def _repair_shared(self, place: Place, actual: Listing, change: Change) -> bool:
        """Add and remove single entries where that is less; True: write the chain whole."""
        wanted, there = self._shared_lines(place), actual.chains.get(place)
        if there is None or there == wanted:
            return there is None
        own = self._entries[place]
        entries = len(wanted) - len(own)
        known = [line[3:] for line in there[: len(there) - entries]]
        gone = [line for line in known if line not in own]
        if (
            there[len(known) :] != wanted[len(own) :]
            or len(known) != len(set(known))
            or len(gone) > len(known) // 2
        ):
            return True
        # The kernel's order is as good as ours.
        before = dict.fromkeys(known)
        new = [line for line in own if line not in before]
        kept = [line for line in reversed(known) if line in own]
        self._entries[place] = dict.fromkeys((*kept, *new))
        change.removed_rules += gone
        change.inserted += new
        return False

    def _repair_jumps(self, actual: Listing, change: Change) -> None:
        wanted: dict[Place, list[str]] = {}
        for place, line in jump_lines(self._fixed):
            wanted.setdefault(place, []).append(line)
        for place in {**wanted, **actual.jumps}:
            if place[0] != change.table:
                continue
            there, lines = actual.jumps.get(place, []), wanted.get(place, [])
            change.inserted += [line[3:] for line in reversed(lines) if line not in there]
            change.removed_rules += [
                line[3:]
                for index, line in enumerate(there)
                if (line not in lines or line in there[:index])
                and _may_remove((place[0], line.rpartition(" ")[2]), actual)
            ]

    # -- step by step -----------------------------------------------------------------------------

    def apply(self, told: Iterable[Told]) -> list[Change]:
        """What a few changed frontends change."""
        groups: dict[ServicePort, Group] = {}
        for change in told:
            for frontend in filter(None, (change.old, change.new)):
                port = ServicePort.of(frontend)
                if port.version != self.version:
                    continue
                group = groups.setdefault(port, dict(self._groups.get(port, {})))
                if frontend is change.new:
                    group[change.key] = frontend
                else:
                    group.pop(change.key, None)
        written: list[Written] = []
        changes = {"filter": Change("filter"), "nat": Change("nat", written)}
        for port, group in groups.items():
            self._difference(port, group, changes, written)
            if group:
                self._groups[port] = group
            else:
                self._groups.pop(port, None)
        if "all" not in self._setting.config.node_ports_on:
            self._move_node_ports(changes["nat"])
        return [*changes.values()]

    def _difference(
        self, port: ServicePort, group: Group, changes: dict[str, Change], written: list[Written]
    ) -> None:
        old = self._compile(port, self._groups.get(port, {}))
        new = self._compile(port, group)
        self._of_ports += _rules(new) - _rules(old)
        for chain in new.chains.values():
            if old.chains.get(chain.name) != chain:
                written.append((chain.name, chain.lines()))
        changes["nat"].removed += [name for name in old.chains if name not in new.chains]
        before, after = ([(p, f"{p[1]} {r.render()}") for p, r in c.entries] for c in (old, new))
        for place, line in before:
            if (place, line) not in after:
                del self._entries[place][line]
                changes[place[0]].removed_rules.append(line)
        for place, line in after:
            if (place, line) not in before:
                self._entries[place][line] = None
                changes[place[0]].inserted.append(line)

    def _move_node_ports(self, nat: Change) -> None:
        """nodePorts may answer on other addresses now."""
        before = self._fixed.chains[SERVICES]
        self._fixed = self._base(self._groups)
        after = self._fixed.chains[SERVICES]
        for rule in before:
            if rule not in after:
                nat.remove_rule(names.SERVICES, rule)
        for rule in after:
            if rule not in before:
                nat.append(names.SERVICES, rule)

    def total(self, table: str) -> int:
        """How many rules there are."""
        fixed = sum(len(rules) for place, rules in self._fixed.chains.items() if place[0] == table)
        entries = sum(len(own) for place, own in self._entries.items() if place[0] == table)
        return fixed + entries + (self._of_ports if table == "nat" else 0)

    # -- what should be there ---------------------------------------------------------------------

    def meant(self) -> Listing:
        """What the kernel should list."""
        compiled = (self._compile(port, group) for port, group in self._groups.items())
        chains = ((c.name, list(c.lines())) for one in compiled for c in one.chains.values())
        return meant(self._fixed, ((p, self._shared_lines(p)) for p in SHARED), chains)

    def _shared_lines(self, place: Place) -> list[str]:
        entries = reversed(self._entries.get(place, {}))
        fixed = (f"-A {place[1]} {rule.render()}" for rule in self._fixed.chains[place])
        return [*(f"-A {line}" for line in entries), *fixed]

    def _compile(self, port: ServicePort, group: Group) -> Compiled:
        return compile_port(port, group.values(), self._setting)


def removal(actual: Listing) -> list[Change]:
    """What removes everything that is ours."""
    changes = {table: Change(table) for table in ("filter", "nat", "mangle")}
    for (table, _), lines in actual.jumps.items():
        changes[table].removed_rules += [
            line[3:] for line in lines if _may_remove((table, line.rpartition(" ")[2]), actual)
        ]
    for table, name in actual.chains:
        if _may_remove((table, name), actual):
            changes[table].removed.append(name)
    return [*changes.values()]


def _may_remove(place: Place, actual: Listing) -> bool:
    """A kubelet makes the same KUBE-FIREWALL, and relies on it."""
    return place[1] != names.KUBELET_FIREWALL or not actual.kubelet


def _rules(compiled: Compiled) -> int:
    return sum(len(chain.rules) for chain in compiled.chains.values())


def _endpoints(group: Group) -> int:
    frontend = next(iter(group.values()))
    return max(len(d.endpoints) for d in frontend.decisions.values())
