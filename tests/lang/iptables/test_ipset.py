import pytest

from kubewire.lang.iptables.ipset import PLAIN, IpSet, Options, bitmap_port, difference, parse
from kubewire.lang.packet import Packet

PACKET = Packet("10.0.0.1", "10.96.0.1", "tcp", 40000, 80, "veth1", "eth0")


def made(kind: str, *elements: str, family: int = 4) -> IpSet:
    """``!`` before an element: nomatch."""
    found = {e.lstrip("!"): Options(nomatch=True) if e.startswith("!") else PLAIN for e in elements}
    return IpSet("s", kind, found, family)


@pytest.mark.parametrize(
    ("one", "directions", "found"),
    [
        (made("hash:ip", "10.0.0.1"), ("src",), True),
        (made("hash:ip", "10.0.0.1"), ("dst",), False),
        (made("hash:net", "10.0.0.0/8"), ("src",), True),
        (made("hash:net", "10.0.0.0/8", "!10.0.0.0/24"), ("src",), False),
        (made("hash:net", "10.0.0.0/8", "!10.0.0.0/24", "10.0.0.1"), ("src",), True),
        (made("hash:net", "10.0.0.0/8", "!10.0.0.0/24"), ("dst",), True),
        (made("hash:ip,port", "10.96.0.1,tcp:80"), ("dst", "dst"), True),
        (made("hash:ip,port", "10.96.0.1,udp:80"), ("dst", "dst"), False),
        (made("hash:ip,port", "10.0.0.1,tcp:40000"), ("src", "src"), True),
        (made("hash:ip,port,ip", "10.96.0.1,tcp:80,10.0.0.1"), ("dst", "dst", "src"), True),
        (made("hash:ip,port,ip", "10.96.0.1,tcp:80,10.0.0.2"), ("dst", "dst", "src"), False),
        (made("hash:ip,port,net", "10.96.0.1,tcp:80,10.0.0.0/24"), ("dst", "dst", "src"), True),
        (made("hash:net,port", "10.0.0.0/8,tcp:80", "!10.96.0.0/12,tcp:80"), ("dst", "dst"), False),
        (made("hash:net,port", "10.0.0.0/8,tcp:80", "!10.96.0.0/12,tcp:81"), ("dst", "dst"), True),
        (made("hash:net,iface", "10.0.0.0/8,veth1"), ("src", "src"), True),
        (made("hash:ip", "fd00::1", family=6), ("src",), False),
        (bitmap_port("p", [80, 443]), ("dst",), True),
        (bitmap_port("p", [443]), ("dst",), False),
    ],
    ids=lambda v: ",".join(v.elements) if isinstance(v, IpSet) else "",
)
def test_look_up(one: IpSet, directions: tuple[str, ...], found: bool) -> None:
    assert one.has(PACKET, directions) is found


def test_protocols_without_ports_are_in_no_set_of_ports() -> None:
    assert not bitmap_port("p", [0]).has(Packet("10.0.0.1", "10.0.0.2", "icmp"), ("dst",))


def test_sets_of_other_kinds_say_so() -> None:
    with pytest.raises(ValueError, match="list:set"):
        made("list:set").has(PACKET, ("src",))


def test_a_listing_is_read_back() -> None:
    sets = {
        "a": IpSet("a", "hash:net", {"10.0.0.0/8": PLAIN, "10.1.0.0/16": Options(nomatch=True)}),
        "b": IpSet("b", "hash:ip,port", {"fd00::1,tcp:80": Options(comment="it is")}, 6, comments=True),
        "c": IpSet("c", "hash:ip", {"10.0.0.1": Options(timeout=5)}, timeout=60, max_elements=9),
        "d": bitmap_port("d", [1, 2]),
    }  # fmt: skip
    assert parse("".join(s.render() for s in sets.values())) == sets


def test_what_the_kernel_chooses_is_not_compared() -> None:
    line = (
        "create a hash:ip family inet hashsize 2048 maxelem 65536 bucketsize 12 initval 0x9b99a792"
    )
    assert parse(line) == {"a": IpSet("a", "hash:ip")}


def test_difference() -> None:
    old = {"s": made("hash:net", "10.0.0.0/8", "11.0.0.0/8"), "gone": bitmap_port("gone", [])}
    new = {"s": made("hash:net", "!11.0.0.0/8", "12.0.0.0/8"), "t": bitmap_port("t", [1])}
    assert list(difference(old, new)) == [
        "del s 10.0.0.0/8",
        "del s 11.0.0.0/8",
        "add s 11.0.0.0/8 nomatch",
        "add s 12.0.0.0/8",
        "create t bitmap:port range 0-65535",
        "add t 1",
        "destroy gone",
    ]


def test_another_kind_is_swapped_in() -> None:
    lines = list(difference({"s": made("hash:ip")}, {"s": made("hash:net", "10.0.0.0/8")}))
    assert lines == [
        "create s-new hash:net family inet maxelem 65536",
        "add s-new 10.0.0.0/8",
        "swap s-new s",
        "destroy s-new",
    ]
