"""A table larger than an ordinary user's send buffer is loaded beside the old one, then switched."""

import socket

import pytest

from kubewire.api.meta import Key
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kubeproxy.backends.nftables.proxier import NAMES, NftablesProxier
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import plan
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.topology import NodeView
from tests.kubeproxy.rows import service, slice_

pytestmark = pytest.mark.kernel


def changes(count: int) -> list[Change]:
    services = [service(f"s{i}", f"10.96.{i >> 8}.{i & 255}") for i in range(1, count + 1)]
    slices = [
        slice_(*(f"10.244.{i & 255}.{j}@node-a" for j in range(10)), of=f"s{i}")
        for i in range(1, count + 1)
    ]
    table = plan(services, slices, NodeView("node-a", ("192.0.2.1",)), Config())
    return [Change(key, None, frontend) for key, frontend in table.frontends.items()]


def test_it_is_switched_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # What many machines allow: net.core.wmem_max = 212992.
    original = socket.socket.setsockopt

    def small(self: socket.socket, level: int, option: int, value: int) -> None:
        if level == socket.SOL_SOCKET and option == 32:
            raise PermissionError
        limited = level == socket.SOL_SOCKET and option == socket.SO_SNDBUF
        original(self, level, option, min(value, 212992) if limited else value)

    monkeypatch.setattr(socket.socket, "setsockopt", small)
    proxier = NftablesProxier(Config())
    with Nfnetlink() as netlink:
        proxier.sync(changes(5), {})
        assert netlink.tables() == {NAMES[0]}
        many = changes(2000)
        for _ in range(2):  # The second time there is nothing to do.
            proxier.sync(many, {})
            assert netlink.tables() == {NAMES[1]}
        proxier.apply([Change(many[0].key, many[0].new, None)], {Key("ns", "s1"): ()})
        proxier.sync(changes(5), {})
        dump = proxier.dump()
        assert dump.actual == dump.desired
        assert len(netlink.tables()) == 1
    proxier.close()
