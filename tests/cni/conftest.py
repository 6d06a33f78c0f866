"""The lab of two nodes; the plugins as installed programs."""

import contextlib
from collections.abc import Iterator

import pytest

from cni.lab import Lab
from cni.programs import MAIN
from cni.runtime import BIN, REFERENCE, SOCKET, Runtime, agent
from kubewire.cni import install
from kubewire.kernel import namespaces


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


@pytest.fixture
def machine() -> None:
    """What plugins keep below /var/lib stays in the sandbox."""
    namespaces.mount_tmpfs("/var/lib")


@pytest.fixture(params=["compiled", "perl", "standalone"])
def runtime(machine: None, request: pytest.FixtureRequest) -> Iterator[Runtime]:
    compiler = {"compiled": "cc", "perl": ""}.get(request.param)
    alone = request.param == "standalone"
    install.install_programs(BIN, socket=SOCKET, standalone=alone, compiler=compiler)
    with contextlib.nullcontext() if alone else agent():
        yield Runtime([MAIN], [BIN, REFERENCE])


@pytest.fixture
def served(machine: None) -> Iterator[Runtime]:
    install.install_programs(BIN, socket=SOCKET, compiler="")
    with agent():
        yield Runtime([MAIN], [BIN, REFERENCE])
