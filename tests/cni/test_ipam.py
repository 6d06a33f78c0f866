"""Which address a pod gets."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubewire.cni import ipam
from kubewire.cni.ipam import ExhaustedError, IpamError, Leases, Range, RangeSet


def taken(sets: tuple[RangeSet, ...], count: int, leases: Leases) -> list[str]:
    found = []
    for number in range(count):
        choice = ipam.choose(sets, leases)
        leases.take(f"pod{number}", choice)
        found.append(" ".join(map(str, choice.addresses)))
    return found


@pytest.mark.parametrize(
    ("ranges", "first"),
    [
        ([Range.of("10.1.0.0/29")], ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]),
        ([Range.of("10.1.0.0/29", gateway="10.1.0.3")], ["10.1.0.1", "10.1.0.2", "10.1.0.4"]),
        ([Range.of("10.1.0.0/24", start="10.1.0.9", end="10.1.0.10")], ["10.1.0.9", "10.1.0.10"]),
        ([Range.of("10.1.0.0/24", exclude=["10.1.0.0/28", "10.1.0.17/32"])], ["10.1.0.16", "10.1.0.18"]),
        ([Range.of("fd00::/64")], ["fd00::2", "fd00::3"]),
        (
            [
                Range.of("10.1.0.0/24", start="10.1.0.9", end="10.1.0.10"),
                Range.of("10.2.0.0/24", start="10.2.0.9", end="10.2.0.10"),
            ],
            ["10.1.0.9", "10.1.0.10", "10.2.0.9", "10.2.0.10"],
        ),
    ],
)  # fmt: skip
def test_order(ranges: list[Range], first: list[str]) -> None:
    assert taken((tuple(ranges),), len(first), Leases()) == first


def test_a_pod_gets_one_address_of_every_set() -> None:
    sets = ipam.range_sets(["10.244.1.0/24", "fd00:1::/64"])
    assert taken(sets, 2, Leases()) == ["10.244.1.2 fd00:1::2", "10.244.1.3 fd00:1::3"]


def test_a_freed_address_rests_until_all_others_were_given() -> None:
    sets = ipam.range_sets(["10.1.0.0/29"])
    leases = Leases()
    assert taken(sets, 2, leases) == ["10.1.0.2", "10.1.0.3"]
    leases.drop("pod0")
    assert taken(sets, 4, leases) == ["10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.2"]


def test_exhaustion_names_the_range() -> None:
    sets = ipam.range_sets(["10.1.0.0/30"])
    leases = Leases()
    assert ipam.free(sets, leases.owners) == 1
    taken(sets, 1, leases)
    assert ipam.free(sets, leases.owners) == 0
    with pytest.raises(ExhaustedError, match=r"no address is free in 10\.1\.0\.1-10\.1\.0\.2"):
        ipam.choose(sets, leases)


def test_a_requested_address_is_given_and_does_not_move_the_turn() -> None:
    sets = ipam.range_sets(["10.1.0.0/24"])
    leases = Leases()
    leases.take("static", ipam.choose(sets, leases, [ip_address("10.1.0.99")]))
    assert leases.addresses["static"] == (ip_address("10.1.0.99"),)
    assert taken(sets, 1, leases) == ["10.1.0.2"]


def test_two_requests_of_one_set_are_both_named() -> None:
    wanted = [ip_address("10.1.0.9"), ip_address("10.1.0.7")]
    with pytest.raises(IpamError) as caught:
        ipam.choose(ipam.range_sets(["10.1.0.0/24"]), Leases(), wanted)
    assert str(caught.value) == (
        "requested address 10.1.0.7: 10.1.0.9 is requested, too, and 10.1.0.1-10.1.0.254 gives one address only"
    )


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("10.1.0.50", "requested address 10.1.0.50: is held by other"),
        ("10.9.0.1", r"requested address 10.9.0.1: is not in any range (10.1.0.1-10.1.0.254)"),
        ("10.1.0.1", r"requested address 10.1.0.1: is the gateway of 10.1.0.0/24"),
        (
            "10.1.0.17",
            r"requested address 10.1.0.17: is in 10.1.0.16/28, which 10.1.0.1-10.1.0.254 leaves out",
        ),
        ("fd00::1", r"requested address fd00::1: is not in any range (10.1.0.1-10.1.0.254)"),
    ],
)
def test_a_request_that_cannot_be_met(wanted: str, text: str) -> None:
    sets = [(Range.of("10.1.0.0/24", exclude=["10.1.0.16/28"]),)]
    leases = Leases()
    leases.take("other", ipam.choose(sets, leases, [ip_address("10.1.0.50")]))
    with pytest.raises(IpamError) as caught:
        ipam.choose(sets, leases, [ip_address(wanted)])
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"subnet": "10.1.0.5/24"}, "subnet '10.1.0.5/24': 10.1.0.5/24 has host bits set"),
        ({"subnet": "nonsense"}, "subnet 'nonsense'"),
        ({"subnet": "10.1.0.0/31"}, "subnet 10.1.0.0/31: too small"),
        ({"subnet": "127.5.0.0/24"}, "subnet 127.5.0.0/24: overlaps 127.0.0.0/8, which is not"),
        ({"subnet": "0.0.0.0/0"}, "subnet 0.0.0.0/0: overlaps 0.0.0.0/8, which is not"),
        ({"subnet": "ff05::/64"}, "subnet ff05::/64: overlaps ff00::/8, which is not"),
        ({"subnet": "::ffff:a00:0/120"}, "subnet ::ffff:a00:0/120: overlaps ::ffff:"),
        ({"subnet": "10.1.0.0/24", "start": "10.2.0.1"}, "rangeStart 10.2.0.1: is not in subnet"),
        ({"subnet": "10.1.0.0/24", "end": "x"}, "rangeEnd 'x'"),
        ({"subnet": "10.1.0.0/24", "gateway": "fd00::1"}, "gateway fd00::1: is not in subnet"),
        ({"subnet": "10.1.0.0/24", "exclude": ["10.1.0.0/33"]}, "exclude '10.1.0.0/33'"),
        (
            {"subnet": "10.1.0.0/24", "start": "10.1.0.9", "end": "10.1.0.8"},
            "rangeStart 10.1.0.9: is after rangeEnd 10.1.0.8",
        ),
    ],
)
def test_a_wrong_range_names_its_field(options: dict[str, str], text: str) -> None:
    with pytest.raises(IpamError) as caught:
        Range.of(**options)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("sets", "text"),
    [
        ([], "ranges: at least one range is required"),
        ([()], "ranges[0]: is empty"),
        ([(Range.of("10.1.0.0/24"), Range.of("fd00::/64"))], "ranges[0]: mixes IPv4 and IPv6"),
        (
            [(Range.of("10.1.0.0/24"),), (Range.of("10.1.0.128/25"),)],
            "ranges[1]: 10.1.0.129-10.1.0.254 overlaps 10.1.0.1-10.1.0.254",
        ),
    ],
)
def test_wrong_sets(sets: list[RangeSet], text: str) -> None:
    with pytest.raises(IpamError) as caught:
        ipam.check(sets)
    assert str(caught.value) == text


@given(
    st.integers(25, 30),
    st.lists(st.integers(0, 127), max_size=6),
    st.integers(0, 127),
)
def test_size_is_the_number_of_addresses_that_can_be_given(
    prefix: int, excluded: list[int], gateway: int
) -> None:
    subnet = f"10.0.0.0/{prefix}"
    inside = gateway % (1 << (32 - prefix))
    one = Range.of(subnet, exclude=[f"10.0.0.{x}/32" for x in excluded], gateway=f"10.0.0.{inside}")
    given_out = taken(((one,),), one.size, Leases())
    assert len(set(given_out)) == one.size
    assert all(ip_address(text) in one for text in given_out)
    leases = Leases()
    taken(((one,),), one.size, leases)
    with pytest.raises(ExhaustedError):
        ipam.choose(((one,),), leases)
