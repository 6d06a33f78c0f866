"""Answers from a question's octets against those of the chain: octet by octet, with what they depend on."""

import functools
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsworld import WORLD, corefile
from kubewire.dns.config import Environment, build
from kubewire.dns.dispatch import Dispatcher
from kubewire.dns.explain import default_corefile
from kubewire.dns.plugins.kubernetes import Kubernetes
from kubewire.dns.table import Entry
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Edns, Message, Question, encode, read_name
from kubewire.lang.dns.name import split

CLIENTS = {1: "127.0.0.1", 2: "::1"}
FIRST = ["web", "dual", "six", "bare", "hl", "gone", "nop", "alias", "away", "loop1", "nope", "Web", "*", "10-244-9-1", "10-244-9-2", "1-2-3-400", "fd00--1", "--1", "a-b-c-d", "x.web", "one.hl", "_http._tcp.web", "_x._tcp.nope", "x.nope", "a.b.c.web", "x.pin._zone.hl", "x.pin._zone.nope", "www.example.com", "x.10-244-9-1"]  # fmt: skip
MIDDLE = ("default.svc", "other.svc", "Default.SVC", "nowhere.svc", "com.svc", "default.pod", "other.pod", "nowhere.pod", "com", "dns", "hostmaster")  # fmt: skip
ODD = ("", "svc.", "pod.", "default.svc.", "ns.dns.", "dns.", "x.dns.", "x.ns.dns.", "hostmaster.", "dns-version.", "web.", "a.b.c.d.e.f.g.svc.")  # fmt: skip
NAMES = [f"{a}.{b}." for a, b in product(FIRST, MIDDLE)] + list(ODD)
KINDS = ("A", "AAAA", "SRV", "TXT", "CNAME", "SOA", "HTTPS", "DS")
EDNS = (None, Edns(1232), Edns(4096, do=True), Edns(512, version=1), Edns(1232, options=((10, b"12345678"),)))  # fmt: skip
OPTIONS = ("", "pods insecure", "pods verified", "pods insecure\n ttl 0", "ttl 3600", "noendpoints", "ignore empty_service", "namespaces other", "zonal", "labels app=web", "fallthrough", "fallthrough in-addr.arpa", "fallthrough default.svc.cluster.local")  # fmt: skip


@functools.cache
def dispatcher(text: str) -> Dispatcher:
    configuration = build(text, "Corefile", Environment(objects=WORLD))
    [(listener, blocks)] = configuration.listeners().items()
    return Dispatcher(listener, blocks)


def parse_name(wire: bytes) -> list[str]:
    return split(read_name(wire, 0)[0])


def octets(name: str, kind: str, edns: Edns | None = None, flags: int = 0x0100) -> bytes:
    number = codes.type_number(kind)
    assert number is not None
    return encode(Message(4711, flags, Question(name, number), edns=edns))


def check(of: Dispatcher, data: bytes, family: int = 1, *, text: bool = True) -> bool:
    """Whether there is a shortcut; if so it must be what the chain says.

    Without ``text``: labels need escapes in the chain, and no object can have such a name.
    """
    kept = of.shortcuts.answer(data, family)
    if kept is None:
        return False
    answer, deps, labels, *_ = kept
    table = of.tables["udp"]
    table.clear()
    assert of.receive(data, (CLIENTS[family], 53), ("127.0.0.1", 53), "udp") == answer
    entry: Entry = table.entries[data[2:]]
    assert (entry.labels, entry.answers) == (labels, (answer,))
    assert set(entry.deps) == set(deps) or not text
    return True


@pytest.mark.parametrize("options", OPTIONS)
def test_the_shortcut_says_what_the_chain_says(options: str) -> None:
    of = dispatcher(corefile(options))
    found = {
        (name, kind): check(of, octets(name + zone, kind))
        for name, zone, kind in product(NAMES, ("cluster.local.", "CLUSTER.Local."), KINDS)
    }
    assert any(found.values())
    if not options:
        assert found["web.default.svc.", "A"]
        assert found["nope.default.svc.", "AAAA"]
        assert found["www.example.com.com.svc.", "A"]
        assert found["www.example.com.com.", "A"]
        assert not found["hl.default.svc.", "A"]
        assert not found["web.default.svc.", "SRV"]


@pytest.mark.parametrize("options", OPTIONS)
def test_nothing_exists_below_a_cut(options: str) -> None:
    """One entry stands for all names of one length there, whatever their labels are."""
    of = dispatcher(corefile(options))
    cuts = 0
    for name in NAMES:
        data = octets(name + "Cluster.local.", "AAAA", Edns(1232))
        kept = of.shortcuts.answer(data, 1)
        if kept is None or not kept.cut:
            continue
        end = data.index(0, 12) + 1
        assert data[:end].lower().endswith(kept.cut)
        assert kept.depth == len(parse_name(kept.cut))
        for first in range(2, size := end - 12 - len(kept.cut), 3):
            rest = size - first
            if rest == 1 or max(first, rest) > 64:
                continue
            labels = (
                bytes((first - 1,)) + b"Z" * (first - 1) + bytes((rest - 1,)) + b"_" * (rest - 1)
            )
            wire = labels + data[end - len(kept.cut) : end]
            said = of.receive(data[:12] + wire + data[end:], ("127.0.0.1", 53), ("", 53), "udp")
            assert said == kept.answer[:12] + wire + kept.answer[end:]
            cuts += 1
    assert cuts > 100 or "fallthrough" in options


