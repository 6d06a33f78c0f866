"""What the proxier does to the kernel, and what it leaves alone."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from kubewire.api.meta import Key
from kubewire.api.service import EndpointSlice
from kubewire.kernel import netns, sysctl
from kubewire.kernel.iptables import VARIANTS, Iptables, IptablesError, run
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kernel.xtables import Tables
from kubewire.kubeproxy.backends.iptables.proxier import ROUTE_LOCALNET, IptablesProxier
from kubewire.kubeproxy.backends.nftables.proxier import NftablesProxier
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.config import read as read_config
from kubewire.kubeproxy.plan import Frontend, FrontendKey, plan
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.topology import NodeView
from kubewire.lang.iptables.change import Change as Rules
from kubewire.lang.iptables.entries import UnfitError
from kubewire.lang.iptables.parse import parse
from tests.kubeproxy.lab import _fixture, changes
from tests.kubeproxy.rows import service, slice_
from tests.kubeproxy.table import CONFIG, FIXTURES

pytestmark = [pytest.mark.kernel, pytest.mark.tool("iptables-nft", "iptables-legacy")]

Told = tuple[list[Change], dict[Key, tuple[str, ...]]]
THEIRS = [
    "*filter", ":THEIRS - [0:0]", ":KUBE-ROUTER-INPUT - [0:0]", "-A THEIRS -j DROP",
    "-A INPUT -i their0 -j THEIRS", "-A INPUT -j KUBE-ROUTER-INPUT", "COMMIT",
    "*nat", ":KUBE-HOSTPORTS - [0:0]", "-A PREROUTING -j KUBE-HOSTPORTS", "COMMIT",
]  # fmt: skip


@pytest.fixture
def config() -> Config:
    return replace(read_config(CONFIG, "config"), mode="iptables")


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def proxier(config: Config, variant: str) -> Iterator[IptablesProxier]:
    made = IptablesProxier(config, variant=variant)
    yield made
    made.close()


def told(fixture: str) -> Told:
    return changes(_fixture(fixture, "iptables"))


def listing(variant: str) -> str:
    """Everything, without what changes by itself."""
    texts = (Iptables(v, variant).save() for v in (4, 6))
    return "\n".join(line for t in texts for line in t.splitlines() if line[:1] != "#")


def _no_program(self: Iptables, lines: object) -> None:
    raise AssertionError("a single change needs no program")


def test_change_by_change_it_comes_to_the_same(
    proxier: IptablesProxier, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxier.sync([], {})
    empty = proxier.dump()
    assert empty.actual == empty.desired
    for fixture in FIXTURES:
        given, addresses = told(fixture)
        with monkeypatch.context() as alone:
            if variant == "legacy":
                alone.setattr(Iptables, "restore", _no_program)
            proxier.apply(given, addresses)
        by_changes = proxier.dump()
        assert by_changes.actual == by_changes.desired, fixture
        proxier.sync(given, addresses)
        assert proxier.dump() == by_changes, fixture
        proxier.apply([Change(c.key, c.new, None) for c in given], dict.fromkeys(addresses, ()))
        assert proxier.dump() == empty, f"{fixture}: something that nothing needs is left"
        assert not proxier.heal()


def counted(variant: str) -> dict[tuple[int, str], int]:
    """Rules in our chains, as the kernel lists them."""
    found: dict[tuple[int, str], int] = {}
    for version in (4, 6):
        table = ""
        for line in Iptables(version, variant).save().splitlines():
            table = line[1:] if line[:1] == "*" else table
            if table in ("nat", "filter"):
                found.setdefault((version, table), 0)
                found[version, table] += line.startswith("-A KUBE-")
    return found


def test_rules_are_counted(proxier: IptablesProxier, variant: str) -> None:
    proxier.sync(*told("plain"))
    for fixture in FIXTURES[::4]:
        given, addresses = told(fixture)
        proxier.apply(given, addresses)
        counts = {(c.version, c.table): c for c in proxier.rule_counts()}
        assert {place: c.total for place, c in counts.items()} == counted(variant), fixture
        before = {place: c.total for place, c in counts.items()}
        proxier.apply([Change(c.key, c.new, None) for c in given], dict.fromkeys(addresses, ()))
        assert not any(c.last for c in proxier.rule_counts())
        assert {(c.version, c.table): c.total for c in proxier.rule_counts()} == counted(variant)
        proxier.apply(given, addresses)
        for one in proxier.rule_counts():
            assert one.last <= before[one.version, one.table], fixture
        proxier.apply([Change(c.key, c.new, None) for c in given], dict.fromkeys(addresses, ()))


def test_one_changed_service_writes_only_what_differs(
    proxier: IptablesProxier, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, _ = told("lb-ranges")
    others = [c for f in ("plain", "nodeport") for c in told(f)[0]]
    proxier.sync([*others[:1], *given], {})
    written: list[str] = []
    restore = Iptables.restore

    def watched(self: Iptables, lines: Iterator[str]) -> None:
        kept = list(lines)
        written.extend(kept)
        restore(self, kept)

    def given_up(self: Tables, changes: Sequence[Rules]) -> None:
        written.extend(line for change in changes for line in change.lines())
        raise UnfitError("only looking")

    monkeypatch.setattr(Iptables, "restore", watched)
    monkeypatch.setattr(Tables, "apply", given_up)
    old = {c.key: c.new for c in given}
    fewer = plan_of(slice_("10.244.0.1@node-1", of="svc1", ports=[{"name": "p80", "port": 8080}]))
    proxier.apply([Change(k, old[k], f) for k, f in fewer.items() if k in old], {})
    chains = {line.split()[1] for line in written if line.startswith("-")}
    assert written, "an endpoint less is a change"
    assert not {"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-MARK-MASQ"} & chains
    dump = proxier.dump()
    assert dump.actual == dump.desired


@pytest.mark.parametrize("table", ["nat", "filter", "mangle"])
def test_a_quick_look_sees_a_flushed_table(config: Config, table: str) -> None:
    proxier = IptablesProxier(config, variant="nft")
    proxier.sync(told("lb-ranges")[0], {})
    Iptables(4, "nft").restore(THEIRS)
    assert proxier.intact(), "others may have rules"
    run(["iptables-nft", "-t", table, "-F"])
    run(["iptables-nft", "-t", table, "-X"])
    assert not proxier.intact()
    assert proxier.heal()
    assert proxier.intact()


@pytest.mark.parametrize("table", ["nat", "filter", "mangle"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("harm", [("-F",), ("-F", "-X")])
def test_a_quick_look_sees_that_a_legacy_table_has_shrunk(
    harm: tuple[str, ...], version: int, table: str, config: Config
) -> None:
    if harm == ("-F",) and table == "mangle":
        return  # nothing of ours is in there but an empty chain
    proxier = IptablesProxier(config, variant="legacy")
    proxier.sync(*told("lb-ranges"))
    assert proxier.intact()
    proxier.apply(told("sticky")[0], {})
    assert proxier.intact(), "our own changes are no harm"
    Iptables(version, "legacy").restore(THEIRS)
    assert proxier.intact(), "others may have rules"
    for option in harm:
        run([Iptables(version, "legacy").program(), "-t", table, option])
    assert not proxier.intact()
    assert proxier.heal()
    assert proxier.intact()
    proxier.close()


def test_what_cannot_be_written_here_the_program_writes(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unfit(self: Tables, changes: Sequence[Rules]) -> None:
        raise UnfitError("a form that nobody knows")

    proxier = IptablesProxier(config, variant="legacy")
    proxier.sync([], {})
    monkeypatch.setattr(Tables, "apply", unfit)
    with caplog.at_level("INFO"):
        proxier.apply(*told("sticky"))
    assert "written by iptables-legacy-restore: a form that nobody knows" in caplog.text
    dump = proxier.dump()
    assert dump.actual == dump.desired
    proxier.close()


def test_where_the_kernel_counts_changes_nothing_is_read_for_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxier = IptablesProxier(config, variant="nft")
    given, _ = told("lb-ranges")
    proxier.sync(given, {})
    proxier.apply([Change(c.key, c.new, None) for c in given], {})
    with monkeypatch.context() as blind:
        blind.delattr(Iptables, "save")
        assert not proxier.heal()
    Iptables(4, "nft").restore(THEIRS)
    proxier.apply(given, {})
    reads: list[int] = []
    save = Iptables.save
    monkeypatch.setattr(Iptables, "save", lambda self: reads.append(1) or save(self))
    assert not proxier.heal()
    assert len(reads) == 2, "somebody else has changed something: both families are read"
    assert not proxier.heal()
    assert len(reads) == 2


def test_legacy_tables_that_were_found_right_are_compared_as_bytes(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxier = IptablesProxier(config, variant="legacy")
    given, addresses = told("lb-ranges")
    proxier.sync(given, addresses)
    assert not proxier.heal(), "all of it is read once"
    with monkeypatch.context() as blind:
        blind.delattr(Iptables, "save")
        assert not proxier.heal()
        proxier.apply([Change(c.key, c.new, None) for c in given], {})
        proxier.apply(given, addresses)
        assert not proxier.heal()
    _a_rule(Iptables(4, "legacy"))
    proxier.apply(*told("sticky"))
    assert proxier.heal(), "the harm was there before our last change"
    dump = proxier.dump()
    assert dump.actual == dump.desired
    proxier.close()


def plan_of(piece: EndpointSlice) -> dict[FrontendKey, Frontend]:
    tracer = _fixture("lb-ranges", "iptables")
    meta = msgspec.structs.replace(piece.metadata, namespace="ns1")
    slices = [msgspec.structs.replace(piece, metadata=meta)]
    return plan(tracer.objects.services, slices, tracer.node, tracer.config).frontends


def _a_rule(programs: Iptables) -> None:
    chain = next(n for n in parse(programs.save("nat"))["nat"].chains if n.startswith("KUBE-SEP"))
    programs.restore(["*nat", f":{chain} - [0:0]", "COMMIT"])


def _a_strange_rule(programs: Iptables) -> None:
    programs.restore(["*nat", "-I KUBE-SERVICES -j RETURN", "COMMIT"])


def _a_strange_chain(programs: Iptables) -> None:
    programs.restore(["*nat", ":KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]", "COMMIT"])


def _an_entry(programs: Iptables) -> None:
    rule = parse(programs.save("nat"))["nat"].chains["KUBE-SERVICES"].rules[0]
    programs.restore(["*nat", f"-D KUBE-SERVICES {rule.render()}", "COMMIT"])


def _a_jump(programs: Iptables) -> None:
    rule = parse(programs.save("nat"))["nat"].chains["PREROUTING"].rules[0]
    programs.restore(["*nat", f"-D PREROUTING {rule.render()}", "COMMIT"])


def _everything(programs: Iptables) -> None:
    for table in ("nat", "filter", "mangle"):
        chains = parse(programs.save(table))[table].chains
        heads = [c.head() for c in chains.values()]
        lines = [f"-F {c}" for c in chains]
        gone = [f"-X {c.name}" for c in chains.values() if not c.policy]
        programs.restore([f"*{table}", *heads, *lines, *gone, "COMMIT"])


def test_it_opens_the_loopback_again(proxier: IptablesProxier) -> None:
    proxier.sync(*told("nodeport"))
    sysctl.write(ROUTE_LOCALNET, 0)
    assert proxier.heal()
    assert sysctl.read(ROUTE_LOCALNET) == "1"
    assert not proxier.heal()


HARMS = [_a_rule, _a_strange_rule, _a_strange_chain, _an_entry, _a_jump, _everything]


@pytest.mark.parametrize("harm", HARMS)
def test_it_mends_what_others_change(
    harm: Callable[[Iptables], None], proxier: IptablesProxier, variant: str
) -> None:
    proxier.sync(*told("lb-ranges"))
    before = listing(variant)
    assert not proxier.heal()
    harm(Iptables(4, variant))
    assert proxier.dump().actual != proxier.dump().desired
    assert proxier.heal()
    assert proxier.dump().actual == proxier.dump().desired
    assert sorted(listing(variant).splitlines()) == sorted(before.splitlines())
    assert not proxier.heal()


def test_rules_of_others_stay(proxier: IptablesProxier, variant: str) -> None:
    Iptables(4, variant).restore(THEIRS)
    proxier.sync(*told("lb-ranges"))
    assert "-A THEIRS -j DROP" in listing(variant)
    proxier.clear()
    found = parse(Iptables(4, variant).save())
    assert set(found["filter"].chains) == {
        "INPUT",
        "FORWARD",
        "OUTPUT",
        "THEIRS",
        "KUBE-ROUTER-INPUT",
    }
    assert len(found["filter"].chains["INPUT"].rules) == 2
    assert "KUBE-HOSTPORTS" in found["nat"].chains
    assert "KUBE-" not in Iptables(6, variant).save()


@pytest.mark.parametrize("kubelet", [False, True])
def test_clear_leaves_the_guard_to_a_kubelet(
    kubelet: bool, proxier: IptablesProxier, variant: str
) -> None:
    if kubelet:
        Iptables(4, variant).restore(["*mangle", ":KUBE-KUBELET-CANARY - [0:0]", "COMMIT"])
    proxier.sync(*told("nodeport"))
    assert sysctl.read(ROUTE_LOCALNET) == "1"
    proxier.clear()
    proxier.clear()
    assert ("KUBE-FIREWALL" in listing(variant)) is kubelet
    assert sysctl.read(ROUTE_LOCALNET) == str(int(kubelet))


def test_a_restart_writes_nothing(config: Config, proxier: IptablesProxier, variant: str) -> None:
    given, addresses = told("two-slices")
    more, _ = told("lb-ranges")
    proxier.sync([*given, *more], addresses)
    # Entries are now in another order than those of a fresh start.
    proxier.apply([Change(c.key, c.new, None) for c in more], {})
    proxier.apply([Change(c.key, None, c.new) for c in [*more, *given]], addresses)
    before = listing(variant)
    again = IptablesProxier(config, variant=variant)
    assert again._all(), "it asks the kernel by a write that changes nothing"
    with Nfnetlink() as netlink:
        generation = netlink.generation()
        again.sync([Change(c.key, None, c.new) for c in [*given, *more]], addresses)
        assert netlink.generation() == generation
    assert listing(variant) == before
    assert again.dump().actual == again.dump().desired
    again.close()


def test_more_than_a_section_holds(
    config: Config, proxier: IptablesProxier, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many Services, and one Service with more endpoints than one section takes."""
    monkeypatch.setattr(Iptables, "section", lambda self: 2000)
    services = [service(f"s{i}", f"10.96.1.{i}") for i in range(1, 40)]
    ends = [f"10.244.1.{i}@node-a" for i in range(1, 60)]
    slices = [slice_(*ends, of="s1"), *(slice_(ends[i], of=f"s{i}") for i in range(2, 40))]
    view = NodeView("node-a", ("192.0.2.1",))
    table = plan(services, slices, view, config).frontends
    proxier.sync([Change(k, None, f) for k, f in table.items()], {})
    dump = proxier.dump()
    assert dump.actual == dump.desired
    fewer = plan(services, [slice_(*ends[5:], of="s1"), *slices[1:]], view, config).frontends
    changed = [Change(k, f, fewer[k]) for k, f in table.items() if f != fewer[k]]
    assert len(changed) == 1
    proxier.apply(changed, {})
    dump = proxier.dump()
    assert dump.actual == dump.desired
    proxier.sync([], {})
    assert "KUBE-SEP" not in listing(variant)


