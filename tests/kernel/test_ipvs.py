import subprocess

import pytest

from kubewire.kernel.ipvs import Ipvs, IpvsError, lacking
from kubewire.kernel.netlink import NetlinkError
from kubewire.lang.ipvs.model import (
    PORT_IN_HASH,
    DestinationKey,
    ServerKey,
    VirtualServer,
    apply,
    diff,
)
from kubewire.lang.ipvs.schedulers import SCHEDULERS

END, OTHER = DestinationKey("10.244.0.1", 8080), DestinationKey("10.244.0.2", 8080)
END6 = DestinationKey("fd00::1", 53)
PLAIN = VirtualServer(ServerKey(4, "10.96.0.1", "TCP", 80), "wrr", None, 0, {END: 1, OTHER: 3})


def servers(*found: VirtualServer) -> dict[ServerKey, VirtualServer]:
    return {server.key: server for server in found}


STATES = [
    servers(*(VirtualServer(ServerKey(4, f"10.96.1.{i}", "TCP", 80), s, None, 0, {END: 1}) for i, s in enumerate(SCHEDULERS))),
    servers(PLAIN, VirtualServer(ServerKey(6, "fd00:96::1", "UDP", 53), "mh", 60, PORT_IN_HASH, {END6: 0})),
    servers(
        VirtualServer(PLAIN.key, "rr", 10800, 0, {OTHER: 2}),
        VirtualServer(ServerKey(4, mark=0x4001), "lc", None, 0, {END: 65535}),
        VirtualServer(ServerKey(6, mark=0x4001), "lc", None, 0, {END6: 1}),
        VirtualServer(ServerKey(4, "10.96.0.1", "SCTP", 80)),
    ),
    {},
]  # fmt: skip


@pytest.mark.ipvs
def test_the_kernel_holds_what_it_was_told() -> None:
    ipvs = Ipvs()
    before: dict[ServerKey, VirtualServer] = {}
    for state in STATES:
        operations = diff(before, state)
        ipvs.commit(operations)
        assert ipvs.servers() == state == apply(before, operations)
        before = state
    ipvs.close()


@pytest.mark.ipvs
@pytest.mark.tool("ipvsadm")
@pytest.mark.parametrize("number", range(len(STATES)))
def test_ipvsadm_sees_the_same(number: int) -> None:
    ipvs = Ipvs()
    ipvs.commit(diff({}, STATES[number]))
    saved = subprocess.run(
        ["/usr/sbin/ipvsadm", "-S", "-n"], capture_output=True, text=True, check=True
    ).stdout
    ours = sorted(line for server in STATES[number].values() for line in server.lines())
    assert sorted(line.rstrip() for line in saved.splitlines()) == ours
    ipvs.close()


@pytest.mark.ipvs
def test_a_failure_names_what_failed_and_a_second_removal_is_fine() -> None:
    ipvs = Ipvs()
    operations = diff({}, servers(PLAIN))
    ipvs.commit(operations)
    with pytest.raises(NetlinkError, match=r"add virtual server -t 10.96.0.1:80: EEXIST"):
        ipvs.commit(operations)
    removal = diff(servers(PLAIN), {})
    ipvs.commit(removal)
    ipvs.commit(removal)
    ipvs.close()


@pytest.mark.ipvs
def test_timeouts_and_an_empty_table() -> None:
    ipvs = Ipvs()
    ipvs.set_timeouts(60, 0, 7)
    assert ipvs.timeouts() == (60, 120, 7)
    assert ipvs.connections() == []
    ipvs.close()


@pytest.mark.kernel
def test_without_the_privilege_the_error_says_what_helps() -> None:
    # In a user namespace; where the kernel has no IPVS at all, that is what it says.
    try:
        Ipvs().close()
    except IpvsError as error:
        assert "modprobe ip_vs" in str(error) or "run as root" in str(error)


def test_what_is_lacking_is_told_before_anything_is_tried() -> None:
    assert lacking() == "" or "modprobe ip_vs" in lacking() or "run as root" in lacking()
