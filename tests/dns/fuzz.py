"""Fuzz everything that reads octets or text from outside, guided by coverage (atheris, libFuzzer).

``make fuzz`` runs it for a minute; arguments go to libFuzzer (``-runs=N``, ``-max_total_time=S``,
folders of a corpus). The first octet of an input chooses what the rest is thrown at.
"""

import contextlib
import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["kubewire.dns", "kubewire.lang.dns"]):
    from tests.dns.target import check_codec, check_server

    from kubewire.api.errors import InputError
    from kubewire.dns import zonefile
    from kubewire.dns.config import Environment, build
    from kubewire.dns.transport import doh, grpc, quic


def _corefile(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    try:
        build(text, "Corefile", Environment(variables={}, objects=[]))
    except InputError:
        return


def _zone(data: bytes) -> None:
    try:
        zonefile.parse(data.decode(errors="replace"), "example.org.")
    except ValueError:
        return


def _encrypted(data: bytes) -> None:
    for verb, path in (("POST", "/dns-query"), ("GET", data.decode("latin-1"))):
        with contextlib.suppress(doh.NotAQuestionError):
            doh.message_of(verb, path, data)
    quic.acceptable(data)
    try:
        assert grpc.unwrap(data) in data
    except grpc.BadFrameError:
        return


TARGETS: tuple[Callable[[bytes], None], ...] = (
    lambda data: check_server(data, "udp"),
    lambda data: check_server(data, "tcp"),
    check_codec,
    _encrypted,
    _corefile,
    _zone,
)


def _one(data: bytes) -> None:
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, _one)
    atheris.Fuzz()
