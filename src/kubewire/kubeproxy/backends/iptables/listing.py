"""What ``iptables-save`` lists, as far as it is ours: chains by our names, jumps to them.

Compared as text: our rules are written as they are listed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kubewire.kubeproxy.backends.iptables import names
from kubewire.kubeproxy.backends.iptables.base import SHARED, Base, Place
from kubewire.lang.iptables.model import HOOKS

_FIXED = {
    names.SERVICES, names.NODEPORTS, names.EXTERNAL, names.POSTROUTING, names.MARK_MASQ,
    names.FORWARD, names.FIREWALL, names.KUBELET_FIREWALL, names.CANARY, names.NOT_POD,
}  # fmt: skip


@dataclass(slots=True)
class Listing:
    """One family's chains and jumps of ours, as lines with ``-A CHAIN``."""

    chains: dict[Place, list[str]] = field(default_factory=dict)
    jumps: dict[Place, list[str]] = field(default_factory=dict)
    """(table, built-in chain) -> rules that lead to chains of ours."""
    kubelet: bool = False
    """A kubelet looks after KUBE-FIREWALL."""

    def lines(self) -> list[str]:
        """Everything in one order, with its table."""
        found = [f"{table}: :{chain}" for table, chain in sorted(self.chains)]
        for place, lines in sorted(self.chains.items()):
            found += [f"{place[0]}: {line}" for line in _in_order(place, lines)]
        for (table, _), lines in sorted(self.jumps.items()):
            found += [f"{table}: {line}" for line in sorted(lines)]
        return found


def _in_order(place: Place, lines: list[str]) -> list[str]:
    """Entries of Services stand as they came; their order among each other means nothing."""
    if place not in SHARED:
        return lines
    last = f" -j {names.NODEPORTS}"
    entries = list(itertools.takewhile(lambda line: not line.endswith(last), lines))
    return sorted(entries) + lines[len(entries) :]


def is_ours(chain: str) -> bool:
    """Whether kube-proxy's iptables mode makes chains of that name."""
    return chain.startswith(names.PREFIXES) or chain in _FIXED


def read(text: str) -> Listing:
    """Take what is ours out of a listing."""
    found = Listing()
    table = ""
    hooks: tuple[str, ...] = ()
    for line in text.splitlines():
        if line.startswith(":KUBE-"):
            chain = line[1 : line.index(" ")]
            if is_ours(chain):
                found.chains[table, chain] = []
            elif chain == names.KUBELET_CANARY:
                found.kubelet = True
        elif line.startswith("-A "):
            chain = line[3 : line.index(" ", 3)]
            own = found.chains.get((table, chain))
            if own is not None:
                own.append(line)
            elif chain in hooks and _leads_to_us(line):
                found.jumps.setdefault((table, chain), []).append(line)
        elif line.startswith("*"):
            table = line[1:].strip()
            hooks = HOOKS.get(table, ())
    return found


def _leads_to_us(line: str) -> bool:
    verb, _, chain = line.rpartition(" ")
    return verb.endswith((" -j", " -g")) and is_ours(chain)


def meant(
    fixed: Base, shared: Iterable[tuple[Place, list[str]]], chains: Iterable[tuple[str, list[str]]]
) -> Listing:
    """What should be listed."""
    found = Listing()
    for (table, name), rules in fixed.chains.items():
        found.chains[table, name] = [f"-A {name} {rule.render()}" for rule in rules]
    for place, lines in shared:
        found.chains[place] = lines
    for name, lines in chains:
        found.chains["nat", name] = lines
    for (table, hook), line in jump_lines(fixed):
        found.jumps.setdefault((table, hook), []).append(line)
    return found


def jump_lines(fixed: Base) -> Iterator[tuple[Place, str]]:
    """The rules in built-in chains."""
    for (table, hook), rule in fixed.jumps:
        yield (table, hook), f"-A {hook} {rule.render()}"
