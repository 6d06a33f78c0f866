"""Tables as text, as netlink transactions in a real kernel, and as a program that is evaluated."""

import subprocess
from dataclasses import replace as changed

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubewire.kernel.nfnetlink import Nfnetlink, NftablesError
from kubewire.lang.nftables.evaluate import evaluate
from kubewire.lang.nftables.expressions import (
    ACCEPT,
    DPORT,
    DROP,
    IP_DADDR,
    IP_SADDR,
    L4PROTO,
    NFPROTO,
    ChangeMark,
    CtState,
    MarkSet,
    Masquerade,
    Match,
    Numgen,
    Reject,
    Verdict,
)
from kubewire.lang.nftables.lookups import DnatMap, Lookup, Vmap
from kubewire.lang.nftables.model import (
    Chain,
    Rule,
    Set,
    Table,
    Transaction,
    difference,
    render,
    replace,
)
from kubewire.lang.nftables.types import (
    INDEX,
    IPV4,
    PORT,
    PROTO,
    integer_bytes,
    ip_bytes,
    port_bytes,
    proto_bytes,
)
from kubewire.lang.packet import Packet

KEY = (IP_DADDR, L4PROTO, DPORT)
VIP = ip_bytes("10.96.0.1") + proto_bytes(6) + port_bytes(80)


def table(*targets: str, blocked: tuple[str, ...] = (), comment: str = "why") -> Table:
    """A small Service: a vmap, an endpoint map, a set of blocked sources, three hooks."""
    name = f"n{len(targets)}"
    endpoints = {
        VIP + integer_bytes(i): ip_bytes(t) + port_bytes(8080) for i, t in enumerate(targets)
    }
    sets = {
        "services": Set(
            "services", (IPV4, PROTO, PORT), verdicts=True, elements={VIP: Verdict("goto", name)}
        ),
        "endpoints": Set("endpoints", (IPV4, PROTO, PORT, INDEX), (IPV4, PORT), elements=endpoints),
        "blocked": Set("blocked", (IPV4,), elements=dict.fromkeys(map(ip_bytes, blocked))),
        "ranges": Set(
            "ranges",
            (IPV4,),
            elements={ip_bytes("10.0.0.0"): ip_bytes("10.255.255.255")},
            interval=True,
        ),
    }
    ipv4 = Match(NFPROTO, b"\2")
    chains = {
        name: Chain(name, (Rule((ChangeMark(0x4000),), comment), Rule((DnatMap((*KEY, Numgen(len(targets))), "endpoints"),), "choose"))),
        "nat": Chain("nat", (Rule((ipv4, Vmap(KEY, "services"))),), "nat", "prerouting", -100),
        "filter": Chain(
            "filter",
            (
                Rule((CtState(("established", "related")), ACCEPT)),
                Rule((ipv4, Lookup((IP_SADDR,), "blocked"), DROP), "blocked"),
                Rule((ipv4, Lookup((IP_SADDR,), "ranges", inverted=True), Reject()), "not ours"),
            ),
            "filter",
            "forward",
        ),
        "post": Chain("post", (Rule((MarkSet(0x4000), ChangeMark(0x4000, on=False), Masquerade())),), "nat", "postrouting", 100),
    }  # fmt: skip
    return Table("t", "inet", sets, chains)


TABLES = [
    table("10.0.0.1"),
    table("10.0.0.1", "10.0.0.2"),
    table("10.0.0.2", blocked=("10.9.9.9",)),
    table("10.0.0.2", blocked=("10.9.9.8", "10.9.9.9"), comment="another reason"),
    changed(table("10.0.0.1"), chains={}, sets={}),
    changed(
        table("10.0.0.1"), sets={}, chains={"filter": Chain("filter", (), "filter", "forward", 5)}
    ),
    changed(
        table("10.0.0.1"),
        sets={},
        chains={"filter": Chain("filter", (), "filter", "forward", 5, "drop")},
    ),
]


