"""The usual questions, answered from their labels: what ``Records.lookup`` says, at a fraction of its cost.

    name.ns.svc.ZONE                 a Service with one address of the family, or none
    1-2-3-4.ns.pod.ZONE              a pod
    anything below what is not there search paths and mistakes

Everything else is None: the general way. Both decide from the same objects, and a test compares
them for every form of a name, option and object.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Hashable

from kubewire.dns.plugin import Plain
from kubewire.dns.plugins.kubernetes.cluster import namespace_dep, pod_dep, service_dep
from kubewire.dns.plugins.kubernetes.names import dashed_address
from kubewire.dns.plugins.kubernetes.records import Records
from kubewire.lang.dns import codes

Deps = tuple[Hashable, ...]

_OWNER = b"\xc0\x0c"
"""A pointer to the question's name."""
_OURS = frozenset({b"dns", b"hostmaster"})
"""Labels right below the zone that its SOA record shares."""
_NAMESPACES = 1024
"""So many are remembered."""
_DEEPEST = 5
"""Labels below the zone that a name with ports has."""


class Labelled:
    """Answers of one zone's names by their labels."""

    def __init__(self, records: Records, *, falls: bool) -> None:
        self._records = records
        self._falls = falls
        """What is not there is the next plugin's."""
        ttl = struct.pack("!I", records.options.ttl)
        self._before = {
            codes.A: _OWNER + b"\0\1\0\1" + ttl + b"\0\4",
            codes.AAAA: _OWNER + b"\0\x1c\0\1" + ttl + b"\0\x10",
        }
        self._in: dict[str, Deps] = {}
        self._serial = -1
        self._soa: tuple[bytes, ...] = ()

    def answer(self, labels: list[bytes], pointer: bytes, qtype: int) -> Plain | None:
        """A ``Shortcut.answer``."""
        records = self._records
        if qtype not in self._before or not labels or not records.cluster.synced:
            return None
        kind = labels[-1]
        if kind not in (b"svc", b"pod"):
            return None if kind in _OURS else self._nothing(pointer, (), 1)
        more = len(labels) - 3
        if more < 0:
            return None
        if len(labels) > _DEEPEST:
            return None if records.options.zonal else self._nothing(pointer, ())
        namespace = labels[-2].decode("latin-1")
        deps = self._in.get(namespace) or self._in_namespace(namespace)
        if not records.exposed(namespace):
            return self._nothing(pointer, deps, 2)
        name = labels[-3].decode("latin-1")
        if kind == b"svc":
            return self._service(namespace, name, pointer, qtype, deps, more)
        return None if more else self._pod(namespace, name, pointer, qtype, deps)

    def _in_namespace(self, namespace: str) -> Deps:
        """Shared by all answers that depend on the namespace alone: there are many."""
        if len(self._in) >= _NAMESPACES:
            self._in.clear()
        deps = self._in[namespace] = (namespace_dep(namespace),)
        return deps

    def _service(
        self, namespace: str, name: str, pointer: bytes, qtype: int, deps: Deps, more: int
    ) -> Plain | None:
        records = self._records
        service = records.cluster.services.get((namespace, name))  # type: ignore[call-overload]
        deps = (*deps, service_dep(namespace, name))
        if service is None:
            return self._nothing(pointer, deps, 3)
        if more or service.external or service.headless or records.options.ignore_empty:
            return None
        v6 = qtype == codes.AAAA
        ips = [ip for ip in service.ips if (":" in ip) == v6]
        if len(ips) > 1:
            return None
        return self._address(ips[0] if ips else "", pointer, qtype, deps)

    def _pod(
        self, namespace: str, label: str, pointer: bytes, qtype: int, deps: Deps
    ) -> Plain | None:
        records = self._records
        mode = records.options.pods
        ip = dashed_address(label) if mode != "disabled" else ""
        if not ip:
            return self._nothing(pointer, deps)
        if mode == "verified":
            deps = (*deps, pod_dep(namespace, ip))
            if not records.cluster.pods.get((namespace, ip)):
                return self._nothing(pointer, deps)
        return self._address(
            ip if (":" in ip) == (qtype == codes.AAAA) else "", pointer, qtype, deps
        )

    def _address(self, ip: str, pointer: bytes, qtype: int, deps: Deps) -> Plain:
        if not ip:
            return Plain(codes.NOERROR, 0, 1, pointer.join(self._apex()), deps)
        family = socket.AF_INET6 if qtype == codes.AAAA else socket.AF_INET
        return Plain(codes.NOERROR, 1, 0, self._before[qtype] + socket.inet_pton(family, ip), deps)

    def _nothing(self, pointer: bytes, deps: Deps, cut: int = 0) -> Plain | None:
        if self._falls:
            return None
        return Plain(codes.NXDOMAIN, 0, 1, pointer.join(self._apex()), deps, cut)

    def _apex(self) -> tuple[bytes, ...]:
        """The SOA record without the zone's name, which stands between these."""
        serial = self._records.cluster.modified
        if serial != self._serial:
            ttl = self._records.options.ttl
            names = b"\2ns\3dns", b"\x0ahostmaster"
            length = sum(len(n) + 2 for n in names) + 20
            head = struct.pack("!HHIH", codes.SOA, codes.IN, min(ttl, 300), length)
            numbers = struct.pack("!5I", serial & 0xFFFFFFFF, 7200, 1800, 86400, ttl)
            self._soa = (b"", head + names[0], names[1], numbers)
            self._serial = serial
        return self._soa


__all__ = ["Labelled"]
