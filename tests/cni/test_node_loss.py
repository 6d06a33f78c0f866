"""Nodes come, go and change their podCIDRs while pods of the other nodes talk to one another."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cni.lab import Lab, node
from kubewire.kernel import netns
from kubewire.kernel.routes import PROTOCOL_KUBEWIRE

pytestmark = pytest.mark.kernel


class Talk:
    """One pod asks another without a pause; a question that gets no answer is counted."""

    def __init__(self, lab: Lab, source: str, target: str, ip: str) -> None:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self.answered = 0
        self.lost: list[str] = []
        self._server = netns.socket_in(lab.pods[target], family, socket.SOCK_DGRAM)
        self._server.bind((ip, 0))
        self._client = netns.socket_in(lab.pods[source], family, socket.SOCK_DGRAM)
        self._client.connect(self._server.getsockname()[:2])
        self._client.settimeout(10)
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=work) for work in (self._answer, self._ask)]
        for thread in self._threads:
            thread.start()

    def _answer(self) -> None:
        while data := self._server.recvfrom(64):
            if data[0] == b"end":
                return
            self._server.sendto(data[0], data[1])

    def _ask(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            answer, why = b"", ""
            try:
                self._client.send(b"%d" % number)
                answer = self._client.recv(64)
            except OSError as error:
                why = str(error)
            with self._changed:
                if answer == b"%d" % number:
                    self.answered += 1
                else:
                    self.lost.append(f"{number}: {why or answer}")
                self._changed.notify_all()

    def wait_for_more(self, count: int) -> None:
        """Return after that many further answers."""
        with self._changed:
            goal = self.answered + count
            self._changed.wait_for(lambda: self.answered >= goal or self.lost)

    def close(self) -> None:
        self._over.set()
        self._threads[1].join()
        self._client.send(b"end")
        self._threads[0].join()
        self._client.close()
        self._server.close()


@contextmanager
def talking(lab: Lab, ips: tuple[str, ...]) -> Iterator[list[Talk]]:
    talks = [Talk(lab, "a", "b", ip) for ip in ips]
    try:
        yield talks
    finally:
        for talk in talks:
            talk.close()


@pytest.mark.parametrize("mode", ["host-gw", "vxlan", "auto"])
async def test_other_nodes_do_not_notice(lab: Lab, mode: str) -> None:
    networks = [lab.network(0), lab.network(1)]
    results = [await n.add(lab.request(uid)) for n, uid in zip(networks, "ab", strict=True)]
    tables = [lab.table(number, mode) for number in (0, 1)]
    for table in tables:
        table.apply([node(0), node(1)])
    netlink = lab.netlink(0)

    def destinations() -> set[str]:
        found = [r for r in netlink.routes() if r.protocol == PROTOCOL_KUBEWIRE and r.via]
        return {str(r.destination) for r in found} - {"10.244.1.0/24", "fd00:1::/64"}

    steps = [
        ([node(2)], {"10.244.2.0/24", "fd00:2::/64"}),
        ([node(2, cidrs=["10.244.9.0/24", "fd00:9::/64"])], {"10.244.9.0/24", "fd00:9::/64"}),
        ([node(2), node(3)], {"10.244.2.0/24", "fd00:2::/64", "10.244.3.0/24", "fd00:3::/64"}),
        ([node(3)], {"10.244.3.0/24", "fd00:3::/64"}),
        ([node(3, cidrs=["10.244.1.0/25"])], set()),
        ([], set()),
    ]
    with talking(lab, results[1].ips) as talks:
        for others, expected in steps:
            for talk in talks:
                talk.wait_for_more(20)
            for table in tables:
                table.apply([node(0), node(1), *others])
            assert destinations() == expected
        for talk in talks:
            talk.wait_for_more(20)
            assert (talk.lost, talk.answered >= 20 * len(steps)) == ([], True)
    for network in networks:
        await network.close()


@pytest.mark.parametrize("mode", ["host-gw", "vxlan", "auto"])
async def test_new_ranges_of_the_node_itself_are_followed(lab: Lab, mode: str) -> None:
    """The node's own Node goes and comes back with other ranges: its device follows."""
    table, netlink = lab.table(0, mode), lab.netlink(0)
    table.apply([node(0), node(1)])
    table.apply([node(1)])
    table.apply([node(0, cidrs=["10.244.7.0/24", "fd00:7::/64"]), node(1)])
    ways = {str(r.destination) for r in netlink.routes() if r.protocol == PROTOCOL_KUBEWIRE}
    assert {"10.244.1.0/24", "fd00:1::/64"} <= ways
    if mode == "vxlan":
        index = netlink.index("kw-vxlan")
        held = {str(a.address) for a in netlink.addresses() if a.index == index}
        assert held == {"10.244.7.0/32", "fd00:7::/128"}
