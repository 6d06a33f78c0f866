"""Which pod takes from which pool."""

from ipaddress import ip_address

import pytest

from kubewire.api.selectors import LabelSelector
from kubewire.cni import ipam
from kubewire.cni.ipam import IpamError, Leases, Range, RangeSet
from kubewire.cni.pools import Pod, Pool, Supply

DEFAULT = ipam.range_sets(["10.244.1.0/24", "fd00:1::/64"])


def ranges(*cidrs: str) -> tuple[RangeSet, ...]:
    return ipam.range_sets(cidrs)


BLUE = Pool("blue", ranges("10.50.0.0/28"), namespaces=frozenset({"team-a"}))
GREEN = Pool(
    "green",
    ranges("10.60.0.0/28", "fd60::/120"),
    selector=LabelSelector(match_labels={"tier": "db"}),
)
SUPPLY = Supply.of(DEFAULT, [BLUE, GREEN])


def first(pod: Pod, *wanted: str, supply: Supply = SUPPLY) -> list[str]:
    asked = [ip_address(text) for text in wanted]
    choice = ipam.choose(supply.sets_for(pod, asked), Leases(), asked)
    return [str(address) for address in choice.addresses]


@pytest.mark.parametrize(
    ("pod", "addresses"),
    [
        (Pod(), ["10.244.1.2", "fd00:1::2"]),
        (Pod("other"), ["10.244.1.2", "fd00:1::2"]),
        (Pod("team-a"), ["10.50.0.2", "fd00:1::2"]),
        (Pod("x", namespace_labels={"tier": "db"}), ["10.60.0.2", "fd60::2"]),
        (Pod("x", namespace_annotations={"kubewire.dev/ip-pool": "blue"}), ["10.50.0.2", "fd00:1::2"]),
        (Pod("team-a", {"kubewire.dev/ip-pool": "green"}), ["10.60.0.2", "fd60::2"]),
        (
            Pod("x", {"kubewire.dev/ip-pool": "green"}, {}, {"kubewire.dev/ip-pool": "blue"}),
            ["10.60.0.2", "fd60::2"],
        ),
    ],
)  # fmt: skip
def test_the_pod_goes_before_its_namespace_and_that_before_the_selectors(
    pod: Pod, addresses: list[str]
) -> None:
    assert first(pod) == addresses


def test_a_namespace_can_be_selected_by_the_label_of_its_name() -> None:
    pool = Pool("p", ranges("10.70.0.0/28"), selector=LabelSelector(match_labels={"kubernetes.io/metadata.name": "a"}))  # fmt: skip
    supply = Supply.of(DEFAULT, [pool])
    assert first(Pod("a"), supply=supply)[0] == "10.70.0.2"
    assert first(Pod("b"), supply=supply)[0] == "10.244.1.2"


def test_a_requested_address_comes_from_whichever_pool_holds_it() -> None:
    assert first(Pod("other"), "10.60.0.9") == ["10.60.0.9", "fd00:1::2"]
    assert first(Pod("team-a"), "10.244.1.9") == ["10.244.1.9", "fd00:1::2"]


def test_a_pool_inside_the_default_ranges_is_given_to_nobody_else() -> None:
    inside = Pool("inside", ((Range.of("10.244.1.0/24", start="10.244.1.2", end="10.244.1.9"),),))
    supply = Supply.of(DEFAULT, [inside])
    supply.check()
    assert first(Pod("x"), supply=supply)[0] == "10.244.1.10"
    assert first(Pod("x", {"kubewire.dev/ip-pool": "inside"}), supply=supply)[0] == "10.244.1.2"


def test_an_unknown_pool_is_named_with_where_it_was_asked_for() -> None:
    with pytest.raises(IpamError, match=r"^pod: metadata.annotations\[kubewire.dev/ip-pool\]: there is no pool 'red'"):  # fmt: skip
        first(Pod("x", {"kubewire.dev/ip-pool": "red"}))
    with pytest.raises(IpamError, match=r"^namespace x: "):
        first(Pod("x", namespace_annotations={"kubewire.dev/ip-pool": "red"}))


@pytest.mark.parametrize(
    ("pools", "text"),
    [
        ([BLUE, BLUE], "pools: name 'blue' is missing or there twice"),
        ([Pool("", ranges("10.1.0.0/28"))], "pools: name '' is missing"),
        ([BLUE, Pool("b", ranges("10.50.0.0/24"))], "pools[b].ranges[0]: 10.50.0.1-10.50.0.254 overlaps"),
        ([Pool("b", ((),))], "pools[b].ranges[0]: is empty"),
    ],
)  # fmt: skip
def test_wrong_pools(pools: list[Pool], text: str) -> None:
    with pytest.raises(IpamError) as caught:
        Supply.of(DEFAULT, pools).check()
    assert str(caught.value).startswith(text)


def test_pools_alone_are_enough() -> None:
    supply = Supply.of((), [BLUE])
    supply.check()
    assert supply.sets_for(Pod("other")) == ()
    assert list(supply.named_sets()) == [("blue", BLUE.sets[0])]