@pytest.mark.parametrize("family", CLIENTS)
@pytest.mark.parametrize("flags", [0, 0x0100, 0x0130, 0x0020, 0x0080, 0x0600])
def test_flags_and_edns(flags: int, family: int) -> None:
    of = dispatcher(default_corefile())
    taken = [
        check(of, octets(f"{name}.cluster.local.", "A", edns, flags), family)
        for name in ("web.default.svc", "nope.default.svc", "10-244-9-1.default.pod")
        for edns in EDNS
    ]
    assert taken == [True, True, True, False, False] * 3


@given(
    st.sampled_from(NAMES), st.sampled_from(EDNS),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=3), st.integers(0, 3),
)  # fmt: skip
@settings(deadline=None)
def test_damaged_questions(
    name: str, edns: Edns | None, damage: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(octets(name + "cluster.local.", "A", edns))
    for at, value in damage:
        data[2 + at % (len(data) - 2)] = value
    check(dispatcher(default_corefile()), bytes(data[: len(data) - cut]), text=False)


def test_labels_that_are_no_text() -> None:
    of = dispatcher(corefile("pods insecure"))
    name = b"\7cluster\5local\0"
    for label in (b"10.0.0.1", b"a\0b", b"a.b", b"\xff\xfe", b"\\", b"x" * 63, b"x" * 64, b"\xc0\x0c", b"w\xc3\xabb"):  # fmt: skip
        for parent in (b"\7default\3svc", b"\7default\3pod", b"\3svc", b""):
            wire = bytes([len(label)]) + label + parent + name
            check(of, b"\0\1\1\0\0\1\0\0\0\0\0\0" + wire + b"\0\1\0\1", text=False)


CHAINS = """
kubernetes cluster.local                                     | yes
errors; prometheus; loadbalance; kubernetes cluster.local    | yes
kubernetes cluster.local; forward . 127.0.0.9; loop          | yes
loadbalance weighted weights; kubernetes cluster.local       | yes
cache 30 { disable success cluster.local; disable denial cluster.local }; kubernetes cluster.local | yes
kubernetes cluster.local clusterset.local { multicluster clusterset.local } | yes
cache 30; kubernetes cluster.local                           | no
cache 30 { disable denial cluster.local }; kubernetes cluster.local | no
log; kubernetes cluster.local                                | no
rewrite name a.b web.default.svc.cluster.local; kubernetes cluster.local | no
acl { block net 192.0.2.0/24 }; kubernetes cluster.local     | no
template IN A cluster.local { rcode NXDOMAIN }; kubernetes cluster.local | no
hosts { 192.0.2.1 web.default.svc.cluster.local; fallthrough }; kubernetes cluster.local | no
dns64; kubernetes cluster.local                              | no
minimal; kubernetes cluster.local                            | no
view own { expr 'true' }; kubernetes cluster.local           | no
metadata; kubernetes cluster.local                           | no
rrl cluster.local { responses-per-second 1 }; kubernetes cluster.local | no
kubernetes cluster.local sub.cluster.local                   | no
"""


@pytest.mark.parametrize(
    ("plugins", "taken"),
    [tuple(c.strip() for c in line.split("|")) for line in CHAINS.strip().splitlines()],
)
def test_the_chain_decides(
    plugins: str, taken: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    with open("weights", "w") as file:  # noqa: PTH123
        file.write("x.default.svc.cluster.local\n10.0.0.1 1\n")
    text = plugins.replace("; ", "\n").replace("{ ", "{\n").replace(" }", "\n}")
    of = dispatcher.__wrapped__(f".:53 {{\n{text}\n}}")
    assert check(of, octets("web.default.svc.cluster.local.", "A")) is (taken == "yes")


BLOCKS = r"""
.:53 {\n kubernetes cluster.local\n }\n example.org:53 {\n whoami\n }               | yes
cluster.local:53 {\n kubernetes\n }\n .:53 {\n whoami\n }                           | yes
.:53 {\n kubernetes cluster.local\n }\n default.svc.cluster.local:53 {\n whoami\n } | no
.:53 {\n kubernetes cluster.local\n }\n local:53 {\n whoami\n }                     | no
example.org:53 {\n kubernetes cluster.local\n }                                     | no
"""


@pytest.mark.parametrize(
    ("text", "taken"),
    [tuple(c.strip() for c in line.split("|")) for line in BLOCKS.strip().splitlines()],
)
def test_the_server_block_of_the_name_decides(text: str, taken: str) -> None:
    of = dispatcher(text.replace("\\n", "\n"))
    assert check(of, octets("web.default.svc.cluster.local.", "A")) is (taken == "yes")


def test_before_the_objects_are_here() -> None:
    of = dispatcher.__wrapped__(corefile())
    plugin = of.blocks[0].plugins["kubernetes"]
    assert isinstance(plugin, Kubernetes)
    plugin.cluster.synced = False
    assert not check(of, octets("web.default.svc.cluster.local.", "A"))


def test_the_serial_is_that_of_now() -> None:
    of = dispatcher.__wrapped__(corefile())
    plugin = of.blocks[0].plugins["kubernetes"]
    assert isinstance(plugin, Kubernetes)
    for serial in (1, 2**32 - 1, 7):
        plugin.cluster.modified = serial
        assert check(of, octets("nope.default.svc.cluster.local.", "A"))
