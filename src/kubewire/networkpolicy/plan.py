"""The plan: which policies decide about each pod and direction, in which order.

A ``Plan`` holds the world as policies see it and is updated object by object; ``changes`` collects
what a data plane must look at again, so that one relabelled pod costs one pod's work. Answers
(``judge``) and the nftables program (``compile``) both come from it, so they cannot disagree.
"""

from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address

import msgspec

from kubewire.api.clusternetworkpolicy import ClusterNetworkPolicy
from kubewire.api.core import Namespace, Node, Pod
from kubewire.api.meta import Key, Labels
from kubewire.api.networkpolicy import NetworkPolicy
from kubewire.networkpolicy.model import (
    Action,
    Address,
    Direction,
    Domains,
    NodeSet,
    PodSet,
    Policy,
    Rule,
    Selection,
    Term,
    from_cluster_network_policy,
    from_network_policy,
)
from kubewire.networkpolicy.selection import Selections, matches

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
PolicyId = tuple[str, Key]
DNS_PODS = PodSet("kube-system", (), (Term("k8s-app", "In", ("kube-dns",)),))
"""The pods whose answers are believed: those of the cluster's DNS."""
MOST_LAPSED = 4096
"""Names whose former addresses are remembered."""


class PodFacts(msgspec.Struct, frozen=True):
    """What policies need to know of a pod; ``ports`` are (name, protocol, number)."""

    key: Key
    labels: Labels
    addresses: tuple[Address, ...]
    ports: tuple[tuple[str, str, int], ...]
    node: str = ""
    uid: str = ""
    host_network: bool = False
    finished: bool = False
    host_ip: str = ""

    @property
    def selectable(self) -> bool:
        """Policies select it: it is neither of the host's network nor finished."""
        return not (self.host_network or self.finished)


class NodeFacts(msgspec.Struct, frozen=True):
    """What policies need to know of a node."""

    name: str
    labels: Labels
    addresses: tuple[Address, ...]
    pod_cidrs: tuple[str, ...] = ()


class Profile(msgspec.Struct, frozen=True):
    """Every policy that selects a pod in one direction, by tier and in order.

    Pods with equal profiles can share a chain. Policies in audit mode are apart.
    """

    direction: Direction
    admin: tuple[PolicyId, ...] = ()
    network: tuple[PolicyId, ...] = ()
    baseline: tuple[PolicyId, ...] = ()
    audit: tuple[PolicyId, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.admin or self.network or self.baseline or self.audit)


class Verdict(msgspec.Struct, frozen=True):
    """One step of a profile; ``rule`` None is the isolation that ends the NetworkPolicy tier."""

    policy: Policy
    rule: Rule | None
    action: Action


class Changes:
    """What a data plane has to look at again."""

    def __init__(self) -> None:
        self.elements: set[tuple[PodSet, Address]] = set()
        self.pods: set[Key] = set()
        self.policies: set[PolicyId] = set()
        self.nodes = False
        self.domains: set[Domains] = set()
        self.ports: dict[Key, PodFacts | None] = {}
        """Pods whose addresses or ports changed, as they were before."""

    def __bool__(self) -> bool:
        return bool(
            self.elements or self.pods or self.policies or self.nodes or self.domains or self.ports
        )


