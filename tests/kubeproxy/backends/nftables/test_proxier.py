import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubewire.api.meta import Key
from kubewire.kernel import sysctl
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kubeproxy.backends.nftables.compile import base_table, compile_frontend
from kubewire.kubeproxy.backends.nftables.proxier import NAMES, ROUTE_LOCALNET, NftablesProxier
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.config import read as read_config
from kubewire.kubeproxy.objects import read
from kubewire.kubeproxy.plan import Frontend, FrontendKey
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.trace import Tracer
from kubewire.lang.nftables.expressions import DROP
from kubewire.lang.nftables.model import Chain, Rule, Transaction
from tests.kubeproxy.table import CONFIG, FIXTURES, NODE, objects

pytestmark = pytest.mark.kernel

Frontends = dict[FrontendKey, Frontend]


def planned(fixture: str, config: Config) -> tuple[Frontends, dict[Key, tuple[str, ...]]]:
    found = Tracer(read((o, str) for o in objects(fixture)), config, NODE).plan
    addresses: dict[Key, tuple[str, ...]] = {}
    for ip, service in found.cluster_ips.items():
        addresses[service] = (*addresses.get(service, ()), ip)
    return found.frontends, addresses


@pytest.fixture
def config() -> Config:
    return read_config(CONFIG, "config")


@pytest.fixture
def proxier(config: Config) -> Iterator[NftablesProxier]:
    made = NftablesProxier(config, ["10.96.0.0/16"])
    yield made
    made.close()


def put(proxier: NftablesProxier, fixture: str, config: Config) -> Frontends:
    frontends, addresses = planned(fixture, config)
    proxier.sync([Change(k, None, f) for k, f in frontends.items()], addresses)
    return frontends


def test_the_kernel_takes_the_rules_whole_and_change_by_change(
    config: Config, proxier: NftablesProxier
) -> None:
    proxier.sync([], {})
    empty = proxier.dump()
    assert empty.actual == empty.desired
    for fixture in FIXTURES:
        frontends, addresses = planned(fixture, config)
        proxier.apply([Change(k, None, f) for k, f in frontends.items()], addresses)
        by_changes = proxier.dump()
        assert by_changes.actual == by_changes.desired, fixture
        proxier.sync([Change(k, None, f) for k, f in frontends.items()], addresses)
        assert proxier.dump() == by_changes, fixture
        gone = dict.fromkeys(addresses, ())
        proxier.apply([Change(k, f, None) for k, f in frontends.items()], gone)
        assert proxier.dump() == empty, f"{fixture}: something that nothing needs is left"
        assert not proxier.heal()


@pytest.mark.tool("nft")
def test_nft_can_list_every_rule(config: Config, proxier: NftablesProxier) -> None:
    for fixture in FIXTURES:
        put(proxier, fixture, config)
        for arguments in (["list", "ruleset"], ["-j", "list", "ruleset"]):
            found = subprocess.run(["nft", *arguments], check=True, capture_output=True, text=True)
            assert not fixture.startswith("sticky") or "affinity4" in found.stdout


def _an_element(name: str, frontends: Frontends, change: Transaction, config: Config) -> None:
    frontend = next(f for k, f in frontends.items() if k.port == 80)
    compiled = compile_frontend(frontend, config)
    one = base_table(config).sets["endpoints4"]
    key = next(iter(compiled.elements["endpoints4"]))
    change.delete_elements(name, one, {key: None})


def _a_strange_rule(name: str, frontends: Frontends, change: Transaction, config: Config) -> None:
    change.add_rules(name, Chain("nat-prerouting", (Rule((DROP,)),)))


def _a_strange_chain(name: str, frontends: Frontends, change: Transaction, config: Config) -> None:
    change.add_chain(name, Chain("strange"))


def _the_table(name: str, frontends: Frontends, change: Transaction, config: Config) -> None:
    change.delete_table(name)


def _a_change_of_others(
    name: str, frontends: Frontends, change: Transaction, config: Config
) -> None:
    change.add_table("another")


