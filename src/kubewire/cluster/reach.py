"""Reachability by trial: which flows to try, what they gave, as JSON, as a matrix, as differences."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from kubewire.api.core import Pod
from kubewire.api.errors import InputError
from kubewire.api.meta import JSON, Key
from kubewire.api.service import Service
from kubewire.cluster import inside
from kubewire.cluster.dialer import Dial, Result, dial_all
from kubewire.cluster.state import ClusterState
from kubewire.kubelet.enter import describe

HIDDEN_NAMESPACE = "kube-system"
PROTOCOLS = ("TCP", "UDP", "SCTP")


@dataclass(frozen=True, slots=True)
class Question:
    """What ``kubewire reach`` was asked."""

    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    protocols: tuple[str, ...] = ()
    pods: bool = True
    services: bool = True
    namespace: str = ""
    """Only this one; also what a bare name means."""
    all_namespaces: bool = False


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow to try."""

    source: Key
    target: Key
    kind: str
    ip: str
    port: int
    protocol: str


def flows(question: Question, pods: Iterable[Pod], services: Iterable[Service]) -> list[Flow]:
    """Every flow that the question means. InputError for a name that nothing has."""
    running = [p for p in pods if p.ips and not p.finished]
    known = list(services)
    sources = _named(question, question.sources, running)
    found: list[Flow] = []
    chosen_pods = _chosen(question, running, "pod") if question.pods else []
    chosen_services = _chosen(question, known, "svc") if question.services else []
    _check_names(question, question.targets, [*running, *known])
    for source in sources:
        for pod in chosen_pods:
            for ip, (port, protocol) in _product(pod.ips, _pod_ports(pod, question)):
                found.append(Flow(source.key, pod.key, "Pod", ip, port, protocol))
        for service in chosen_services:
            for ip, (port, protocol) in _product(
                service.cluster_ips, _service_ports(service, question)
            ):
                found.append(Flow(source.key, service.key, "Service", ip, port, protocol))
    return found


def _product(
    ips: Iterable[str], ports: Sequence[tuple[int, str]]
) -> Iterator[tuple[str, tuple[int, str]]]:
    for ip in ips:
        for port in ports:
            yield ip, port


def _named(question: Question, names: Sequence[str], pods: list[Pod]) -> list[Pod]:
    if not names:
        return [p for p in pods if _is_shown(question, p.key)]
    _check_names(question, names, pods)
    return [p for p in pods if any(_means(question, name, p.key) for name in names)]


def _chosen(question: Question, objects: list[Any], kind: str) -> list[Any]:
    if not question.targets:
        return [o for o in objects if _is_shown(question, o.key)]
    names = [n for n in question.targets if _kind(n) in ("", kind)]
    return [o for o in objects if any(_means(question, name, o.key) for name in names)]


def _check_names(question: Question, names: Sequence[str], objects: Sequence[Any]) -> None:
    for name in names:
        if not any(_means(question, name, o.key) for o in objects):
            raise InputError(f"{name}: no running pod or Service of that name")


def _means(question: Question, name: str, key: Key) -> bool:
    """``ns/name``, ``name``, with shell wildcards; ``ns/`` means everything in it."""
    wanted = _key(question, name)
    return fnmatchcase(key.namespace, wanted.namespace) and fnmatchcase(
        key.name, wanted.name or "*"
    )


def _kind(name: str) -> str:
    head = name.partition("/")[0]
    return {"pod": "pod", "pods": "pod", "svc": "svc", "service": "svc", "services": "svc"}.get(
        head if name.count("/") else "", ""
    )


def _key(question: Question, name: str) -> Key:
    parts = name.split("/")
    if _kind(name):
        parts = parts[1:]
    if len(parts) == 1:
        return Key(question.namespace or "default", parts[0])
    return Key(parts[0], parts[1])


def _is_shown(question: Question, key: Key) -> bool:
    if question.namespace:
        return key.namespace == question.namespace
    return question.all_namespaces or key.namespace != HIDDEN_NAMESPACE


def _asked_ports(question: Question) -> list[tuple[int, str]]:
    protocols = question.protocols or ("TCP",)
    return [(port, protocol) for port in question.ports for protocol in protocols]


def _pod_ports(pod: Pod, question: Question) -> list[tuple[int, str]]:
    if question.ports:
        return _asked_ports(question)
    declared = [(p.container_port, p.protocol) for c in pod.spec.containers for p in c.ports or ()]
    return _filtered(declared, question)


def _service_ports(service: Service, question: Question) -> list[tuple[int, str]]:
    if question.ports:
        return _asked_ports(question)
    return _filtered([(p.port, p.protocol) for p in service.spec.ports or ()], question)


