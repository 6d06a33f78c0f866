"""What both fuzzers (Hypothesis in test_fuzz.py, atheris in fuzz.py) throw octets at."""

import asyncio
import inspect
import logging
from typing import Any

from kubewire.dns.config import Environment, build
from kubewire.dns.dispatch import Dispatcher
from kubewire.lang.dns.message import WireError, encode, parse
from kubewire.lang.dns.name import BadNameError

OBJECTS: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "big", "namespace": "default"}, "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "out", "namespace": "default"}, "spec": {"type": "ExternalName", "externalName": "out.default.svc.cluster.local"}},
    {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": {"name": "big-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "big"}}, "endpoints": [{"addresses": [f"10.244.0.{i}"]} for i in range(1, 120)], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
]  # fmt: skip
COREFILE = """.:53 {
    errors
    log
    prometheus
    nsid
    any
    chaos
    local
    loadbalance
    cache
    rewrite name suffix .old.local. .cluster.local. answer auto
    header {
        response set ra
    }
    template ANY ANY example. {
        answer "{{ .Name }} 60 IN TXT \\"{{ .Name }}\\""
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
    }
    whoami
}
"""


class _Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


def _dispatcher() -> Dispatcher:
    [(at, blocks)] = build(COREFILE, "Corefile", Environment(objects=OBJECTS)).listeners().items()
    return Dispatcher(at, blocks)


DNS = _dispatcher()
ERRORS = _Errors()
logging.getLogger("kubewire").addHandler(ERRORS)


async def answer(data: bytes, proto: str) -> Any:
    """What the server sends back."""
    found = DNS.receive(data, ("10.0.0.1", 4000), ("10.0.0.2", 53), proto)
    return await found if inspect.isawaitable(found) else found


def check_server(data: bytes, proto: str) -> None:
    """No exception reaches a log; an answer belongs to its question, can be read, and fits."""
    ERRORS.seen.clear()
    found = asyncio.run(answer(data, proto))
    assert not ERRORS.seen
    if found is None:
        assert len(data) < 12 or data[2] & 0x80
        return
    for message in [found] if isinstance(found, bytes) else found:
        assert message[:2] == data[:2]
        assert message[2] & 0x80
        assert len(message) <= _room(data, proto)
        parse(message)


def check_codec(data: bytes) -> None:
    """What is parsed can be written, and says the same again."""
    try:
        message = parse(data)
    except WireError:
        return
    try:
        again = encode(message)
    except BadNameError:
        return
    assert parse(again).question == message.question


def _room(data: bytes, proto: str) -> int:
    if proto != "udp":
        return 65535
    try:
        edns = parse(data).edns
    except WireError:
        return 512
    return max(512, edns.size) if edns else 512
