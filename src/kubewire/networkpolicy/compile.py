"""plan + this node's pods -> the program.

Pods with the same policies share a chain, equal selectors share a set. The rules of a short policy
stand in the chains of its pods, a longer one has a chain per direction. Only what this node's pods need is compiled, for the families that they have. A
pod or label change is a matter of elements (``Compiler.update``); a changed policy compiles the node
anew.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal

from msgspec.structs import replace

from kubewire.api.meta import Key
from kubewire.networkpolicy.judge import describe
from kubewire.networkpolicy.model import (
    Block,
    Direction,
    Domains,
    NamedPort,
    NodeSet,
    PodSet,
    Policy,
    Ports,
    Rule,
)
from kubewire.networkpolicy.plan import DNS_PODS, Changes, Plan, PodFacts, PolicyId, Profile
from kubewire.networkpolicy.program import (
    AddressSet,
    AnySet,
    Chain,
    Does,
    Family,
    Label,
    NamedPortElement,
    Packed,
    PortSet,
    Program,
    Range,
    RangeSet,
    Step,
    dns_set,
    family_of,
)

WAYS: tuple[Direction, ...] = ("egress", "ingress")
FAMILIES: tuple[Literal[4], Literal[6]] = (4, 6)
ACTIONS: dict[str, Does] = {"Accept": "next", "Deny": "drop", "Pass": "pass"}
SHORT = 8
"""So many steps of a policy are copied rather than called."""


@lru_cache(maxsize=65536)
def digest(*parts: object) -> str:
    """Short name of a value, the same in every process."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class Compiler:
    """Compiles a plan for one node, whole or by what changed."""

    def __init__(self, plan: Plan, node: str, *, strict: bool = False) -> None:
        self.plan = plan
        self.node = node
        self.strict = strict
        self._held: dict[Key, tuple[Packed, ...]] = {}
        self._naming: tuple[int, set[str]] = (0, set())
        self._families: tuple[Literal[4, 6], ...] = ()
        """What this node's pods speak."""

    def addresses(self, key: Key) -> tuple[Packed, ...]:
        """Addresses of a pod of this node that policies select; () for others."""
        pod = self.plan.pods.get(key)
        if pod is None or pod.node != self.node or not pod.selectable:
            return ()
        return tuple(a.packed for a in pod.addresses)

    def program(self) -> Program:
        """Compile the node whole."""
        egress: dict[Packed, str] = {}
        ingress: dict[Packed, str] = {}
        self._naming = 0, set()
        self._held = {k: a for k in self.plan.pods if (a := self.addresses(k))}
        spoken = {family_of(a) for held in self._held.values() for a in held}
        self._families = tuple(f for f in FAMILIES if f in spoken)
        build = _Build(self.plan, {}, {}, self._families)
        for key in self._held:
            self._dispatch(key, build, egress, ingress)
        node = self.plan.nodes.get(self.node)
        return Program(
            build.sets,
            build.chains,
            egress,
            ingress,
            frozenset(a for held in self._held.values() for a in held),
            node.pod_cidrs if node else (),
            self._asking(build, egress),
            self.strict,
            self._families,
            self._ways(),
        )

    def _ways(self) -> tuple[Direction, ...]:
        """Directions of policies; one stays without any, for what has connections tracked."""
        policies = self.plan.policies.values()
        found = tuple(w for w in WAYS if any(p.rules(w) is not None for p in policies))
        return found or ("ingress",)

    def update(self, old: Program, changes: Changes) -> Program:
        """Compile what changed; what did not is the same value as in ``old``."""
        touched = changes.pods | changes.ports.keys()
        if changes.policies or changes.nodes or self._foreign(touched):
            return self.program()
        build = _Build(self.plan, dict(old.sets), dict(old.chains), self._families)
        self._elements(build.sets, changes)
        self._named_ports(build.sets, changes)
        for peer in changes.domains:
            build.refresh(peer)
        egress, ingress, known = dict(old.egress), dict(old.ingress), set(old.known)
        for key in touched:
            for address in self._held.pop(key, ()):
                egress.pop(address, None)
                ingress.pop(address, None)
                known.discard(address)
        for key in touched:
            if held := self.addresses(key):
                self._held[key] = held
                known.update(held)
                self._dispatch(key, build, egress, ingress)
        return Program(
            build.sets,
            # Chains are only added here: as many as before are those of before.
            build.chains if len(build.chains) > len(old.chains) else old.chains,
            egress,
            ingress,
            frozenset(known) if known != old.known else old.known,
            old.guarded,
            self._asking(build, egress),
            self.strict,
            self._families,
            old.ways,
        )

    def _foreign(self, pods: Iterable[Key]) -> bool:
        """Whether one of these pods speaks a family that nothing has been compiled for."""
        return any(family_of(a) not in self._families for k in pods for a in self.addresses(k))

    def _asking(self, build: "_Build", egress: dict[Packed, str]) -> frozenset[Packed]:
        """The pods that a policy allows to reach names."""
        if not self.plan.domain_peers:
            return frozenset()
        for family in FAMILIES:
            build.dns(family)
        if self._naming[0] != len(build.chains):
            self._naming = len(build.chains), build.naming()
        calling = self._naming[1]
        return frozenset(a for a, n in egress.items() if n in calling)

    def _dispatch(
        self, key: Key, build: "_Build", egress: dict[Packed, str], ingress: dict[Packed, str]
    ) -> None:
        for direction, table in (("egress", egress), ("ingress", ingress)):
            profile = self.plan.profile(key, direction)  # type: ignore[arg-type]
            if profile:
                table.update(dict.fromkeys(self._held[key], build.profile(profile)))

    def _elements(self, sets: dict[str, AnySet], changes: Changes) -> None:
        for selection, address in changes.elements:
            packed = address.packed
            name = set_name(selection, family_of(packed))
            old = sets.get(name)
            if not isinstance(old, AddressSet):
                continue
            members = self.plan.selections.members.get(selection, set())
            holders = self.plan.by_address.get(address, set())
            wanted = not members.isdisjoint(holders)
            if wanted != (packed in old.elements):
                elements = old.elements ^ {packed}
                sets[name] = AddressSet(name, old.family, elements, old.about)

    def _named_ports(self, sets: dict[str, AnySet], changes: Changes) -> None:
        if not changes.ports:
            return
        for name, found in sets.items():
            if not isinstance(found, PortSet):
                continue
            gone: set[NamedPortElement] = set()
            new: set[NamedPortElement] = set()
            for key, before in changes.ports.items():
                after = self.plan.pods.get(key)
                gone.update(port_elements(before, found.port) if before else ())
                new.update(port_elements(after, found.port) if after and after.selectable else ())
            family = {e for e in new if family_of(e[0]) == found.family}
            elements = (found.elements - gone) | family
            if elements != found.elements:
                sets[name] = PortSet(name, found.family, frozenset(elements), found.port)


