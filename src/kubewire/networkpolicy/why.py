"""``policy why``: one question, the verdict of each direction and who decided it.

An end of a flow is ``[ns/]pod``, the name of a workload or of a Service, which stand for their pods, an
address of a pod, a node, a Service or of anything else. Packets to a Service are judged after
destination NAT, for each endpoint that it may be sent to.
"""

from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_address
from typing import Any

import msgspec

from kubewire.api.core import Pod
from kubewire.api.errors import InputError
from kubewire.api.meta import JSON, Key
from kubewire.api.service import Service
from kubewire.networkpolicy import workloads
from kubewire.networkpolicy.compile import FAMILIES, set_name
from kubewire.networkpolicy.judge import Flow, Judgement, Party, judge, party
from kubewire.networkpolicy.model import Address, Domains
from kubewire.networkpolicy.objects import Objects
from kubewire.networkpolicy.plan import (
    Plan,
    PodFacts,
    as_policy,
    parse_address,
    pod_facts,
    selections,
)
from kubewire.networkpolicy.services import (
    Backend,
    Front,
    Services,
    port_of,
)

PROTOCOLS = ("TCP", "UDP", "SCTP", "ICMP", "ICMPv6")


class Question(msgspec.Struct, frozen=True):
    """One flow as a person or a line of a batch asks for it."""

    source: str
    target: str
    port: int | str | None = None
    protocol: str = "TCP"
    target_kind: str = ""


def from_json(line: JSON) -> Question:
    """Read one line of a batch."""
    for field in ("from", "to"):
        if not isinstance(line.get(field), str) or not line[field]:
            raise InputError(f"{field}: a pod or an address is required")
    protocol = line.get("protocol") or "TCP"
    return Question(
        line["from"],
        line["to"],
        _port(line.get("port")),
        _protocol(protocol),
        str(line.get("toKind") or ""),
    )


