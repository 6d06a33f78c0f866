"""What was restored is what the kernel lists: both families, both variants."""

from pathlib import Path

import pytest

from kubewire.kernel import ipset
from kubewire.kernel.iptables import VARIANTS, Iptables, IptablesError, detect
from kubewire.lang.iptables.change import difference
from kubewire.lang.iptables.ipset import IpSet, bitmap_port
from kubewire.lang.iptables.model import Table
from kubewire.lang.iptables.parse import parse
from tests.lang.iptables.rules import example

pytestmark = [pytest.mark.kernel, pytest.mark.tool("iptables-nft", "iptables-legacy", "ipset")]
BOTH = pytest.mark.parametrize("variant", VARIANTS)
FAMILIES = pytest.mark.parametrize("version", [4, 6])


@BOTH
@FAMILIES
def test_the_kernel_lists_what_was_restored(version: int, variant: str) -> None:
    programs = Iptables(version, variant)
    ipset.restore(IpSet("some", "hash:ip,port", family=version).lines())
    meant = example(version)
    for table in meant.values():
        programs.restore(table.lines())
    assert parse(programs.save(), version) == meant
    for table in meant.values():
        listed = [line for line in programs.save(table.name).splitlines() if line[0] != "#"]
        assert [line for line in listed if line[0] != ":"] == [
            line for line in table.lines() if line[0] != ":"
        ]


@BOTH
def test_a_difference_leaves_others_rules_alone(variant: str) -> None:
    programs = Iptables(4, variant)
    ipset.restore(IpSet("some", "hash:ip,port").lines())
    programs.restore(
        ["*filter", ":THEIRS - [0:0]", "-A THEIRS -j DROP", "-A INPUT -s 10.9.9.9/32 -j THEIRS", "COMMIT"]
    )  # fmt: skip
    meant = example(4)["filter"]
    programs.restore(difference(None, meant).lines())
    found = parse(programs.save("filter"))["filter"]
    assert found.chains["RULES"] == meant.chains["RULES"]
    programs.restore(difference(meant, Table("filter")).lines())
    found = parse(programs.save("filter"))["filter"]
    assert set(found.chains) == {"INPUT", "FORWARD", "OUTPUT", "THEIRS"}
    assert [r.render() for r in found.chains["INPUT"].rules] == ["-s 10.9.9.9/32 -j THEIRS"]


@FAMILIES
@pytest.mark.parametrize(
    ("lines", "goes"),
    [
        ([], True),
        ([":FORWARD DROP [0:0]"], False),
        ([":THEIRS - [0:0]"], False),
        (["-A INPUT -m mark --mark 0x7 -j DROP"], False),
    ],
)
def test_a_table_goes_only_when_nobody_has_anything_in_it(
    version: int, lines: list[str], goes: bool
) -> None:
    programs = Iptables(version, "nft")
    programs.restore(["*filter", ":OURS - [0:0]", "-A INPUT -j OURS", *lines, "COMMIT"])
    programs.drop_unused(["filter"])
    assert ":OURS" in programs.save()
    programs.restore(["*filter", "-D INPUT -j OURS", "-X OURS", "COMMIT"])
    before = _rules(programs)
    programs.drop_unused(["filter", "nat"])
    assert _rules(programs) == ([] if goes else before)


def _rules(programs: Iptables) -> list[str]:
    """Without the comments, which tell the time."""
    return [line for line in programs.save().splitlines() if not line.startswith("#")]


@BOTH
def test_a_bad_line_is_named_and_nothing_is_applied(variant: str) -> None:
    programs = Iptables(4, variant)
    lines = ["*filter", ":X - [0:0]", "-A X -p tcp --dport seventy -j DROP", "COMMIT"]
    with pytest.raises(IptablesError, match=r"restore: .*\(-A X -p tcp --dport seventy -j DROP\)"):
        programs.restore(lines)
    assert "X" not in programs.save()


def test_an_iterable_that_breaks_off_is_not_applied() -> None:
    def lines():  # type: ignore[no-untyped-def]
        yield from ("*filter", ":X - [0:0]", *["-A X -j DROP"] * 5000, "COMMIT")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        Iptables(4, "nft").restore(lines())


def test_a_missing_program_is_named() -> None:
    with pytest.raises(IptablesError, match="iptables-other-save: not found"):
        Iptables(4, "other").save()


@pytest.mark.parametrize(
    ("variant", "lines"),
    [
        ("nft", ["*mangle", ":KUBE-KUBELET-CANARY - [0:0]", "COMMIT"]),
        ("legacy", ["*mangle", ":KUBE-IPTABLES-HINT - [0:0]", "COMMIT"]),
        ("legacy", ["*filter", "-A INPUT -j ACCEPT", "COMMIT"]),
        ("legacy", ["*mangle", ":KUBE-PROXY-CANARY - [0:0]", "COMMIT"]),
        ("nft", ["*filter", "COMMIT"]),
    ],
)
def test_detection(variant: str, lines: list[str]) -> None:
    Iptables(4, variant).restore(lines)
    assert detect() == variant


def test_detection_makes_no_tables() -> None:
    detect()
    names = Path("/proc/thread-self/net/ip_tables_names")
    assert not names.exists() or not names.read_text()


def test_ipset() -> None:
    a = IpSet("a", "hash:net", dict.fromkeys(["10.0.0.0/8"]), 4)
    ipset.restore(["create a hash:net", "add a 10.0.0.0/8", "create b hash:net", "create p bitmap:port range 0-65535", "add p 80"])  # fmt: skip
    ipset.swap("a", "b")
    from kubewire.lang.iptables.ipset import parse as parse_sets

    found = parse_sets(ipset.save())
    assert set(ipset.names()) == {"a", "b", "p"}
    assert list(found["b"].elements) == list(a.elements)
    assert not found["a"].elements
    assert found["p"] == bitmap_port("p", [80])
    Iptables(4, "nft").restore(["*filter", "-A INPUT -m set --match-set b src -j DROP", "COMMIT"])
    with pytest.raises(IptablesError, match="in use"):
        ipset.destroy("b")
    ipset.destroy("a")
    ipset.destroy("a")
    assert set(ipset.names()) == {"b", "p"}