class _Build:
    """Chains and sets of one program."""

    def __init__(
        self,
        plan: Plan,
        sets: dict[str, AnySet],
        chains: dict[str, Chain],
        families: tuple[Literal[4, 6], ...],
    ) -> None:
        self.plan = plan
        self.sets = sets
        self.chains = chains
        self.families = families
        self._spelled: dict[tuple[PolicyId, Direction], tuple[Step, ...]] = {}

    def naming(self) -> set[str]:
        """The chains of profiles that lead to an address that DNS gives."""
        sets = {set_name(p, f) for p in self.plan.domain_peers for f in FAMILIES}
        found = {n for n, c in self.chains.items() if any(s.peers in sets for s in c.steps)}
        return {n for n, c in self.chains.items() if any(s.target in found for s in c.steps)}

    def dns(self, family: Literal[4, 6]) -> None:
        """The set of the pods whose answers are believed."""
        name = dns_set(family)
        elements = frozenset(a for a in self._members(DNS_PODS) if family_of(a) == family)
        old = self.sets.get(name)
        if not isinstance(old, AddressSet) or old.elements != elements:
            self.sets[name] = AddressSet(name, family, elements, describe(DNS_PODS))

    def refresh(self, peer: Domains) -> None:
        """Bring the addresses of a peer by name up to date."""
        for family in self.families:
            if self.sets.pop(set_name(peer, family), None):
                self._address_set(peer, family)

    def profile(self, profile: Profile) -> str:
        """Chain of a profile; made once."""
        name = f"{profile.direction}/{digest(profile)}"
        if name not in self.chains:
            self._profile(name, profile)
        return name

    def _profile(self, name: str, profile: Profile) -> None:
        way = profile.direction
        steps = [self._call(self._rehearsal(profile))] if profile.audit else []
        if profile.admin:
            steps.append(self._call(self._tier("admin", profile.admin, way)))
        for identity in profile.network:
            steps += self._network(identity, way)
        if profile.network:
            policy = self.plan.policies[profile.network[0]]
            steps.append(Step("drop", Label(policy.id, "", way)))
        elif profile.baseline:
            steps.append(self._call(self._tier("baseline", profile.baseline, way)))
        self._chain(name, way, steps)

    def _chain(self, name: str, way: Direction, steps: Iterable[Step]) -> None:
        self.chains[name] = Chain(name, way, tuple(_exempting(steps, way)))

    def _call(self, target: str) -> Step:
        return Step("call", target=target)

    def _tier(self, tier: str, policies: tuple[PolicyId, ...], way: Direction) -> str:
        name = f"{tier}/{way}/{digest(policies)}"
        if name not in self.chains:
            steps = [
                step
                for identity in policies
                for step in self._rules(self.plan.policies[identity], way)
            ]
            self._chain(name, way, steps)
        return name

    def _network(self, identity: PolicyId, way: Direction) -> tuple[Step, ...]:
        """The steps of a policy, or the call of its chain."""
        found = self._spelled.get((identity, way))
        if found is None:
            policy = self.plan.policies[identity]
            found = tuple(self._rules(policy, way))
            if len(found) > SHORT:
                name = f"policy/{way}/{_short(policy)}"
                self._chain(name, way, found)
                found = (self._call(name),)
            self._spelled[identity, way] = found
        return found

    def _rehearsal(self, profile: Profile) -> str:
        """What would be if audit policies were enforced: counts what they would deny, decides nothing.

        One chain per tier, the next one is gone to; so whatever ends the rehearsal is a return.
        """
        following = ""
        tiers = self.plan.rehearsed(profile)
        for tier, identities in (
            ("baseline", tiers.baseline),
            ("network", tiers.network),
            ("admin", tiers.admin),
        ):
            if identities:
                steps = self._rehearsed(profile, identities, following, isolates=tier == "network")
                following = f"audit-{tier}/{profile.direction}/{digest(profile)}"
                self._chain(following, profile.direction, steps)
        return following

    def _rehearsed(
        self,
        profile: Profile,
        identities: tuple[PolicyId, ...],
        following: str,
        *,
        isolates: bool,
    ) -> Iterator[Step]:
        way = profile.direction
        for identity in identities:
            audit = identity in profile.audit
            for step in self._rules(self.plan.policies[identity], way, shared=False):
                label = step.label if audit else None
                if step.does == "pass" and following:
                    yield replace(step, does="goto", target=following, label=label)
                else:
                    does = "count" if step.does == "drop" and audit else "pass"
                    yield replace(step, does=does, label=label)
        if isolates:
            if not profile.network:
                yield Step("count", Label(self.plan.policies[identities[0]].id, "", way))
        elif following:
            yield Step("goto", target=following)

    def _rules(self, policy: Policy, way: Direction, *, shared: bool = True) -> Iterator[Step]:
        for rule in policy.rules(way) or ():
            label = Label(policy.id, rule.path, way)
            does: Does = ACTIONS[rule.action]
            for family, peers in self._peers(rule):
                steps = tuple(self._ports(rule, family, does, label))
                if shared and peers and does == "next" and sum(map(_width, steps)) > 1:
                    target = self._shared(way, steps)
                    yield Step("call", family=family, peers=peers, target=target)
                else:
                    yield from (replace(s, family=s.family or family, peers=peers) for s in steps)

    def _shared(self, way: Direction, ports: tuple[Step, ...]) -> str:
        """A chain of the ports of a rule: who is no peer is asked for once, not for each port."""
        name = f"ports/{way}/{digest(ports)}"
        self.chains.setdefault(name, Chain(name, way, ports))
        return name

    def _peers(self, rule: Rule) -> Iterator[tuple[Family, str]]:
        if rule.peers is None:
            yield 0, ""
            return
        for family in self.families:
            blocks = [p for p in rule.peers if isinstance(p, Block)]
            if ranges := _ranges(blocks, family):
                yield family, self._range_set(ranges, family)
            for peer in rule.peers:
                if not isinstance(peer, Block):
                    yield family, self._address_set(peer, family)

    def _ports(self, rule: Rule, family: Family, does: Does, label: Label) -> Iterator[Step]:
        """The ports of a rule, numbers first: they cost no look-up."""
        if rule.ports is None:
            yield Step(does, label)
            return
        numbers: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        for port in rule.ports:
            if isinstance(port, Ports):
                numbers[port.protocol].add((port.low, port.high))
        for protocol, ranges in numbers.items():
            whole = any(low == 0 and high == 65535 for low, high in ranges)
            ports = () if whole else merge_ports(ranges)
            yield Step(does, label, protocol=protocol, ports=ports)
        for port in rule.ports:
            for one in (family,) if family else self.families:
                if isinstance(port, NamedPort):
                    yield Step(does, label, one, named=self._port_set(port, one))

    def _address_set(self, peer: PodSet | NodeSet | Domains, family: Family) -> str:
        name = set_name(peer, family)
        if name not in self.sets:
            elements = frozenset(a for a in self._members(peer) if family_of(a) == family)
            self.sets[name] = AddressSet(name, family, elements, describe(peer))
        return name

    def _members(self, peer: PodSet | NodeSet | Domains) -> Iterable[Packed]:
        if isinstance(peer, NodeSet):
            return (a.packed for a in self.plan.node_addresses(peer))
        if isinstance(peer, Domains):
            return (a.packed for a in self.plan.domain_addresses(peer))
        return (
            a.packed
            for key in self.plan.selections.members[peer]
            for a in self.plan.pods[key].addresses
        )

    def _range_set(self, ranges: tuple[Range, ...], family: Family) -> str:
        name = f"r{family}/{digest(ranges)}"
        if name not in self.sets:
            self.sets[name] = RangeSet(name, family, ranges)
        return name

    def _port_set(self, port: NamedPort, family: Family) -> str:
        name = port_set_name(port, family)
        if name not in self.sets:
            elements = frozenset(
                e
                for pod in self.plan.pods.values()
                if pod.selectable
                for e in port_elements(pod, port)
                if family_of(e[0]) == family
            )
            self.sets[name] = PortSet(name, family, elements, port)
        return name