def test_a_failure_leaves_it_to_the_next_sync(proxier: IptablesProxier, variant: str) -> None:
    given, addresses = told("plain")
    proxier.sync(given, addresses)
    _everything(Iptables(4, variant))
    with pytest.raises(IptablesError, match="restore"):
        proxier.apply([Change(c.key, c.new, None) for c in given], {})
    proxier.sync(given, addresses)
    assert proxier.dump().actual == proxier.dump().desired


# -- connections ----------------------------------------------------------------------------------


class Echo:
    """A server in a namespace behind a veth; a client in another one; the node between them."""

    def __init__(self, folder: Path) -> None:
        from ipaddress import ip_interface, ip_network

        from kubewire.kernel import links, routes
        from kubewire.kernel.routes import Route
        from kubewire.kernel.rtnetlink import RtNetlink

        self.paths = {"client": folder / "client", "server": folder / "server"}
        sysctl.write("net.ipv4.ip_forward", 1)
        for number, (name, path) in enumerate(self.paths.items()):
            netns.create(path)
            with netns.opened(path) as other, RtNetlink() as node:
                node.transact([links.add_veth(name, "eth0", peer_netns=other)])
                index = node.index(name)
                node.transact([links.set_link(index, up=True)])
                node.transact([routes.add_address(index, ip_interface(f"10.244.{number}.254/24"))])
            with netns.entered(path), RtNetlink() as inside:
                index = inside.index("eth0")
                inside.transact([links.set_link(index, up=True)])
                inside.transact([routes.add_address(index, ip_interface(f"10.244.{number}.1/24"))])
                via = ip_interface(f"10.244.{number}.254/24").ip
                inside.transact([routes.add_route(Route(ip_network("0.0.0.0/0"), index, via))])
        self.listener = netns.socket_in(self.paths["server"])
        self.listener.bind(("10.244.1.1", 8080))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            peer, _ = self.listener.accept()
            threading.Thread(target=self._echo, args=(peer,), daemon=True).start()

    @staticmethod
    def _echo(peer: socket.socket) -> None:
        with peer:
            while data := peer.recv(100):
                peer.sendall(data)

    def connect(self) -> socket.socket:
        client = netns.socket_in(self.paths["client"])
        client.settimeout(5)
        client.connect(("10.96.0.41", 80))
        return client


