"""What expressions of views can call: questions about the request, and expr-lang's own functions."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

from kubewire.dns.plugin import Request
from kubewire.lang.dns import codes


def _in_cidr(ip: str, cidr: str) -> bool:
    network = ipaddress.ip_network(cidr, strict=False)
    address = ipaddress.ip_address(ip)
    return address.version == network.version and address in network


def _metadata(request: Request, key: str) -> str:
    found = request.metadata.get(key)
    return found() if found else ""


ABOUT: dict[str, tuple[int, Callable[..., Any]]] = {
    "bufsize": (0, lambda r: r.bufsize),
    "class": (0, lambda r: codes.class_name(r.qclass)),
    "client_ip": (0, lambda r: r.client[0]),
    "do": (0, lambda r: r.do),
    "id": (0, lambda r: r.message.id),
    "incidr": (2, lambda r, ip, cidr: _in_cidr(ip, cidr)),
    "metadata": (1, _metadata),
    "name": (0, lambda r: r.name),
    "opcode": (0, lambda r: r.message.opcode),
    "port": (0, lambda r: str(r.client[1])),
    "proto": (0, lambda r: r.network),
    "server_ip": (0, lambda r: r.local[0]),
    "server_port": (0, lambda r: str(r.local[1])),
    "size": (0, lambda r: r.size),
    "type": (0, lambda r: codes.type_name(r.qtype)),
}
"""Functions of a request: how many arguments, and what they do."""


def text(value: Any) -> str:
    """How Go prints a value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "<nil>" if value is None else str(value)


def _split(whole: str, at: str, most: int = -1) -> list[str]:
    if not at:
        return list(whole)
    return whole.split(at, most - 1 if most > 0 else -1)


def _flat(values: Sequence[Any]) -> list[Any]:
    return [item for v in values for item in (v if isinstance(v, list) else [v])]


PLAIN: dict[str, tuple[range, Callable[..., Any]]] = {
    "abs": (range(1, 2), abs),
    "first": (range(1, 2), lambda v: v[0] if v else None),
    "float": (range(1, 2), float),
    "hasPrefix": (range(2, 3), lambda v, p: v.startswith(p)),
    "hasSuffix": (range(2, 3), lambda v, p: v.endswith(p)),
    "indexOf": (range(2, 3), lambda v, p: v.find(p)),
    "int": (range(1, 2), int),
    "join": (range(1, 3), lambda v, between="": between.join(v)),
    "last": (range(1, 2), lambda v: v[-1] if v else None),
    "lastIndexOf": (range(2, 3), lambda v, p: v.rfind(p)),
    "len": (range(1, 2), len),
    "lower": (range(1, 2), str.lower),
    "max": (range(1, 99), lambda *v: max(_flat(v))),
    "min": (range(1, 99), lambda *v: min(_flat(v))),
    "repeat": (range(2, 3), lambda v, n: v * n),
    "replace": (range(3, 4), str.replace),
    "split": (range(2, 4), _split),
    "string": (range(1, 2), text),
    "trim": (range(1, 3), lambda v, what=None: v.strip(what)),
    "trimPrefix": (range(1, 3), lambda v, what=" ": v.removeprefix(what)),
    "trimSuffix": (range(1, 3), lambda v, what=" ": v.removesuffix(what)),
    "upper": (range(1, 2), str.upper),
}
"""Functions of values: how many arguments, and what they do."""

Test = Callable[[Any], Any]

OVER: dict[str, Callable[[Test, Sequence[Any]], Any]] = {
    "all": lambda test, items: all(test(i) is True for i in items),
    "any": lambda test, items: any(test(i) is True for i in items),
    "count": lambda test, items: sum(test(i) is True for i in items),
    "filter": lambda test, items: [i for i in items if test(i) is True],
    "find": lambda test, items: next((i for i in items if test(i) is True), None),
    "map": lambda test, items: [test(i) for i in items],
    "none": lambda test, items: not any(test(i) is True for i in items),
    "one": lambda test, items: sum(test(i) is True for i in items) == 1,
}
"""Functions of a list and of a condition on its items, which is written ``{# > 1}``."""