@pytest.mark.parametrize(
    ("harm", "seen"),
    [(_an_element, True), (_a_strange_rule, True), (_the_table, True), (_a_strange_chain, False)],
)
def test_a_quick_look_shows_what_packets_meet(
    harm: Callable[[str, Frontends, Transaction, Config], None],
    seen: bool,
    config: Config,
    proxier: NftablesProxier,
) -> None:
    frontends = put(proxier, "lb-ranges", config)
    proxier.apply([Change(k, f, None) for k, f in frontends.items()], {})
    proxier.apply([Change(k, None, f) for k, f in frontends.items()], {})
    assert proxier.intact()
    with Nfnetlink() as other:
        for change_of, whole in ((_a_change_of_others, True), (harm, not seen)):
            change = Transaction("inet")
            change_of(NAMES[0], frontends, change, config)
            other.commit(change)
            assert proxier.intact() is whole
        proxier.heal()
        assert proxier.intact()


@pytest.mark.parametrize("harm", [_an_element, _a_strange_rule, _a_strange_chain, _the_table])
def test_it_mends_what_others_change(
    harm: Callable[[str, Frontends, Transaction, Config], None],
    config: Config,
    proxier: NftablesProxier,
) -> None:
    frontends = put(proxier, "lb-ranges", config)
    change = Transaction("inet")
    change.add_table("foreign")
    harm(NAMES[0], frontends, change, config)
    with Nfnetlink() as other:
        other.commit(change)
        assert proxier.dump().actual != proxier.dump().desired
        assert proxier.heal()
        assert proxier.dump().actual == proxier.dump().desired
        assert not proxier.heal()
        assert "foreign" in other.tables(), "it touches no table of others"


def test_clear_removes_only_its_own(config: Config, proxier: NftablesProxier) -> None:
    put(proxier, "plain", config)
    with Nfnetlink() as other:
        change = Transaction("inet")
        change.add_table("foreign")
        other.commit(change)
        proxier.clear()
        assert other.tables() == {"foreign"}
        proxier.clear()


def test_an_agent_that_died_between_two_tables_does_not_cost_the_live_one(config: Config) -> None:
    """Killed after the second table was loaded and before the switch: the first is in force."""
    first = NftablesProxier(config)
    put(first, "plain", config)
    with Nfnetlink() as netlink:
        change = Transaction("inet")
        change.add_table(NAMES[1])
        change.add_chain(NAMES[1], Chain("half"))
        netlink.commit(change)
        second = NftablesProxier(config)
        second._netlink.fits = lambda _: False  # type: ignore[method-assign]
        second._netlink._room = 4096
        seen: list[set[str]] = []
        original = second._netlink.commit

        def commit(change: Transaction) -> None:
            original(change)
            seen.append(netlink.hooked() & set(NAMES))

        second._netlink.commit = commit  # type: ignore[method-assign]
        put(second, "plain", config)
        assert seen[-1] == {NAMES[1]}
        assert all(seen), "for a while no table was in force"
        assert netlink.tables() == {NAMES[1]}
    for one in (first, second):
        one.close()


def test_loopback_is_opened_with_a_guard_and_closed_again() -> None:
    config = read_config({**CONFIG, "nodePortAddresses": ["localhost"]}, "config")
    proxier = NftablesProxier(config)
    put(proxier, "nodeport", config)
    assert sysctl.read(ROUTE_LOCALNET) == "1"
    assert any("CVE-2020-8558" in line for line in proxier.dump().actual)
    Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("0")
    with Nfnetlink() as other:
        change = Transaction("inet")
        change.add_table("foreign")
        other.commit(change)
    assert proxier.heal()
    assert sysctl.read(ROUTE_LOCALNET) == "1"
    proxier.clear()
    assert sysctl.read(ROUTE_LOCALNET) == "0"
    proxier.close()


def test_hooks_for_source_ranges_are_there_with_the_first_one_only(
    config: Config, proxier: NftablesProxier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a restart, where the table of before is mended and not replaced."""

    def hooks() -> list[str]:
        return [line for line in proxier.dump().actual if line.startswith("chain firewall-")]

    put(proxier, "plain", config)
    assert hooks() == []
    monkeypatch.delattr(NftablesProxier, "_load")
    restarted = NftablesProxier(config, ["10.96.0.0/16"])
    put(restarted, "lb-ranges", config)
    assert len(hooks()) == 2
    put(restarted, "plain", config)
    assert hooks() == []
    restarted.close()
