"""loadbalance: weights and where they come from."""

import random
from collections import Counter
from pathlib import Path

import pytest

from kubewire.dns.config import Environment, build
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugins.loadbalance.weights import Weights, parse
from kubewire.lang.dns.record import RR, address, address_text, cname, mx

NAME = "www.example.org."


def test_one_address_goes_to_the_front_by_weight(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("# of the shop\n\nWWW.example.org\n192.0.2.3 3\n2001:db8::1 255\n")
    weights = Weights(str(tmp_path / "w"), 30)
    weights.first()
    random.seed(1)
    records = [address(NAME, 5, f"192.0.2.{i}") for i in (1, 2, 3)]
    seen = Counter(address_text(weights.order(list(records))[0]) for _ in range(500))
    assert 250 < seen["192.0.2.3"] < 350
    assert min(seen["192.0.2.1"], seen["192.0.2.2"]) > 60
    v6: list[RR] = [address(NAME, 5, "2001:db8::2"), address(NAME, 5, "2001:db8::1")]
    first = Counter(address_text(weights.order(list(v6))[0]) for _ in range(100))
    assert first["2001:db8::1"] > 90


def test_other_records_keep_their_places() -> None:
    weights = Weights("", 0)
    a, alias, mail = address(NAME, 5, "192.0.2.1"), cname("x.", 5, NAME), mx(NAME, 5, 1, "m.")
    assert weights.order([mail, a, alias]) == [alias, a, mail]
    assert weights.order([mail, alias]) == [mail, alias]


def test_a_file_is_read_again_and_may_come_late(tmp_path: Path) -> None:
    file = tmp_path / "w"
    text = f". {{\nloadbalance weighted {file} {{\n%s\n}}\nwhoami\n}}"
    build(text % "reload 5s", "Corefile", Environment(objects=[]))
    with pytest.raises(CorefileError, match="failed to open weight file"):
        build(text % "reload 0s", "Corefile", Environment(objects=[]))
    weights = Weights(str(file), 5)
    weights.first()
    records = [address(NAME, 5, "192.0.2.1"), address(NAME, 5, "192.0.2.2")]
    for heavy in (1, 2):
        file.write_text(f"www.example.org\n192.0.2.{heavy} 255\n")
        weights.load()
        first = Counter(address_text(weights.order(list(records))[0]) for _ in range(100))
        assert first[f"192.0.2.{heavy}"] > 90


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("192.0.2.1 1", 'missing domain name in weight file F'),
        ("a.test\n192.0.2.1", r'wrong domain name:"192.0.2.1" in weight file F. \(Maybe a missing'),
        ("a.test\nb 1", 'wrong IP address:"b" in weight file F'),
        ("a.test\n192.0.2.1 0", 'wrong weight value:"0" in weight file F'),
        ("a.test\n192.0.2.1 256", 'wrong weight value:"256"'),
        ("a.test\n192.0.2.1 1 2", 'could not parse weight line:"192.0.2.1 1 2" in weight file F'),
    ],
)  # fmt: skip
def test_bad_files(text: str, error: str) -> None:
    with pytest.raises(CorefileError, match=error):
        parse(text, "F")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("round_robin x", "unknown property for round_robin"),
        ("weighted", "missing weight file argument"),
        ("weighted a b", r"unexpected argument\(s\)"),
        ("random", "unknown policy: random"),
        ("{\nprefer 10.0.0.1\n}", 'invalid CIDR "10.0.0.1": invalid CIDR address: 10.0.0.1'),
        ("{\nreload 5s\n}", "unknown property 'reload'"),
        ("weighted f {\nreload\n}", "reload duration value is missing"),
        ("weighted f {\nreload 1s 2s\n}", "unexpected argument"),
        ("weighted f {\nreload soon\n}", "invalid reload duration 'soon'"),
        ("weighted f {\nprefer 10.0.0.0/8\n}", "unknown property 'prefer'"),
    ],
)  # fmt: skip
def test_bad_directives(words: str, error: str) -> None:
    with pytest.raises(CorefileError, match=error):
        build(f". {{\nloadbalance {words}\n}}", "Corefile", Environment(objects=[]))
