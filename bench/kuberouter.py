"""The same policies in the shape that kube-router gives them, as a peer.

A chain per policy, a chain per pod and direction, two rules in the forward chain for each pod; accepted
packets get mark 0x10000, which is asked after each policy; sets of addresses in ipset. Every change is
a full synchronisation: all text is made and restored again. (Shape read from a node's
``iptables-save``; kube-router's documentation calls the chains KUBE-NWPLCY and KUBE-POD-FW.)
"""

import hashlib
from collections.abc import Iterator

from kubewire.kernel import ipset
from kubewire.kernel.iptables import Iptables
from kubewire.networkpolicy.model import Direction, NamedPort, PodSet, Policy, Ports, Rule
from kubewire.networkpolicy.plan import Plan

ACCEPTED = "0x10000/0x10000"


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16].upper()


class KubeRouter:
    """Loads the rules of one node."""

    def __init__(self, plan: Plan, node: str) -> None:
        self.plan = plan
        self.node = node

    def sync(self) -> None:
        local = [p for p in self.plan.pods.values() if p.node == self.node]
        profiles = {
            (p.key, way): self.plan.profile(p.key, way).network
            for p in local
            for way in ("ingress", "egress")
        }
        used = {i for found in profiles.values() for i in found}
        sets: list[str] = []
        chains: list[str] = []
        rules: list[str] = []
        for identity in used:
            self._policy(self.plan.policies[identity], sets, chains, rules)
        for pod in local:
            address = str(pod.addresses[0])
            for way in ("ingress", "egress"):
                found = profiles[pod.key, way]
                if not found:
                    continue
                name = f"KUBE-POD-FW-{digest(pod.key, way)[:12]}"
                chains.append(name)
                side = "-d" if way == "ingress" else "-s"
                rules.append(f"-A KUBE-ROUTER-FORWARD {side} {address} -j {name}")
                rules.append(f"-A {name} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
                rules += [f"-A {name} -j KUBE-NWPLCY-{digest(i)[:12]}" for i in found]
                rules.append(f"-A {name} -m mark ! --mark {ACCEPTED} -j REJECT")
                rules.append(f"-A {name} -j MARK --set-xmark 0x0/0x10000")
        ipset.restore(sets)
        declared = [f":{c} - [0:0]" for c in ("KUBE-ROUTER-FORWARD", *chains)]
        hook = [] if self._hooked() else ["-I FORWARD -j KUBE-ROUTER-FORWARD"]
        Iptables(4).restore(["*filter", *declared, *hook, *rules, "COMMIT"])

    @staticmethod
    def _hooked() -> bool:
        return Iptables(4).try_rule("-C", "FORWARD", "-j", "KUBE-ROUTER-FORWARD")

    def _policy(self, policy: Policy, sets: list[str], chains: list[str], rules: list[str]) -> None:
        name = f"KUBE-NWPLCY-{digest((policy.kind, policy.key))[:12]}"
        chains.append(name)
        own = self._set(f"KUBE-DST-{digest(policy.key, 'own')}", policy.subject, sets)
        for way in ("ingress", "egress"):
            for rule in policy.rules(way) or ():
                for peer in self._peers(policy, rule, sets):
                    for port in _ports(rule):
                        rules += _accept(name, way, own, peer, port)

    def _peers(self, policy: Policy, rule: Rule, sets: list[str]) -> Iterator[str]:
        for number, peer in enumerate(rule.peers or ()):
            if isinstance(peer, PodSet):
                name = f"KUBE-SRC-{digest(policy.key, rule.path, number)}"
                yield self._set(name, peer, sets)

    def _set(self, name: str, peer: PodSet, sets: list[str]) -> str:
        sets += [f"create {name} hash:ip family inet", f"flush {name}"]
        for key in self.plan.selections.members[peer]:
            sets += [f"add {name} {a}" for a in self.plan.pods[key].addresses]
        return name


def _ports(rule: Rule) -> Iterator[str]:
    for port in rule.ports or ():
        if isinstance(port, Ports):
            yield f"-p {port.protocol.lower()} --dport {port.low}"
        elif isinstance(port, NamedPort):
            # Resolved beforehand: here every pod gives the name to one number.
            yield f"-p {port.protocol.lower()} --dport 80"


def _accept(name: str, way: Direction, own: str, peer: str, port: str) -> list[str]:
    source, target = (peer, own) if way == "ingress" else (own, peer)
    match = f"-m set --match-set {source} src -m set --match-set {target} dst {port}"
    return [
        f"-A {name} {match} -j MARK --set-xmark {ACCEPTED}",
        f"-A {name} {match} -m mark --mark {ACCEPTED} -j RETURN",
    ]