def from_text(source: str, target: str) -> Question:
    """Read ``FROM`` and ``TO[:PORT[/PROTO]]``; an IPv6 address with a port stands in brackets."""
    head, protocol = target, ""
    if target.startswith("["):
        host, bracket, rest = target[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InputError(f"TO: {target!r} is not [ADDRESS]:PORT[/PROTO]")
        port, _, protocol = rest[1:].partition("/")
        return Question(source, host, _port(port or None), _protocol(protocol or "TCP"))
    if parse_address(target) is not None:
        return Question(source, target)
    head, colon, rest = target.partition(":")
    port, _, protocol = rest.partition("/")
    if colon and not port:
        raise InputError(f"TO: {target!r} has no port after the colon")
    return Question(source, head, _port(port or None), _protocol(protocol or "TCP"))


def _port(value: Any) -> int | str | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise InputError(f"port: {value!r} is not a port")
    if isinstance(value, int) and not 0 < value < 65536:
        raise InputError(f"port: {value} is not between 1 and 65535")
    return value


def _protocol(value: Any) -> str:
    for known in PROTOCOLS:
        if isinstance(value, str) and value.upper() == known.upper():
            return known
    raise InputError(f"protocol: {value!r} is not one of {', '.join(PROTOCOLS)}")


class Asker:
    """Answers questions about one state of the world."""

    def __init__(
        self,
        objects: Objects,
        namespace: str = "default",
        names: Mapping[str, Collection[Address]] | None = None,
        learned: Mapping[str, Mapping[str, frozenset[bytes]]] | None = None,
    ) -> None:
        """``learned``: what `sets_by_name` has on each node now."""
        self.namespace = namespace
        self.plan = Plan.of(objects.policies, objects.pods, objects.namespaces, objects.nodes)
        self._names = {n.rstrip(".").lower(): tuple(found) for n, found in (names or {}).items()}
        for name, found in self._names.items():
            self.plan.set_domain(name, frozenset(found))
        self._nodes: dict[Address, str] = {}
        self._services = Services(objects)
        self._workloads = workloads.pods_of(objects)
        self._learned = learned or {}
        for pod in self.plan.pods.values():
            if pod.node and (host := parse_address(pod.host_ip)):
                self._nodes.setdefault(host, pod.node)
            if pod.host_network and not pod.finished:
                for address in pod.addresses:
                    self._nodes.setdefault(address, pod.node)

    def ask(self, question: Question) -> JSON:
        """Judge one flow, of every pod that an end stands for; InputError if it names what is not there."""
        pairs = [p for s in self.parties(question.source, "from") for p in self._asked(s, question)]
        if len(pairs) == 1:
            return pairs[0][2]
        worst = next((a for _, _, a in pairs if a["verdict"] == "deny"), pairs[0][2])
        if all(a["verdict"] == worst["verdict"] for _, _, a in pairs):
            return worst
        shown = [{"from": s, "to": t, "verdict": a["verdict"]} for s, t, a in pairs]
        return {**worst, "pods": shown}

    def _asked(self, source: Party, question: Question) -> Iterator[tuple[str, str, JSON]]:
        """(source, target, answer) for every pod that the target stands for."""
        self._learn(source)
        front, service = self._front(question)
        if service is not None:
            yield source.text, question.target, self._to_service(source, service, front, question)
            return
        for target in self.parties(question.target, "to"):
            yield source.text, target.text, self._to(source, target, question)

    def _to_service(
        self, source: Party, service: Service, front: Front | None, question: Question
    ) -> JSON:
        if front is None:
            reason = f"Service {service.key} has no port {question.port} {question.protocol}"
            return _refused(reason)
        return self._through(source, front, question, None)

    def _to(self, source: Party, target: Party, question: Question) -> JSON:
        front, behind = None, None
        if target.pod is None and target.on_node:
            front = self._services.by_node_port(_number(question.port), question.protocol)
            behind = self._services.by_host_port(
                target.node, target.address, question.port, question.protocol
            )
        if front is not None:
            return self._through(source, front, question, target)
        if behind is not None:
            return self._to_backend(source, behind, question, target)
        return self._direct(source, target, question)

    def _learn(self, source: Party) -> None:
        """Peers by name have the addresses that the source's node has learned."""
        held = self._learned.get(source.pod.node if source.pod else "", {})
        for peer in self.plan.domain_peers if self._learned else ():
            found = (ip_address(a) for f in FAMILIES for a in held.get(set_name(peer, f), ()))
            self.plan.inherit(peer, frozenset(found))

    def parties(self, text: str, field: str) -> list[Party]:
        """Find one end of a flow: several if a workload or a Service is named."""
        address = parse_address(text)
        if address is not None:
            return [self._at(address, text)]
        key = self._key(text)
        pod = self.plan.pods.get(key)
        if pod is not None:
            return [self._pod(pod)]
        if key in self._workloads:
            return [self._pod(self.plan.pods[k]) for k in self._workloads[key]]
        if field == "to" and (named := self._named(text)):
            return [named]
        raise InputError(f'{field}: pod "{key}" not found')

    def _named(self, text: str) -> Party | None:
        """A domain name: what ``--dns`` says, or one that a policy names."""
        name = text.rstrip(".").lower()
        if name not in self._names and not self.plan.names(name):
            return None
        address = next(iter(self._names.get(name, ())), None)
        return Party(name, None, address, fixed=address is not None, name=name)

    def _key(self, text: str) -> Key:
        namespace, slash, name = text.partition("/")
        return Key(namespace, name) if slash else Key(self.namespace, text)

    def _pod(self, pod: PodFacts) -> Party:
        text = str(pod.key)
        if not pod.host_network:
            return Party(text, pod, pod.addresses[0] if pod.addresses else None)
        node = self.plan.nodes.get(pod.node)
        known = (*pod.addresses, parse_address(pod.host_ip), *(node.addresses if node else ()))
        address = next((a for a in known if a), None)
        return Party(text, pod, address, pod.node, on_node=True)

    def _at(self, address: Address, text: str) -> Party:
        found = party(self.plan, address, text)
        if found.pod is not None or found.on_node or address not in self._nodes:
            return found
        return Party(text, None, address, self._nodes[address], on_node=True, fixed=True)

    def _front(self, question: Question) -> tuple[Front | None, Service | None]:
        address = parse_address(question.target)
        if address is not None:
            service = self._services.by_address.get(address)
        else:
            key = self._key(question.target)
            named = question.target_kind == "Service" or key not in self.plan.pods
            service = self._services.by_key.get(key) if named else None
        if service is None:
            return None, None
        port = port_of(service, question.port, question.protocol)
        if port is None and address is None and question.target_kind != "Service":
            # A port of the pods, of a workload of this name.
            service = service if key not in self._workloads else None
        return (Front(service, port) if service and port else None), service

    def _direct(self, source: Party, target: Party, question: Question) -> JSON:
        port = question.port
        if isinstance(port, str):
            named = [
                n
                for name, proto, n in (target.pod.ports if target.pod else ())
                if name == port and proto == question.protocol
            ]
            if not named:
                raise InputError(f"port: {target.text} has no port named {port!r}")
            port = named[0]
        source, target = _same_family(source, target)
        flow = Flow(source, target, question.protocol, port)
        return _answer(judge(self.plan, flow, "egress"), judge(self.plan, flow, "ingress"))

    def _through(self, source: Party, front: Front, question: Question, node: Party | None) -> JSON:
        address = parse_address(question.target)
        versions = [address.version] if address else _families(front.service, source)
        found = [b for v in versions for b in self._services.backends(front.service, front.port, v)]
        if not found:
            return _refused(f"Service {front.service.key} has no ready endpoints")
        answers = [self._to_backend(source, b, question, node) for b in found]
        worst = next((a for a in answers if a["verdict"] == "deny"), answers[0])
        result = {**worst, "service": f"Service {front.service.key}"}
        if len(answers) > 1:
            result["endpoints"] = [
                {"to": _name(b), "port": b.port, "verdict": a["verdict"]}
                for b, a in zip(found, answers, strict=True)
            ]
        return result

    def _to_backend(
        self, source: Party, backend: Backend, question: Question, node: Party | None
    ) -> JSON:
        target = self._backend(backend)
        source, target = _same_family(source, target)
        flow = Flow(source, target, question.protocol, backend.port)
        egress = ingress = flow
        if node is not None:
            egress, ingress = self._over_node(flow, node, _number(question.port))
        return _answer(judge(self.plan, egress, "egress"), judge(self.plan, ingress, "ingress"))

    def _over_node(self, flow: Flow, node: Party, port: int | None) -> tuple[Flow, Flow]:
        """Both views of a node's port: the node translates, and masquerades what leaves it again."""
        pod = flow.source.pod
        if pod is not None and pod.node == node.node:
            egress, source = flow, flow.source
        else:
            egress, source = (
                Flow(flow.source, node, flow.protocol, port),
                self._outside(flow.source),
            )
        stays = flow.target.pod is not None and flow.target.pod.node == node.node
        source = source if stays else node
        return egress, Flow(source, flow.target, flow.protocol, flow.port)

    def _outside(self, source: Party) -> Party:
        """A pod, as it is seen beyond its node: what it sends to no pod has its node's address."""
        home = self.plan.nodes.get(source.pod.node) if source.subject and source.pod else None
        version = source.address.version if source.address else 4
        for address in home.addresses if home else ():
            if address.version == version:
                return self._at(address, str(address))
        return source

    def _backend(self, backend: Backend) -> Party:
        if backend.address is not None:
            return self._at(backend.address, str(backend.address))
        assert isinstance(backend.pod, Pod)
        return self._pod(pod_facts(backend.pod))


def sets_by_name(objects: Objects) -> list[str]:
    """Names of the sets that hold the addresses of peers by domain name."""
    found = (s for p in objects.policies for s in selections(as_policy(p)))
    return [set_name(s, f) for s in found if isinstance(s, Domains) for f in FAMILIES]


def _same_family(source: Party, target: Party) -> tuple[Party, Party]:
    """Give pods that were named the address of the other end's family."""
    wanted = target.address if target.fixed else source.address if source.fixed else None
    versions = [wanted.version] if wanted else [a.version for a in _addresses(target)]
    for version in versions:
        ends = [_of_family(p, version) for p in (source, target)]
        if all(e is not None for e in ends):
            return (
                msgspec.structs.replace(source, address=ends[0]),
                msgspec.structs.replace(target, address=ends[1]),
            )
    return source, target


def _addresses(party: Party) -> tuple[Address, ...]:
    """Every address of an end, the one that was asked for first."""
    rest = party.pod.addresses if party.pod else ()
    return (*((party.address,) if party.address else ()), *(a for a in rest if a != party.address))


def _of_family(party: Party, version: int) -> Address | None:
    return next((a for a in _addresses(party) if a.version == version), None)


def _families(service: Service, source: Party) -> list[int]:
    known = {int(a.version) for a in _addresses(source)} or {4, 6}
    wanted = [6 if f == "IPv6" else 4 for f in service.spec.ip_families or ()]
    own = [int(a.version) for t in service.cluster_ips if (a := parse_address(t))]
    return [v for v in (wanted or own or [4, 6]) if v in known][:1] or sorted(known)[:1]


def _number(port: int | str | None) -> int | None:
    return port if isinstance(port, int) else None


def _name(backend: Backend) -> str:
    return str(backend.address or (backend.pod.key if backend.pod else ""))


def _answer(egress: Judgement, ingress: Judgement) -> JSON:
    allowed = egress.verdict == ingress.verdict == "allow"
    return {
        "verdict": "allow" if allowed else "deny",
        "egress": _half(egress),
        "ingress": _half(ingress),
    }


def _half(judgement: Judgement) -> JSON:
    half: JSON = {
        "verdict": judgement.verdict,
        "policy": judgement.policy,
        "rule": judgement.rule,
        "reason": judgement.reason,
    }
    if len(judgement.policies) > 1:
        half["policies"] = list(judgement.policies)
    if judgement.audit:
        half["audit"] = judgement.audit
    return half


def _refused(reason: str) -> JSON:
    """No policy decides: there is nothing behind the Service."""
    return _answer(Judgement("deny", reason), Judgement("allow", reason))