def says(client: socket.socket, word: bytes) -> bool:
    client.sendall(word)
    return client.recv(100) == word


def one_service(config: Config) -> list[Change]:
    meant = [service("svc", "10.96.0.41")]
    slices = [slice_("10.244.1.1@node-a", of="svc")]
    table = plan(meant, slices, NodeView("node-a", ("192.0.2.1",)), config).frontends
    return [Change(k, None, f) for k, f in table.items()]


def test_connections_survive_changes_and_the_switch_of_modes(
    config: Config, proxier: IptablesProxier, variant: str, tmp_path: Path
) -> None:
    lab = Echo(tmp_path)
    given = one_service(config)
    proxier.sync(given, {})
    with lab.connect() as client:
        assert says(client, b"first")
        more, _ = told("lb-ranges")
        others = [c for c in more if c.key.address != "10.96.0.41"]
        proxier.apply(others, {})
        assert says(client, b"another Service came")
        proxier.apply([Change(c.key, c.new, None) for c in others], {})
        assert says(client, b"and went")
        other = NftablesProxier(replace(config, mode="nftables"))
        other.sync(given, {})
        proxier.clear()
        assert says(client, b"nftables has it")
        assert "KUBE-" not in listing(variant)
        with lab.connect() as second:
            assert says(second, b"a new one")
        proxier.sync(given, {})
        other.clear()
        other.close()
        assert says(client, b"and back")
        with lab.connect() as third:
            assert says(third, b"a new one")
