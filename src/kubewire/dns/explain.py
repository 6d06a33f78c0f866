"""Answer questions without a server: the real chain over given objects, with the reasons.

Nothing is sent anywhere: upstreams of ``forward`` are named, not asked. Unless a Corefile is given
it is the cluster's own, from the ConfigMap among the objects, and where there is none, kubeadm's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubewire.api.errors import InputError, StatusError
from kubewire.api.resources import CONFIG_MAPS, ENDPOINT_SLICES, NAMESPACES, PODS, SERVICES
from kubewire.dns.config import Configuration, Environment, Listener, build, load
from kubewire.dns.dispatch import Dispatcher
from kubewire.dns.plugin import Request, Response
from kubewire.dns.plugins.kubernetes.objects import SERVICE_IMPORTS
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Edns, Message, Question
from kubewire.lang.dns.name import BadNameError, absolute, split, to_wire
from kubewire.lang.dns.record import RR, rdata_text

if TYPE_CHECKING:
    from kubewire.client.rest import Client

KUBEADM = """.:53 {{
    errors
    health {{
       lameduck 5s
    }}
    ready
    kubernetes {domain} in-addr.arpa ip6.arpa {{
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }}
    prometheus :9153
    forward . /etc/resolv.conf {{
       max_concurrent 1000
    }}
    cache 30 {{
       disable success {domain}
       disable denial {domain}
    }}
    loop
    reload
    loadbalance
}}
"""
"""The Corefile that kubeadm 1.36 writes."""


CONFIG_MAP = ("ConfigMap", "kube-system", "coredns")
"""Where a cluster keeps the Corefile: kind, namespace, name."""


def default_corefile(domain: str = "cluster.local") -> str:
    """kubeadm's Corefile for a cluster domain."""
    return KUBEADM.format(domain=domain.rstrip("."))


class Explainer:
    """A configuration over objects; answers questions with their reasons."""

    def __init__(
        self,
        objects: Sequence[Mapping[str, Any]],
        conf: str | Path | None = None,
        domain: str = "cluster.local",
        *,
        text: str = "",
    ) -> None:
        env = Environment(objects=objects)
        self.configuration: Configuration = (
            load(conf, env)
            if conf
            else build(text or _own(objects) or default_corefile(domain), "Corefile", env)
        )
        self._domain = absolute(domain)
        self._pods = {
            f"{o['metadata'].get('namespace') or 'default'}/{o['metadata']['name']}": o
            for o in objects
            if o.get("kind") == "Pod"
        }
        listeners = self.configuration.listeners()
        self._dispatchers = {at: Dispatcher(at, blocks) for at, blocks in listeners.items()}

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``{"name", "type", "from"?, ...}``; InputError if it cannot be read."""
        name, qtype, qclass = _read(question)
        pod = self._pod(question.get("from"))
        names = self._names(name, pod)
        client = _client(pod, question)
        proto = str(question.get("proto", "udp"))
        asked, tried = name, []
        response = Response.failure(codes.SERVFAIL)
        for candidate in names:
            asked = candidate
            response = self._ask(Question(candidate, qtype, qclass), client, proto)
            tried.append(
                {
                    "name": candidate,
                    "rcode": codes.rcode_name(response.rcode),
                    "plugin": response.plugin,
                    "reason": response.reason,
                }
            )
            if response.rcode != codes.NXDOMAIN and response.answer:
                break
        else:
            best = _best(tried, literal_first=names[0] == absolute(name))
            if best != len(tried) - 1:
                asked = names[best]
                response = self._ask(Question(asked, qtype, qclass), client, proto)
        return {
            "rcode": codes.rcode_name(response.rcode),
            "answer": _rows(response.answer),
            "authority": _rows(response.authority),
            "additional": _rows(response.additional),
            "plugin": response.plugin,
            "searched": tried,
            "reason": _reason(response, qtype),
        }

    def _ask(self, question: Question, client: str, proto: str) -> Response:
        message = Message(flags=0x0100, question=question, edns=Edns(4096))
        request = Request(message, client=(client, 40000), local=("", 53), proto=proto, size=64)
        return asyncio.run(self._dispatcher(proto).checked(request))

    def _dispatcher(self, proto: str) -> Dispatcher:
        scheme = {"tls": "tls", "https": "https", "quic": "quic"}.get(proto, "dns")
        for at, dispatcher in self._dispatchers.items():
            if at.scheme == scheme:
                return dispatcher
        return Dispatcher(Listener("dns", "", 53), [])

    def _pod(self, source: Any) -> Mapping[str, Any] | None:
        if not source:
            return None
        if "/" not in str(source):
            source = f"default/{source}"
        if source not in self._pods:
            raise InputError(f"from: pod {source} is not among the objects")
        return self._pods[source]

    def _names(self, name: str, pod: Mapping[str, Any] | None) -> list[str]:
        """Names that the pod's resolver tries, in order (glibc: literal first or last)."""
        if pod is None or name.endswith("."):
            return [absolute(name)]
        search, ndots = self._search(pod)
        literal = [absolute(name)]
        below = [absolute(f"{name}.{domain.rstrip('.')}") for domain in search]
        dots = len(split(name)) - 1
        return literal + below if dots >= ndots else below + literal

    def _search(self, pod: Mapping[str, Any]) -> tuple[list[str], int]:
        spec = pod.get("spec") or {}
        policy = spec.get("dnsPolicy") or "ClusterFirst"
        config = spec.get("dnsConfig") or {}
        if policy == "ClusterFirst" and spec.get("hostNetwork"):
            policy = "Default"
        namespace = pod["metadata"].get("namespace") or "default"
        domains, ndots = [], 1
        if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
            domain = self._domain
            domains, ndots = [f"{namespace}.svc.{domain}", f"svc.{domain}", domain], 5
        domains += config.get("searches") or []
        for option in config.get("options") or []:
            if option.get("name") == "ndots" and str(option.get("value", "")).isdecimal():
                ndots = min(15, int(option["value"]))
        return list(dict.fromkeys(domains)), ndots