def listing() -> str:
    return subprocess.run(
        ["nft", "-s", "list", "ruleset"], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.kernel
@pytest.mark.tool("nft")
@pytest.mark.parametrize("old", TABLES)
@pytest.mark.parametrize("new", TABLES)
def test_a_difference_leads_to_the_same_kernel_as_a_replacement(old: Table, new: Table) -> None:
    with Nfnetlink() as netlink:
        netlink.commit(replace(new))
        wanted = sorted(listing().split("\n"))
        netlink.commit(replace(old))
        netlink.commit(difference(old, new))
        assert sorted(listing().split("\n")) == wanted


@pytest.mark.kernel
@pytest.mark.tool("nft")
def test_nft_reads_what_is_rendered_as_what_is_committed() -> None:
    # nft's language has no type for a random number inside a key, so the choice stays out.
    whole = TABLES[3]
    chains = {n: c for n, c in whole.chains.items() if n in ("filter", "post")}
    sets = {n: s for n, s in whole.sets.items() if n in ("blocked", "ranges")}
    plain = changed(whole, chains=chains, sets=sets)
    with Nfnetlink() as netlink:
        netlink.commit(replace(plain))
        committed = listing()
        gone = Transaction("inet")
        gone.delete_table("t")
        netlink.commit(gone)
    subprocess.run(["nft", "-f", "-"], input=render(plain), text=True, check=True)
    assert _plain(listing()) == _plain(committed)


def _plain(text: str) -> list[str]:
    # nft spells an address by its offset where it does not know the chain's family.
    for offset, name in (("@nh,96,32", "ip saddr"), ("@nh,128,32", "ip daddr")):
        text = text.replace(offset, name)
    return sorted(
        line.strip()
        for line in text.replace("meta nfproto ipv4 ", "")
        .replace(" with icmp port-unreachable", "")
        .split("\n")
    )


@pytest.mark.kernel
def test_a_refused_transaction_names_the_culprit_and_changes_nothing() -> None:
    with Nfnetlink() as netlink:
        netlink.commit(replace(TABLES[0]))
        wrong = Transaction("inet")
        wrong.add_chain("t", Chain("fresh"))
        wrong.delete_elements("t", TABLES[0].sets["blocked"], {ip_bytes("1.2.3.4"): None})
        with pytest.raises(NftablesError, match="delete elements of blocked: No such file"):
            netlink.commit(wrong)
        again = Transaction("inet")
        again.delete_chain("t", "fresh")
        with pytest.raises(NftablesError, match="delete chain fresh"):
            netlink.commit(again)


@pytest.mark.parametrize(
    ("source", "verdict"), [("10.1.1.1", "accept"), ("10.9.9.9", "drop"), ("192.0.2.1", "reject")]
)
def test_evaluation_of_a_filter(source: str, verdict: str) -> None:
    outcome = evaluate([TABLES[2]], "forward", Packet(source, "10.0.0.2", dport=8080))
    assert outcome.verdict == verdict


def test_evaluation_gives_every_target() -> None:
    outcome = evaluate([TABLES[1]], "prerouting", Packet("10.1.1.1", "10.96.0.1", dport=80))
    assert outcome.targets == (("10.0.0.1", 8080), ("10.0.0.2", 8080))
    assert outcome.mark == 0x4000
    assert outcome.reasons == ("why", "choose")


ELEMENTS = st.sets(st.integers(0, 255)).map(
    lambda hosts: {ip_bytes(f"10.0.0.{h}"): None for h in hosts}
)


@given(ELEMENTS, ELEMENTS)
def test_a_difference_touches_only_what_differs(
    old: dict[bytes, None], new: dict[bytes, None]
) -> None:
    before, after = (Table("t", "inet", {"s": Set("s", (IPV4,), elements=e)}) for e in (old, new))
    messages = difference(before, after).messages
    assert bool(messages) is (old != new)
    expected = [b"".join(sorted(k)) for k in (old.keys() - new.keys(), new.keys() - old.keys())]
    sent = b"".join(m for m, _ in messages)
    for group in expected:
        for position in range(0, len(group), 4):
            assert group[position : position + 4] in sent
    kept = old.keys() & new.keys()
    assert sent.count(b"\x0a\x00\x00") >= sum(len(g) // 4 for g in expected)
    assert len(messages) <= 2 or not kept
