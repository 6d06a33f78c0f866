import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubewire.lang.iptables import matches as m
from kubewire.lang.iptables import targets as t
from kubewire.lang.iptables.model import NOTHING, Rule
from kubewire.lang.iptables.parse import parse, parse_line, parse_rule
from kubewire.lang.iptables.text import quote, words
from tests.lang.iptables.rules import example, filter_rules, nat_rules

ports = st.integers(0, 65535)
spans = st.tuples(ports, ports).map(lambda p: f"{min(p)}:{max(p)}" if p[0] != p[1] else str(p[0]))
marks = st.integers(0, 0xFFFFFFFF)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
names = st.from_regex(r"[A-Z][A-Z0-9-]{0,20}", fullmatch=True).filter(
    lambda n: isinstance(parse_rule(["-j", n]).target, t.Jump)
)
networks = st.one_of(
    st.ip_addresses(v=4).map(lambda a: f"{a}/32"),
    st.ip_addresses(v=4).map(lambda a: str(m.network(f"{a}/16"))),
)
inverts = st.booleans()

header = st.tuples(
    st.none() | st.builds(m.Source, networks, inverts),
    st.none() | st.builds(m.Destination, networks, inverts),
    st.none() | st.builds(m.InInterface, st.sampled_from(["eth0", "veth+"]), inverts),
    st.none() | st.builds(m.OutInterface, st.sampled_from(["eth0", "veth+"]), inverts),
)
modules = st.one_of(
    st.builds(m.Ports, st.sampled_from(["tcp", "udp", "sctp"]), spans, spans, inverts, inverts),
    st.builds(m.Multiport, st.lists(spans, min_size=1, max_size=5).map(tuple), invert=inverts),
    st.builds(m.AddrType, st.sampled_from(["LOCAL", "UNICAST"]), st.sampled_from(["src", "dst"]), inverts),
    st.builds(m.CtState, st.sets(st.sampled_from(m.STATES), min_size=1).map(lambda s: tuple(x for x in m.STATES if x in s)), inverts),
    st.builds(m.Mark, marks, marks, inverts),
    st.builds(m.Comment, texts),
    st.builds(m.Random, st.integers(1, m.DICE)),
    st.builds(m.Recent, st.sampled_from(["rcheck", "update"]), names, st.integers(1, 99999), inverts),
    st.builds(m.InSet, names, st.sampled_from([("src",), ("dst", "dst"), ("dst", "dst", "src")]), inverts),
)  # fmt: skip
targets = st.one_of(
    st.sampled_from([NOTHING, t.ACCEPT, t.DROP, t.RETURN, t.Reject("tcp-reset"), t.Masquerade(True)]),
    st.builds(t.Jump, names, inverts),
    st.builds(t.SetMark, marks, marks),
    st.builds(lambda a, p: t.Dnat(f"{a}:{p}"), st.ip_addresses(v=4), st.integers(1, 65535)),
    st.builds(t.Nflog, st.integers(0, 65535), texts),
)  # fmt: skip
rules = st.builds(
    lambda head, rest, target: Rule((*(h for h in head if h), *rest), target),
    header, st.lists(modules, max_size=3), targets,
)  # fmt: skip


@given(rules)
def test_every_rule_is_read_back(rule: Rule) -> None:
    chain, found = parse_line(f"-A CHAIN {rule.render()}")
    assert (chain, found) == ("CHAIN", rule)


@given(texts)
def test_every_text_survives_its_quotes(text: str) -> None:
    assert words(f"-A {quote(text)} x") == ["-A", text, "x"]


@pytest.mark.parametrize("version", [4, 6])
def test_a_listing_is_read_back(version: int) -> None:
    found = example(version)
    listing = "# a comment\n" + "".join(table.render() for table in found.values())
    assert parse(listing, version) == found


@pytest.mark.parametrize("rule", [*filter_rules(4), *nat_rules(4)], ids=Rule.render)
def test_each_is_read_back(rule: Rule) -> None:
    assert parse_rule(rule.render()) == rule


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("-p tcp --dport 80 --source 10.0.0.1 -j X", "-s 10.0.0.1/32 -p tcp -m tcp --dport 80 -j X"),
        ("-j MARK --or-mark 0x4000", "-j MARK --set-xmark 0x4000/0x4000"),
        ("-j MARK --set-mark 0x1/0x3", "-j MARK --set-xmark 0x1/0x3"),
        ("-m comment --comment hello -d 10.0.0.0/8 -j DROP", "-d 10.0.0.0/8 -m comment --comment hello -j DROP"),
        ("-m statistic --mode random --probability 0.3333333333 -j X", "-m statistic --mode random --probability 0.33333333349 -j X"),
        ("-m recent --name L --rcheck --seconds 5 -j X", "-m recent --rcheck --seconds 5 --name L --mask 255.255.255.255 --rsource -j X"),
        ("-m statistic --mode nth --every 3 --packet 0 -j X", "-m statistic --mode nth --every 3 --packet 0 -j X"),
        ("-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu", "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"),
    ],
)  # fmt: skip
def test_rules_as_people_write_them(written: str, meant: str) -> None:
    assert parse_rule(written).render() == meant


def test_counters_are_read_and_do_not_count_in_comparisons() -> None:
    chain, rule = parse_line("[3:180] -A KUBE-SERVICES -j DROP")
    assert (chain, rule, rule.counters) == ("KUBE-SERVICES", Rule((), t.DROP), (3, 180))


@pytest.mark.parametrize("line", ["-A", "-I X -j DROP", "-A X stray -j DROP", "-A X --stray y -j DROP"])  # fmt: skip
def test_what_is_no_rule_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_line(line)
