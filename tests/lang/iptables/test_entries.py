"""Forms that have no bytes here are named; tests/kernel/test_xtables.py compares the others with the program's."""

import pytest

from kubewire.lang.iptables import entries
from kubewire.lang.iptables.entries import UnfitError
from kubewire.lang.iptables.parse import parse_rule


@pytest.mark.parametrize("version", [4, 6])
def test_sizes_are_those_of_the_kernel(version: int) -> None:
    header = {4: 112, 6: 168}[version]
    assert len(entries.head("A", version).data) == header + 64
    assert len(entries.tail(version).data) == header + 40


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("-m limit --limit 5/sec -j DROP", "-m limit"),
        ("-m multiport --dports 80,90 -j DROP", "-m multiport"),
        (f"-m comment --comment {'x' * 256} -j DROP", "256 bytes"),
        ("-p esp -j DROP", "esp"),
        ("-m addrtype --dst-type PROHIBIT -j DROP", "PROHIBIT"),
        ("-j REJECT --reject-with nothing", "nothing"),
        ("-j MASQUERADE --to-ports 1-2", "with ports"),
        ("-j DNAT --to-destination 10.0.0.1-10.0.0.9", "range"),
        ("-j NFLOG --nflog-group 1", "-j NFLOG"),
        ("-j CONNMARK --save-mark", "-j CONNMARK"),
    ],
)
def test_unknown_forms_are_named(rule: str, why: str) -> None:
    with pytest.raises(UnfitError, match=why):
        entries.encode(parse_rule(rule), 4)