def _own(objects: Sequence[Mapping[str, Any]]) -> str:
    """The Corefile that the cluster's DNS reads."""
    for o in objects:
        meta = o.get("metadata") or {}
        if (o.get("kind"), meta.get("namespace"), meta.get("name")) == CONFIG_MAP:
            return str((o.get("data") or {}).get("Corefile") or "")
    return ""


def _best(tried: list[dict[str, Any]], *, literal_first: bool) -> int:
    """No name had the records: the one that glibc reports.

    That is the name as it was given if it came first, else one that exists, one that failed, the
    last.
    """
    if literal_first:
        return 0
    rcodes = [row["rcode"] for row in tried]
    for wanted in ("NOERROR", "SERVFAIL"):
        if wanted in rcodes:
            return rcodes.index(wanted)
    return len(tried) - 1


def _reason(response: Response, qtype: int) -> str:
    reason = response.reason or f"plugin {response.plugin}"
    if response.rcode or response.answer:
        return reason
    return f"{reason}; no record of type {codes.type_name(qtype)}"


def _read(question: Mapping[str, Any]) -> tuple[str, int, int]:
    name, kind = question.get("name"), question.get("type", "A")
    if not isinstance(name, str) or not name:
        raise InputError("name: a domain name is expected")
    try:
        to_wire(name)
    except (BadNameError, UnicodeError) as error:
        raise InputError(f"name: {error}") from error
    qtype = codes.type_number(str(kind))
    if qtype is None:
        raise InputError(f"type: {kind!r} is no record type")
    qclass = codes.CLASSES.get(str(question.get("class", "IN")).upper())
    if qclass is None:
        raise InputError(f"class: {question['class']!r} is no class")
    return name, qtype, qclass


def _client(pod: Mapping[str, Any] | None, question: Mapping[str, Any]) -> str:
    if "client" in question:
        return str(question["client"])
    return str(((pod or {}).get("status") or {}).get("podIP") or "127.0.0.1")


def _rows(records: Sequence[RR]) -> list[list[Any]]:
    return [[r.name, r.ttl, codes.type_name(r.type), rdata_text(r)] for r in records]


async def fetch(client: Client) -> list[dict[str, Any]]:
    """Every object that DNS reads, from an API server."""
    _, namespace, name = CONFIG_MAP
    found: list[dict[str, Any]] = []
    for resource in (SERVICES, ENDPOINT_SLICES, NAMESPACES, PODS):
        found += await client.list(resource)
    with _tolerating_absence():
        found.append({**await client.get(CONFIG_MAPS, name, namespace), "kind": "ConfigMap"})
    with _tolerating_absence():
        found += await client.list(SERVICE_IMPORTS)
    return found


@contextlib.contextmanager
def _tolerating_absence() -> Iterator[None]:
    try:
        yield
    except StatusError as error:
        if error.reason != "NotFound":
            raise
