import pytest

from kubewire.lang.ipvs.listing import Entry, entries, parse
from kubewire.lang.ipvs.model import DestinationKey, ServerKey, VirtualServer

HEAD = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
"""
ONE, SIX = DestinationKey("10.244.0.1", 8080), DestinationKey("fd00::9", 53)


@pytest.mark.parametrize(
    ("server", "printed"),
    [
        (
            VirtualServer(ServerKey(4, "10.96.0.1", "TCP", 80), "rr", 10800, 0, {ONE: 3}),
            "TCP  0A600001:0050 rr persistent 10800 FFFFFFFF\n"
            "  -> 0AF40001:1F90      Masq    3      7          12\n",
        ),
        (
            VirtualServer(ServerKey(6, "fd00::1", "UDP", 53), destinations={SIX: 1}),
            "UDP  [fd00:0000:0000:0000:0000:0000:0000:0001]:0035 rr\n"
            "  -> [fd00:0000:0000:0000:0000:0000:0000:0009]:0035      Masq    1      0          0\n",
        ),
        (
            VirtualServer(ServerKey(4, mark=0x1F), destinations={ONE: 0}),
            "FWM  0000001F rr\n  -> 0AF40001:1F90      Masq    0      0          0\n",
        ),
        (VirtualServer(ServerKey(4, "10.96.0.2", "SCTP", 80)), "SCTP 0A600002:0050 rr\n"),
    ],
)
def test_what_is_printed_is_what_is_meant(server: VirtualServer, printed: str) -> None:
    found = [*parse((HEAD + printed).splitlines())]
    assert found == [*entries(server)]
    assert found[0] == Entry(found[0].server)
