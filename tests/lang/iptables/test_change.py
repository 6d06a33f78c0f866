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
        ":Z - [0:0]",
        "-D INPUT -j X",
        "-A X -m comment --comment a -j ACCEPT",
        "-A X -m comment --comment b -j DROP",
        "-A INPUT -j Y",
        "-X Z",
        "COMMIT",
    ]


def test_nothing_to_do() -> None:
    assert not difference(table(X=(A,)), table(X=(A,)))


def test_the_last_inserted_rule_comes_first() -> None:
    change = Change("filter")
    change.insert("INPUT", A)
    change.insert("INPUT", B)
    assert [line for line in change.lines() if line.startswith("-I")] == [
        "-I INPUT 1 -m comment --comment a -j ACCEPT",
        "-I INPUT 1 -m comment --comment b -j DROP",
    ]