class Plan:
    """Policies x pods x namespaces x nodes."""

    def __init__(self) -> None:
        self.selections = Selections()
        self.pods: dict[Key, PodFacts] = {}
        self.nodes: dict[str, NodeFacts] = {}
        self.policies: dict[PolicyId, Policy] = {}
        self.by_address: dict[Address, set[Key]] = {}
        self.node_of_address: dict[Address, str] = {}
        self.domains: dict[str, frozenset[Address]] = {}
        self.lapsed: dict[str, frozenset[Address]] = {}
        """Addresses that names had before: open connections to them may go on."""
        self.inherited: dict[Domains, frozenset[Address]] = {}
        """Addresses that were in force for a peer when the agent started."""
        self.changes = Changes()
        self._uses: Counter[PodSet] = Counter()
        self._subjects: dict[PodSet, set[PolicyId]] = {}
        self._domain_peers: Counter[Domains] = Counter()
        self.selections.register(DNS_PODS)

    @classmethod
    def of(
        cls,
        policies: Iterable[NetworkPolicy | ClusterNetworkPolicy],
        pods: Iterable[Pod],
        namespaces: Iterable[Namespace] = (),
        nodes: Iterable[Node] = (),
    ) -> "Plan":
        """Build a plan from whole objects; a namespace without an object has its name label."""
        plan = cls()
        for namespace in namespaces:
            plan.set_namespace(namespace.metadata.name, namespace.labels)
        for node in nodes:
            plan.set_node(node_facts(node))
        for pod in pods:
            plan.set_pod(pod_facts(pod))
        for policy in policies:
            plan.set_policy(as_policy(policy))
        return plan

    def take_changes(self) -> Changes:
        """Everything that changed since the last call."""
        taken, self.changes = self.changes, Changes()
        return taken

    def set_namespace(self, name: str, labels: Labels | None) -> None:
        """Add, relabel or (None) remove a namespace."""
        named = None if labels is None else {**labels, NAMESPACE_LABEL: name}
        if self.selections.namespaces.get(name) == named:
            return
        for selection, pods in self.selections.set_namespace(name, named).items():
            for pod in pods:
                self._touch(selection, self.pods[pod])

    def set_node(self, node: NodeFacts) -> None:
        """Add or change a node."""
        old = self.nodes.get(node.name)
        if old == node:
            return
        if old:
            self.remove_node(node.name)
        self.nodes[node.name] = node
        self.node_of_address.update(dict.fromkeys(node.addresses, node.name))
        self.changes.nodes = True

    def remove_node(self, name: str) -> None:
        """Forget a node."""
        node = self.nodes.pop(name, None)
        for address in node.addresses if node else ():
            self.node_of_address.pop(address, None)
        self.changes.nodes = True

    def set_pod(self, pod: PodFacts) -> None:
        """Add or change a pod."""
        old = self.pods.get(pod.key)
        if old == pod:
            return
        if pod.key.namespace not in self.selections.namespaces:
            self.set_namespace(pod.key.namespace, {})
        self.pods[pod.key] = pod
        self._change(old, pod, pod.key)

    def remove_pod(self, key: Key) -> None:
        """Forget a pod."""
        if old := self.pods.pop(key, None):
            self._change(old, None, key)

    def _change(self, old: PodFacts | None, new: PodFacts | None, key: Key) -> None:
        was = old if old and old.selectable else None
        now = new if new and new.selectable else None
        for address in was.addresses if was else ():
            self.by_address[address].discard(key)
            if not self.by_address[address]:
                del self.by_address[address]
        for address in now.addresses if now else ():
            self.by_address.setdefault(address, set()).add(key)
        before = set(self.selections.sets_of.get(key, ()))
        changed = self.selections.set_pod(key, now.labels if now else None)
        moved = (was.addresses if was else ()) != (now.addresses if now else ())
        for selection in changed | (before if moved else set()):
            self._touch(selection, was, now)
        if moved or (was and was.node) != (now and now.node):
            self.changes.pods.add(key)
        if moved or (was.ports if was else ()) != (now.ports if now else ()):
            self.changes.ports.setdefault(key, was)

    def _touch(self, selection: PodSet, *pods: PodFacts | None) -> None:
        for pod in pods:
            if pod is None:
                continue
            self.changes.elements.update((selection, a) for a in pod.addresses)
            if selection in self._subjects:
                self.changes.pods.add(pod.key)

    def set_policy(self, policy: Policy) -> None:
        """Add or replace a policy."""
        identity = (policy.kind, policy.key)
        old = self.policies.get(identity)
        if old == policy:
            return
        self.policies[identity] = policy
        self._subjects.setdefault(policy.subject, set()).add(identity)
        self._use(policy, 1)
        if old:
            self._drop(old, moved=old.subject != policy.subject)
        self.changes.policies.add(identity)
        self.changes.pods |= self.selections.members[policy.subject]

    def remove_policy(self, identity: PolicyId) -> None:
        """Forget a policy."""
        if old := self.policies.pop(identity, None):
            self.changes.policies.add(identity)
            self._drop(old, moved=True)

    def _drop(self, old: Policy, *, moved: bool) -> None:
        self.changes.pods |= self.selections.members[old.subject]
        if moved:
            self._subjects[old.subject].discard((old.kind, old.key))
            if not self._subjects[old.subject]:
                del self._subjects[old.subject]
        self._use(old, -1)

    def _use(self, policy: Policy, count: int) -> None:
        for selection in (policy.subject, *selections(policy)):
            if isinstance(selection, Domains):
                self._domain_peers[selection] += count
                self._domain_peers += Counter()
            if not isinstance(selection, PodSet):
                continue
            self._uses[selection] += count
            if count > 0:
                self.selections.register(selection)
            elif not self._uses[selection] and selection != DNS_PODS:
                del self._uses[selection]
                self.selections.unregister(selection)

    def set_domain(self, name: str, addresses: frozenset[Address]) -> None:
        """What DNS gave for a name; what it had before is remembered for open connections."""
        before = self.domains.pop(name, frozenset())
        if addresses:
            self.domains[name] = addresses
        if before != addresses:
            self._lapse(name, before - addresses)
            self.changes.domains |= {p for p in self._domain_peers if p.matches(name)}

    def _lapse(self, name: str, gone: frozenset[Address]) -> None:
        if gone:
            self.lapsed[name] = self.lapsed.pop(name, frozenset()) | gone
            while len(self.lapsed) > MOST_LAPSED:
                del self.lapsed[next(iter(self.lapsed))]

    def inherit(self, peer: Domains, addresses: frozenset[Address]) -> None:
        """Keep addresses that were in force before this plan; () ends it."""
        if self.inherited.pop(peer, frozenset()) != addresses:
            self.changes.domains.add(peer)
        if addresses:
            self.inherited[peer] = addresses

    @property
    def domain_peers(self) -> frozenset[Domains]:
        """Every peer by name."""
        return frozenset(self._domain_peers)

    def names(self, name: str) -> bool:
        """Tell whether a policy names this domain name."""
        return any(p.matches(name) for p in self._domain_peers)

    def profile(self, pod: Key, direction: Direction) -> Profile:
        """Every policy that selects the pod in this direction."""
        found = [
            policy
            for selection in self.selections.sets_of.get(pod, ())
            for identity in self._subjects.get(selection, ())
            if (policy := self.policies[identity]).rules(direction) is not None
        ]
        if not found:
            return Profile(direction)
        tiers: dict[str, list[PolicyId]] = {
            "Admin": [],
            "NetworkPolicy": [],
            "Baseline": [],
            "": [],
        }
        for policy in sorted(found, key=lambda p: p.order):
            tiers["" if policy.audit else policy.tier].append((policy.kind, policy.key))
        return Profile(
            direction,
            tuple(tiers["Admin"]),
            tuple(tiers["NetworkPolicy"]),
            tuple(tiers["Baseline"]),
            tuple(tiers[""]),
        )

    def rehearsed(self, profile: Profile) -> Profile:
        """The profile as it would be if the policies in audit mode were enforced."""
        tiers: dict[str, list[PolicyId]] = {"Admin": [], "NetworkPolicy": [], "Baseline": []}
        found = (*profile.admin, *profile.network, *profile.baseline, *profile.audit)
        for policy in sorted((self.policies[i] for i in found), key=lambda p: p.order):
            tiers[policy.tier].append((policy.kind, policy.key))
        return Profile(profile.direction, *map(tuple, tiers.values()))

    def verdicts(self, pod: Key, direction: Direction) -> list[Verdict]:
        """The ordered list that decides: the first that matches ends the search (Pass: the tier)."""
        profile = self.profile(pod, direction)
        found: list[Verdict] = []
        for identity in (*profile.admin, *profile.network):
            policy = self.policies[identity]
            found += [Verdict(policy, r, r.action) for r in policy.rules(direction) or ()]
        if profile.network:
            return found + [Verdict(self.policies[i], None, "Deny") for i in profile.network]
        for identity in profile.baseline:
            policy = self.policies[identity]
            found += [Verdict(policy, r, r.action) for r in policy.rules(direction) or ()]
        return found

    def holds(
        self,
        selection: Selection,
        pod: PodFacts | None,
        address: Address | None,
        *,
        name: str = "",
        established: bool = False,
    ) -> bool:
        """Tell whether a peer (a pod, a bare address, a domain name) belongs to a selection.

        ``established``: an open connection keeps what DNS said when it began.
        """
        if isinstance(selection, PodSet):
            return pod is not None and pod.key in self.selections.members.get(selection, ())
        if isinstance(selection, Domains) and name and selection.matches(name):
            return True
        if address is None:
            return False
        if isinstance(selection, NodeSet):
            return address in self.node_addresses(selection)
        if isinstance(selection, Domains):
            return address in self.domain_addresses(selection) or (
                established and address in _named(self.lapsed, selection)
            )
        return selection.contains(address)

    def node_addresses(self, selection: NodeSet) -> set[Address]:
        """Addresses of the nodes that match."""
        return {
            a
            for node in self.nodes.values()
            if matches(selection.nodes, node.labels)
            for a in node.addresses
        }

    def domain_addresses(self, selection: Domains) -> set[Address]:
        """Addresses that DNS gave for the names."""
        return _named(self.domains, selection) | self.inherited.get(selection, frozenset())


