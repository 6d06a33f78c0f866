from kubewire.lang.ipvs.connections import Connection, parse

TABLE = """\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0AF40009 9C40 0A600001 0050 0AF40001 1F90 ESTABLISHED     899
TCP 0AF40009 0000 0A600001 0050 0AF40001 1F90 NONE          10799
UDP [fd00:0000:0000:0000:0000:0000:0000:0009] 9C40 [fd00:0000:0000:0000:0000:0000:0000:0001] 0035 [fd00:0000:0000:0000:0000:0000:0000:0002] 0035 UDP             299
"""


def test_every_kind_of_entry() -> None:
    tcp, template, udp = parse(TABLE.splitlines())
    assert tcp == Connection(
        "TCP", "10.244.0.9", 40000, "10.96.0.1", 80, "10.244.0.1", 8080, "ESTABLISHED", 899
    )
    assert (tcp.template, template.template) == (False, True)
    assert (udp.client, udp.destination, udp.destination_port) == ("fd00::9", "fd00::2", 53)
