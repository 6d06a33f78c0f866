"""Legacy tables written by ourselves and by the program: the kernel must not be able to tell them apart."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubewire.kernel import netns, xtables
from kubewire.kernel.iptables import Iptables, IptablesError, find, run
from kubewire.kernel.xtables import ROOM, Blob, Tables
from kubewire.lang.iptables.change import Change
from kubewire.lang.iptables.entries import UnfitError

pytestmark = [pytest.mark.kernel, pytest.mark.tool("iptables-legacy")]
FAMILIES = pytest.mark.parametrize("version", [4, 6])

HOST = {4: "10.96.0.7/32", 6: "fd00::7/128"}
NET = {4: "10.244.0.0/16", 6: "fd00:10::/64"}
TO = {4: "10.244.0.5", 6: "fd00::5"}
TO_PORT = {4: "10.244.0.5:8080", 6: "[fd00::5]:8080"}
REASON = {4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"}
ALL = {4: "255.255.255.255", 6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
MATCHES = [
    "-s {net}", "! -d {host}", "-i cbr0", "! -o veth+", "-p tcp", "! -p udp",
    "-p tcp -m tcp --dport 80", "-p udp -m udp ! --sport 1024:65535", "-p tcp -m tcp",
    "-p sctp -m sctp --dport 9", "-p sctp -m sctp --sport 1:2 ! --dport 9", "-p sctp -m sctp",
    "-m comment --comment plain", '-m comment --comment "ns/s:p -> x"',
    "-m addrtype --dst-type LOCAL", "-m addrtype ! --src-type LOCAL",
    "-m conntrack --ctstate RELATED,ESTABLISHED", "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT",
    "-m conntrack --ctstate INVALID,NEW,UNTRACKED", "-m mark --mark 0x4000/0x4000",
    "-m mark ! --mark 0x7", "-m statistic --mode random --probability 0.33333333349",
    "-m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-X --mask {all} --rsource",
    "-m recent --set --name KUBE-SEP-X --mask {all} --rsource",
    "-m recent ! --update --seconds 5 --hitcount 3 --name KUBE-SEP-X --mask {all} --rsource",
]  # fmt: skip
ANYWHERE = [
    "",
    "-j ACCEPT",
    "-j DROP",
    "-j RETURN",
    "-j OTHER",
    "-g OTHER",
    "-j MARK --set-xmark 0x4000/0x4000",
]
IN = {
    "filter": [*ANYWHERE, "-j REJECT --reject-with {reason}"],
    "nat": [target for target in ANYWHERE if target != "-j DROP"],
}
NAT = [
    "-p tcp -m tcp -j DNAT --to-destination {port}",
    "-j DNAT --to-destination {to}", "-j DNAT --to-destination {to} --persistent",
]  # fmt: skip
FROM = ["-j MASQUERADE", "-j MASQUERADE --random-fully"]


def spelled(rules: list[str], version: int) -> list[str]:
    words = {
        "host": HOST[version],
        "net": NET[version],
        "to": TO[version],
        "port": TO_PORT[version],
        "reason": REASON[version],
        "all": ALL[version],
    }
    return [rule.format(**words) for rule in rules]


def rules_of(table: str, version: int) -> list[str]:
    found = [f"{m} {t}".strip() for m in ["", *MATCHES] for t in IN[table] if m or t]
    return spelled(found + (NAT + FROM if table == "nat" else []), version)


def change(table: str, rules: list[str]) -> Change:
    return Change(table, [("OTHER", []), ("RULES", [f"-A RULES {rule}" for rule in rules])])


def listed(version: int, *, counters: bool = False) -> list[str]:
    text = Iptables(version, "legacy").save(counters=counters)
    return [line for line in text.splitlines() if line[0] != "#"]


def there(tables: Tables, table: str) -> bytes:
    """The bytes in the kernel."""
    tables._kept = {}
    tables.keep([table])
    return bytes(tables._kept[table].blob.data[ROOM:])


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def tables(version: int) -> Iterator[Tables]:
    made = Tables(version)
    yield made
    made.close()


@pytest.mark.parametrize("table", ["filter", "nat"])
def test_every_form_is_byte_by_byte_what_the_program_writes(
    tables: Tables, version: int, table: str
) -> None:
    wanted = change(table, rules_of(table, version))
    programs = Iptables(version, "legacy")
    programs.restore(wanted.lines())
    theirs, text = there(tables, table), listed(version)
    programs.restore([f"*{table}", "-F", "-X", "COMMIT"])
    tables.apply([wanted])
    tables.approve()
    assert tables.are_right([table]), "the kernel holds what was sent"
    assert there(tables, table) == theirs
    assert listed(version) == text


NAMES = ["KUBE-A", "KUBE-B", "KUBE-C", "KUBE-D"]


@st.composite
def steps(draw: st.DrawFn) -> list[Change]:
    """Chains written, emptied, filled at both ends, taken out; each step leaves a table that may be."""
    known: dict[str, list[str]] = {}
    found = []
    plain = st.sampled_from(rules_of("filter", 4))
    for _ in range(draw(st.integers(1, 4))):
        step = Change("filter")
        for name in sorted(draw(st.sets(st.sampled_from(NAMES), min_size=1))):
            what = draw(st.sampled_from(["write", "remove", "rules"]))
            if what == "write" or name not in known:
                known[name] = [
                    r.replace("OTHER", name + "-X") for r in draw(st.lists(plain, max_size=4))
                ]
                lines = [f"-A {name} {r}" for r in known[name]]
                step.written = [*step.written, (name + "-X", []), (name, lines)]
            elif what == "remove":
                step.removed += [name, name + "-X"]
                del known[name]
            else:
                new = draw(plain).replace("OTHER", name + "-X")
                gone = [
                    r
                    for r in known[name]
                    if " -j " in f" {r}" and known[name].count(r) == 1 and r != new
                ][:1]
                step.removed_rules += [f"{name} {r}" for r in gone]
                step.inserted.append(f"{name} {new}")
                step.appended.append(f"{name} {new}")
                known[name] = [new, *(r for r in known[name] if r not in gone), new]
        found.append(step)
    return found


def test_any_changes_come_to_what_the_program_makes_of_them(tmp_path: Path) -> None:
    programs = Iptables(4, "legacy")
    other = tmp_path / "other"
    netns.create(other)
    empty = ["*filter", "-F", "-X", "COMMIT"]

    @settings(max_examples=40, deadline=None)
    @given(steps())
    def check(changes: list[Change]) -> None:
        programs.restore(empty)
        tables = Tables(4)
        with netns.entered(other):
            programs.restore(empty)
        for step in changes:
            tables.apply([step])
            with netns.entered(other):
                programs.restore(step.lines())
                wanted = listed(4)
            assert listed(4) == wanted
        tables.close()

    check()


def test_what_others_leave_as_it_is_stays_right() -> None:
    tables, programs = Tables(4), Iptables(4, "legacy")
    programs.restore(["*filter", ":A - [0:0]", "COMMIT"])
    tables.keep(["filter", "nat"])
    tables.approve()
    programs.restore(["*nat", "-A OUTPUT -j ACCEPT", "COMMIT"])
    knock()
    tables.apply([Change("filter", [TWO])])
    assert tables.are_right(["filter"])
    assert not tables.are_right(["nat"])
    programs.restore(["*filter", "-D B -j DROP", "-A B -j ACCEPT", "COMMIT"])
    tables.apply([Change("filter", [ONE])])
    assert not tables.are_right(["filter"]), "it had been changed before our last change"
    tables.close()


THEIRS = [
    "*filter", ":THEIRS - [0:0]", "-A THEIRS -m limit --limit 5/sec -j DROP", "-A INPUT -j THEIRS",
    "-A OUTPUT -p icmp -m icmp --icmp-type 8 -j ACCEPT", "-A OUTPUT -p udp", "COMMIT",
]  # fmt: skip


def knock() -> None:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("127.0.0.1", 9))


def test_counters_stay_with_their_rules() -> None:
    programs, tables = Iptables(4, "legacy"), Tables(4)
    programs.restore(THEIRS)
    tables.apply([Change("filter", [("KUBE-A", ["-A KUBE-A -p udp", "-A KUBE-A -p tcp"])])])
    programs.restore(["*filter", "-A OUTPUT -j KUBE-A", "COMMIT"])
    for _ in range(3):
        knock()
    tables.apply([Change("filter", inserted=["KUBE-A -p udp -j RETURN"])])
    knock()
    tables.apply([Change("filter", [("AAA", []), ("ZZZ", ["-A ZZZ -j DROP"])])])
    tables.apply([Change("filter", removed=["AAA"])])
    text = "\n".join(listed(4, counters=True))
    assert "[1:29] -A KUBE-A -p udp -j RETURN" in text
    assert "[3:87] -A KUBE-A -p udp\n" in text
    assert "[4:116] -A OUTPUT -p udp\n" in text
    assert "-A THEIRS -m limit" in text
    tables.close()


ONE, TWO = ("A", ["-A A -j DROP"]), ("B", ["-A B -j DROP"])


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    read = Blob.read
    monkeypatch.setattr(Blob, "read", lambda *a: seen.append(1) or read(*a))
    return seen


def test_a_table_is_fetched_only_when_others_may_have_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables, seen = Tables(4), reads(monkeypatch)
    tables.apply([Change("filter", [ONE])])
    tables.apply([Change("filter", [TWO])])
    assert len(seen) == 1
    Iptables(4, "legacy").restore(["*filter", "-D A -j DROP", "-A A -j ACCEPT", "COMMIT"])
    tables.apply([Change("filter", inserted=["A -j RETURN"])])
    assert len(seen) == 2, "the table has the same shape as before, but was written"
    assert [line for line in listed(4) if line.startswith("-A A")] == [
        "-A A -j RETURN",
        "-A A -j ACCEPT",
    ]
    tables.apply([Change("filter", removed=["B"])])
    assert len(seen) == 2
    tables.close()


def test_who_takes_no_lock_is_seen_by_the_shape(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tables, seen = Tables(4), reads(monkeypatch)
    tables.apply([Change("filter", [ONE])])
    path = find("iptables-legacy")
    assert path
    words = [path, "-A", "A", "-j", "ACCEPT"]
    subprocess.run(words, check=True, env={"XTABLES_LOCKFILE": str(tmp_path / "lock")})
    tables.apply([Change("filter", [TWO])])
    assert len(seen) == 2
    assert "-A A -j ACCEPT" in listed(4)
    tables.close()


def test_a_new_lock_file_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, seen = Tables(4), reads(monkeypatch)
    tables.apply([Change("filter", [ONE])])
    xtables.LOCK.unlink()
    Iptables(4, "legacy").restore(["*filter", "-D A -j DROP", "-A A -j ACCEPT", "COMMIT"])
    tables.apply([Change("filter", [TWO])])
    assert len(seen) == 2
    assert "-A A -j ACCEPT" in listed(4)
    tables.close()


def test_it_waits_for_the_lock() -> None:
    import fcntl

    tables = Tables(4)
    tables.apply([Change("filter", [ONE])])
    lock = os.open(xtables.LOCK, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    done = threading.Event()

    def work() -> None:
        tables.apply([Change("filter", [TWO])])
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not done.wait(0.1)
    assert ":B - [0:0]" not in listed(4)
    os.close(lock)
    assert done.wait(10)
    assert ":B - [0:0]" in listed(4)
    thread.join()
    tables.close()


def test_a_lock_that_is_never_given_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(xtables, "LOCK_SECONDS", 0)
    lock = os.open(xtables.LOCK, os.O_RDONLY | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    tables = Tables(4)
    with pytest.raises(IptablesError, match=r"xtables\.lock: another program holds it"):
        tables.apply([Change("filter", [ONE])])
    os.close(lock)
    tables.close()


def test_nothing_is_written_when_one_part_is_unfit() -> None:
    tables = Tables(4)
    with pytest.raises(UnfitError):
        tables.apply([Change("filter", [ONE]), Change("nat", removed=["B"])])
    assert ":A - [0:0]" not in listed(4)
    tables.close()


def test_what_the_kernel_refuses_is_unfit_and_changes_nothing() -> None:
    tables = Tables(4)
    tables.apply([Change("filter", [ONE])])
    before = listed(4)
    loop = Change("filter", [("A", ["-A A -j B"]), ("B", ["-A B -j A"])])
    Iptables(4, "legacy").restore(["*filter", "-A INPUT -j A", "COMMIT"])
    before = listed(4)
    with pytest.raises(UnfitError, match="the kernel refuses the table filter"):
        tables.apply([loop])
    assert listed(4) == before
    tables.apply([Change("filter", [TWO])])
    assert ":B - [0:0]" in listed(4)
    tables.close()


def test_the_shape_is_told_without_the_table() -> None:
    tables = Tables(4)
    empty = tables.info("mangle")
    run(["iptables-legacy", "-t", "mangle", "-N", "CANARY"])
    now = tables.info("mangle")
    assert (now.entries, now.size) == (empty.entries + 2, empty.size + 176 + 152)
    tables.close()
