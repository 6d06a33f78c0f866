"""One IP family's rules: which sections ``iptables-restore`` must read to bring them about.

Entries of the shared chains are kept in the order in which they were put in; a new one goes to the
front of its chain, so the kernel has them the other way round, before the fixed rules. That is all
that has to be remembered beside the frontends: everything else is compiled again where it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubewire.kubeproxy.backends.iptables import names
from kubewire.kubeproxy.backends.iptables.compile import (
    LARGE,
    SERVICES,
    SHARED,
    Base,
    Compiled,
    Place,
    Setting,
    base,
    compile_port,
    node_port_addresses,
)
from kubewire.kubeproxy.backends.iptables.listing import Listing, jump_lines, meant
from kubewire.kubeproxy.backends.iptables.names import ServicePort
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import Frontend, FrontendKey
from kubewire.kubeproxy.table import Change as Told
from kubewire.lang.iptables.change import Change

Group = dict[FrontendKey, Frontend]
_ORDER = {prefix: rank for rank, prefix in enumerate(("KUBE-SEP", "KUBE-SVC", "KUBE-SVL", "KUBE-EXT", "KUBE-FW-"))}  # fmt: skip
"""Callees before callers."""


class Family:
    """What one family should be; knows nothing of processes."""

    def __init__(self, version: int, config: Config, *, liberal: bool) -> None:
        self.version = version
        self._setting = Setting(config, liberal=liberal)
        self._groups: dict[ServicePort, Group] = {}
        self._entries: dict[Place, dict[str, None]] = {place: {} for place in SHARED}
        self._fixed = base(version, self._setting)

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

        To be consumed in order, whatever becomes of it: entries are known as they will be.
        """
        own, nat = set(self._fixed.chains), Change("nat")
        entries: dict[Place, dict[str, None]] = {place: {} for place in SHARED}
        for port, group in self._groups.items():
            compiled = self._compile(port, group)
            for chain in _callees_first(compiled):
                own.add(("nat", chain.name))
                lines = list(chain.lines())
                if actual.chains.get(("nat", chain.name)) != lines:
                    nat.written[chain.name] = lines
            for place, rule in compiled.entries:
                entries[place][f"{place[1]} {rule.render()}"] = None
        self._entries = entries
        changes = {"filter": Change("filter"), "nat": nat, "mangle": Change("mangle")}
        for place in self._fixed.chains:
            self._repair_shared(place, actual, changes[place[0]])
        self._repair_jumps(actual, changes)
        stale = sorted(
            (p for p in actual.chains if p not in own and _may_remove(p, actual)),
            key=_callers_first,
        )
        for table, name in stale:
            changes[table].removed.append(name)
        yield from changes.values()

    def _repair_shared(self, place: Place, actual: Listing, change: Change) -> None:
        wanted, there = self._shared_lines(place), actual.chains.get(place)
        if there == wanted:
            return
        fixed = len(self._fixed.chains[place])
        own = self._entries.get(place)
        if (
            there is None
            or own is None
            or there[-fixed or len(there) :] != wanted[-fixed or len(wanted) :]
        ):
            change.written[place[1]] = wanted
            return
        known = [line[3:] for line in there[: len(there) - fixed]]
        gone = [line for line in known if line not in own]
        if len(known) != len(set(known)) or len(gone) > len(known) // 2:
            change.written[place[1]] = wanted
            return
        # The kernel's order is as good as ours.
        new = [line for line in own if line not in set(known)]
        self._entries[place] = dict.fromkeys(
            [*(line for line in reversed(known) if line in own), *new]
        )
        change.removed_rules += gone
        change.inserted += new

    def _repair_jumps(self, actual: Listing, changes: dict[str, Change]) -> None:
        wanted: dict[Place, list[str]] = {}
        for place, line in jump_lines(self._fixed):
            wanted.setdefault(place, []).append(line)
        for place in {**wanted, **actual.jumps}:
            there, lines = actual.jumps.get(place, []), wanted.get(place, [])
            change = changes[place[0]]
            change.removed_rules += [
                line[3:]
                for index, line in enumerate(there)
                if line not in lines or line in there[:index]
                if _may_remove((place[0], line.rpartition(" ")[2]), actual)
            ]
            change.inserted += [line[3:] for line in reversed(lines) if line not in there]

    # -- step by step -----------------------------------------------------------------------------

    def apply(self, told: Iterable[Told]) -> Iterator[Change]:
        """What a few changed frontends change; remembered once the last one has been asked for."""
        groups: dict[ServicePort, Group] = {}
        for change in told:
            for frontend in (change.old, change.new):
                port = ServicePort.of(frontend) if frontend else None
                if port and port.version == self.version and port not in groups:
                    groups[port] = dict(self._groups.get(port, {}))
            if change.old and (group := groups.get(ServicePort.of(change.old))) is not None:
                group.pop(change.key, None)
            if change.new and (group := groups.get(ServicePort.of(change.new))) is not None:
                group[change.key] = change.new
        changes = {"filter": Change("filter"), "nat": Change("nat")}
        for port, group in groups.items():
            self._difference(port, group, changes)
        self._groups |= groups
        self._groups = (
            {p: g for p, g in self._groups.items() if g}
            if not all(groups.values())
            else self._groups
        )
        if any(f.kind == "NodePort" for g in groups.values() for f in g.values()):
            self._move_node_ports(changes["nat"])
        yield from changes.values()

    def _difference(self, port: ServicePort, group: Group, changes: dict[str, Change]) -> None:
        old = self._compile(port, self._groups.get(port, {}))
        new = self._compile(port, group)
        nat = changes["nat"]
        for chain in _callees_first(new):
            if old.chains.get(chain.name) != chain:
                nat.write(chain)
        gone = (("nat", name) for name in old.chains if name not in new.chains)
        nat.removed += [name for _, name in sorted(gone, key=_callers_first)]
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


def removal(actual: Listing) -> Iterator[Change]:
    """What removes everything that is ours."""
    changes = {table: Change(table) for table in ("filter", "nat", "mangle")}
    for (table, _), lines in actual.jumps.items():
        changes[table].removed_rules += [
            line[3:] for line in lines if _may_remove((table, line.rpartition(" ")[2]), actual)
        ]
    for table, name in sorted(actual.chains, key=_callers_first):
        if _may_remove((table, name), actual):
            changes[table].removed.append(name)
    yield from changes.values()


def _may_remove(place: Place, actual: Listing) -> bool:
    """A kubelet makes the same KUBE-FIREWALL, and relies on it."""
    return place[1] != names.KUBELET_FIREWALL or not actual.kubelet


def _endpoints(group: Group) -> int:
    frontend = next(iter(group.values()))
    return max(len(d.endpoints) for d in frontend.decisions.values())


def _callees_first(compiled: Compiled) -> list:  # type: ignore[type-arg]
    return sorted(compiled.chains.values(), key=lambda c: _ORDER[c.name[:8]])


def _callers_first(place: Place) -> int:
    """Shared chains lead to FW, EXT, SVC, SEP; all of them to KUBE-MARK-MASQ."""
    name = place[1]
    if name in (names.MARK_MASQ, names.NOT_POD):
        return 2 if name == names.MARK_MASQ else 1
    return -_ORDER.get(name[:8], len(_ORDER) + (name != names.NODEPORTS))
