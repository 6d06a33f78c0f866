from kubewire.lang.iptables import targets as t
from kubewire.lang.iptables.change import Change, difference
from kubewire.lang.iptables.matches import Comment
from kubewire.lang.iptables.model import Chain, Rule, Table

A, B = Rule((Comment("a"),), t.ACCEPT), Rule((Comment("b"),), t.DROP)


def table(**chains: tuple[Rule, ...]) -> Table:
    named = {n: Chain(n, rules, "ACCEPT" if n == "INPUT" else "") for n, rules in chains.items()}
    return Table("filter", named)


def test_only_chains_that_differ_are_written() -> None:
    old = table(INPUT=(B, Rule((), t.Jump("X"))), X=(A,), Y=(A,), Z=(B,))
    new = table(INPUT=(Rule((), t.Jump("Y")), B), X=(A, B), Y=(A,))
    assert list(difference(old, new).lines()) == [
        "*filter",
        ":X - [0:0]",
        "-A X -m comment --comment a -j ACCEPT",
        "-A X -m comment --comment b -j DROP",
        "-A INPUT -j Y",
        "-D INPUT -j X",
        ":Z - [0:0]",
        "-X Z",
        "COMMIT",
    ]


def test_nothing_to_do() -> None:
    assert difference(table(X=(A,)), table(X=(A,))).render() == ""


def test_the_last_inserted_rule_comes_first() -> None:
    change = Change("filter")
    change.insert("INPUT", A)
    change.insert("INPUT", B)
    assert [line for line in change.lines() if line.startswith("-I")] == [
        "-I INPUT 1 -m comment --comment a -j ACCEPT",
        "-I INPUT 1 -m comment --comment b -j DROP",
    ]


def applied(lines: list[str]) -> dict[str, list[str]]:
    """Chains after lines, by the rules of ``iptables-restore --noflush``."""
    chains: dict[str, list[str]] = {}
    for line in lines:
        if line[0] == ":":
            chains[line[1:].split()[0]] = []
        elif line[:2] in ("-A", "-I"):
            _, chain, rule = line.split(" ", 2)
            rule = rule.removeprefix("1 ") if line[1] == "I" else rule
            chains[chain].insert(0 if line[1] == "I" else len(chains[chain]), rule)
    return chains


def test_a_chain_that_is_too_long_for_a_section_is_there_from_its_end() -> None:
    rules = [f"-A X -s 10.0.0.{n}/32 -j ACCEPT" for n in range(25)]
    small = ("Y", ["-A Y -j DROP"])
    lines = list(Change("nat", [small, ("X", rules)]).lines(350))
    sections = "\n".join(lines).split("COMMIT")
    assert 300 < max(map(len, sections)) <= 400
    assert sections[0].startswith("*nat\n:Y")
    assert sections[1].startswith("\n*nat\n:X")
    for end in range(len(lines)):
        if lines[end] == "COMMIT":
            there = applied(lines[:end]).get("X", [])
            assert [f"-A X {r}" for r in there] == rules[len(rules) - len(there) :]
    assert applied(lines)["X"] == [r.removeprefix("-A X ") for r in rules]


def test_a_short_change_is_one_section_whatever_the_limit() -> None:
    change = Change("nat", [("Y", ["-A Y -j DROP"])], inserted=["X -j Y"], removed=["Z"])
    assert list(change.lines(350)) == list(change.lines())
