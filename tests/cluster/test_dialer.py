"""Flows that are tried all at once: a late reader and a lost datagram are no denial."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubewire.cluster.dialer import Dial, Result, dial_all
from kubewire.kernel import netns
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.lang.nftables.expressions import DROP
from kubewire.lang.nftables.model import Chain, Rule, Table, replace

pytestmark = pytest.mark.kernel

PODS = Path("/run/netns/pods")
ADDRESS = "127.0.0.1"


@pytest.fixture
def pods() -> Iterator[None]:
    netns.create(PODS)
    yield
    netns.delete(PODS)


def dial(port: int, protocol: str = "TCP") -> Dial:
    return Dial(str(PODS), ADDRESS, port, protocol)


def opened(kind: socket.SocketKind) -> socket.socket:
    with netns.entered(PODS):
        made = socket.socket(socket.AF_INET, kind)
    made.bind((ADDRESS, 0))
    return made


@pytest.mark.usefixtures("pods")
def test_what_stood_in_time_counts_however_many_are_read_late() -> None:
    with opened(socket.SOCK_STREAM) as server:
        server.listen(4096)
        found = dial_all([dial(server.getsockname()[1])] * 1500, 0.0)
    assert {(r.ok, r.error) for r in found} == {(True, None)}


@pytest.mark.usefixtures("pods")
def test_a_datagram_may_be_lost_once() -> None:
    asked: list[bytes] = []

    def serve(server: socket.socket) -> None:
        asked.append(server.recv(100))
        again, client = server.recvfrom(100)
        asked.append(again)
        server.sendto(b'{"namespace": "x", "pod": "a"}', client)

    with opened(socket.SOCK_DGRAM) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        (found,) = dial_all([dial(server.getsockname()[1], "UDP")], 2.0)
        thread.join()
    assert (found.ok, found.answered_by) == (True, "x/a")
    assert asked[0] == asked[1]


@pytest.mark.usefixtures("pods")
def test_refused_and_unanswered_flows_say_so() -> None:
    with opened(socket.SOCK_DGRAM) as silent, opened(socket.SOCK_STREAM) as closed:
        flows = [dial(closed.getsockname()[1]), dial(silent.getsockname()[1], "UDP")]
        assert dial_all(flows, 0.1) == [
            Result(error="connection refused"),
            Result(error="timed out"),
        ]


@pytest.mark.usefixtures("pods")
def test_a_datagram_that_its_own_node_drops_is_an_answer() -> None:
    """A policy or a Service without endpoints, met by a pod of the host's network."""
    output = Chain("output", (Rule((DROP,)),), "filter", "output", 0)
    with Nfnetlink(PODS) as kernel, opened(socket.SOCK_DGRAM) as server:
        kernel.commit(replace(Table("t", "inet", {}, {"output": output})))
        found = dial_all([dial(server.getsockname()[1], "UDP")], 0.1)
    assert found == [Result(error="operation not permitted")]