def set_name(peer: PodSet | NodeSet | Domains, family: Family) -> str:
    """Name of the set of a selection."""
    return f"s{family}/{digest(peer)}"


def port_set_name(port: NamedPort, family: Family) -> str:
    """Name of the set of a named port."""
    return f"n{family}/{digest(port)}"


def port_elements(pod: PodFacts, port: NamedPort) -> Iterator[NamedPortElement]:
    """Where a pod serves a named port."""
    for name, protocol, number in pod.ports:
        if name == port.name and port.protocol in ("", protocol):
            for address in pod.addresses:
                yield address.packed, protocol, number


def _width(step: Step) -> int:
    """How many rules it takes."""
    return max(1, len(step.ports))


def _exempting(steps: Iterable[Step], way: Direction) -> Iterator[Step]:
    """Put the exemption before the first step that would deny or count what is exempt."""
    exempt = False
    for step in steps:
        if not exempt and _touches_exempt(step, way):
            exempt = True
            yield Step("exempt")
        yield step


def _touches_exempt(step: Step, way: Direction) -> bool:
    """Deny, or count as allowed from anywhere: a selector of pods never has a node's address."""
    if step.does in ("drop", "count"):
        return True
    decides = step.label or (step.does == "call" and step.peers)
    return bool(decides) and way == "ingress" and not step.peers.startswith("s")


def _short(policy: Policy) -> str:
    kind = "np" if policy.kind == "NetworkPolicy" else "cnp"
    text = f"{kind}/{policy.key}"
    return text if len(text) <= 90 else f"{kind}/{digest(policy.key)}"


def merge_ports(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Disjoint ranges in order."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def _ranges(blocks: list[Block], family: Family) -> tuple[Range, ...]:
    """Union of blocks, each minus its exceptions, as disjoint ranges."""
    found: list[tuple[int, int]] = []
    for block in blocks:
        network = block.network
        if network.version != family:
            continue
        holes = [
            (int(e.network_address), int(e.broadcast_address))
            for e in block.excepts
            if e.version == family
        ]
        position, end = int(network.network_address), int(network.broadcast_address)
        for low, high in sorted(holes):
            if low > position:
                found.append((position, low - 1))
            position = max(position, high + 1)
        if position <= end:
            found.append((position, end))
    size = 4 if family == 4 else 16
    return tuple(
        (low.to_bytes(size, "big"), high.to_bytes(size, "big")) for low, high in merge_ports(found)
    )