def _named(domains: dict[str, frozenset[Address]], selection: Domains) -> set[Address]:
    return {a for name, found in domains.items() if selection.matches(name) for a in found}


def selections(policy: Policy) -> Iterable[Selection]:
    """Every peer of every rule."""
    for rules in (policy.ingress, policy.egress):
        for rule in rules or ():
            yield from rule.peers or ()


def as_policy(policy: NetworkPolicy | ClusterNetworkPolicy) -> Policy:
    """Read a policy of either kind."""
    if isinstance(policy, NetworkPolicy):
        return from_network_policy(policy)
    return from_cluster_network_policy(policy)


def parse_address(text: str) -> Address | None:
    """Address of a text, IPv4-mapped ones as IPv4; None if it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.version == 6 and address.ipv4_mapped) or address


def pod_facts(pod: Pod) -> PodFacts:
    """Trim a pod."""
    sidecars = [c for c in pod.spec.init_containers or () if c.restart_policy == "Always"]
    return PodFacts(
        key=pod.key,
        labels=pod.labels,
        addresses=tuple(a for ip in pod.ips if (a := parse_address(ip))),
        ports=tuple(
            (p.name, p.protocol or "TCP", p.container_port)
            for c in (*pod.spec.containers, *sidecars)
            for p in c.ports or ()
        ),
        node=pod.spec.node_name,
        uid=pod.metadata.uid,
        host_network=pod.spec.host_network,
        finished=pod.finished,
        host_ip=pod.status.host_ip,
    )


def node_facts(node: Node) -> NodeFacts:
    """Trim a node."""
    found = (parse_address(a.address) for a in node.status.addresses or ())
    return NodeFacts(node.metadata.name, node.labels, tuple(a for a in found if a), node.pod_cidrs)