def _filtered(ports: Iterable[tuple[int, str]], question: Question) -> list[tuple[int, str]]:
    wanted = question.protocols or PROTOCOLS
    return list(dict.fromkeys(p for p in ports if p[1] in wanted))


def attempt(
    state: ClusterState, wanted: Sequence[Flow], limit: float, *, behind_envoy: bool
) -> list[JSON]:
    """Try the flows from inside the cluster; the records of CLI.md, in the same order."""
    found: list[JSON] = inside.call(state, lambda: _dial(state, wanted, limit, behind_envoy))
    return found


def _dial(state: ClusterState, wanted: Sequence[Flow], limit: float, behind: bool) -> list[JSON]:
    places: dict[Key, str] = {}
    for flow in wanted:
        if flow.source not in places:
            folder = inside.pod_folder(state, flow.source.namespace, flow.source.name)
            places[flow.source] = str(describe(folder)["netns"])
    dials = [
        Dial(
            places[f.source], f.ip, f.port, f.protocol,
            proxied=behind and f.kind == "Service" and f.protocol == "TCP",
        )
        for f in wanted
    ]  # fmt: skip
    return [record(f, r) for f, r in zip(wanted, dial_all(dials, limit), strict=True)]


def record(flow: Flow, result: Result) -> JSON:
    """One flow as ``kubewire reach -o json`` lists it."""
    by = result.answered_by
    if result.ok and by is None and flow.kind == "Pod":
        by = str(flow.target)
    return {
        "from": str(flow.source),
        "to": str(flow.target),
        "toKind": flow.kind,
        "ip": flow.ip,
        "port": flow.port,
        "protocol": flow.protocol,
        "ok": result.ok,
        "answeredBy": by if result.ok else None,
        "error": result.error,
        "ms": round(result.milliseconds, 3) if result.ok else None,
    }


def matrix(records: Sequence[JSON]) -> str:
    """Sources down, targets across; "." reached, "X" not."""
    columns = list(dict.fromkeys(_column(r) for r in records))
    rows = list(dict.fromkeys(r["from"] for r in records))
    cells = {(r["from"], _column(r)): r["ok"] for r in records}
    width = max([len("FROM"), *(len(r) for r in rows)])
    lines = [f"{i + 1:>3}  {name}" for i, name in enumerate(columns)]
    head = " ".join(f"{i + 1:>3}" for i in range(len(columns)))
    lines += ["", f"{'FROM':<{width}} {head}"]
    marks = {True: "  .", False: "  X", None: "   "}
    for row in rows:
        line = " ".join(marks[cells.get((row, column))] for column in columns)
        lines.append(f"{row:<{width}} {line}".rstrip())
    reached = sum(bool(r["ok"]) for r in records)
    lines += ["", f"{reached} of {len(records)} flows reached (. yes, X no)"]
    return "\n".join(lines)


def _column(one: JSON) -> str:
    kind = "svc/" if one["toKind"] == "Service" else ""
    return f"{kind}{one['to']} {one['port']}/{one['protocol']}"


def differences(expected: Sequence[JSON], got: Sequence[JSON]) -> list[str]:
    """What differs between two runs, one line each."""
    before = {_identity(r): r for r in expected}
    after = {_identity(r): r for r in got}
    lines = []
    for identity in {**before, **after}:
        one, other = before.get(identity), after.get(identity)
        if one is None or other is None:
            lines.append(f"{_name(identity)}: {'not expected' if one is None else 'not tried'}")
        elif bool(one["ok"]) != bool(other["ok"]):
            lines.append(f"{_name(identity)}: expected {_verdict(one)}, got {_verdict(other)}")
    return lines


def _identity(one: JSON) -> tuple[Any, ...]:
    family = "IPv6" if ":" in one["ip"] else "IPv4"
    return one["from"], one["to"], one["toKind"], one["port"], one["protocol"], family


def _name(identity: tuple[Any, ...]) -> str:
    source, target, kind, port, protocol, family = identity
    return f"{source} -> {kind} {target} {port}/{protocol} ({family})"


def _verdict(one: JSON) -> str:
    return "ok" if one["ok"] else f"failure ({one.get('error') or 'no answer'})"


def read_expected(path: str) -> list[JSON]:
    """Flows of an earlier ``-o json``. InputError if the file does not hold them."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            found = json.load(file)["flows"]
        for one in found:
            _identity(one)
            bool(one["ok"])
    except OSError as error:
        raise InputError(f"--expect {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--expect {path}: not the JSON of kubewire reach: {error}") from error
    return list(found)
