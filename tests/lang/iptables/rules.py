"""One of every match and target, as rules: shared by the round trip and by the kernel's own listing."""

from kubewire.lang.iptables import matches as m
from kubewire.lang.iptables import targets as t
from kubewire.lang.iptables.model import Chain, Rule, Table

PREFIX = {4: "10.0.0.0/8", 6: "fd00::/8"}
HOST = {4: "10.0.0.1/32", 6: "fd00::1/128"}
TO = {4: "10.1.2.3:80", 6: "[fd00::3]:80"}
ICMP = {4: ("icmp", m.IcmpType("8")), 6: ("ipv6-icmp", m.IcmpType("135", 6))}
TCP, UDP, SCTP = m.Proto("tcp"), m.Proto("udp"), m.Proto("sctp")


def filter_rules(version: int) -> list[Rule]:
    name, icmp = ICMP[version]
    return [
        Rule((m.Source(PREFIX[version]), m.Destination(HOST[version], True)), t.ACCEPT),
        Rule((m.InInterface("veth+"), m.OutInterface("eth0", True)), t.DROP),
        Rule((TCP, m.Ports("tcp", "80")), t.REJECT[version]),
        Rule((TCP, m.Ports("tcp", "80:90", "1024:65535")), t.Reject("tcp-reset")),
        Rule((UDP, m.Ports("udp", "53", not_dport=True)), t.RETURN),
        Rule((SCTP, m.Ports("sctp", "9")), t.DROP),
        Rule((TCP, m.Multiport(("80", "90:99"))), t.DROP),
        Rule((m.Proto(name), icmp), t.ACCEPT),
        Rule((m.AddrType(),), t.Jump("OTHER")),
        Rule((m.AddrType(side="src", invert=True),), t.Jump("OTHER", goto=True)),
        Rule((m.CtState(("RELATED", "ESTABLISHED")),), t.ACCEPT),
        Rule((m.CtState(("RELATED", "ESTABLISHED", "DNAT"), True),), t.DROP),
        Rule((m.CtStatus(("ASSURED",)),), t.ACCEPT),
        Rule((m.Mark(0x4000, 0x4000, True),), t.RETURN),
        Rule((m.Mark(7),), t.RETURN),
        Rule((m.Comment("plain"),)),
        Rule((m.Comment("""ns/s:p "quoted" it's \\ so -> there"""),), t.DROP),
        Rule((m.Random.one_in(3),), t.Jump("OTHER")),
        Rule((m.Recent("rcheck", "LIST", 10800, True, version=version),), t.Jump("OTHER")),
        Rule((m.Recent("set", "LIST", version=version),)),
        Rule((m.InSet("some", ("src", "dst")),), t.ACCEPT),
        Rule((m.InSet("some", ("dst", "dst"), True),), t.ACCEPT),
        Rule((m.Limit("10/min"),), t.Nflog(100, "a prefix")),
        Rule((m.Limit("5/sec", 9),), t.Log("said ", 7)),
        Rule((m.OtherMatch(("-m", "owner", "--uid-owner", "0")),), t.ACCEPT),
    ]


def nat_rules(version: int) -> list[Rule]:
    address = HOST[version].partition("/")[0]
    return [
        Rule((), t.SetMark.or_(0x4000)),
        Rule((), t.SetMark.xor(0x4000)),
        Rule((), t.SetMark.and_(0xFF)),
        Rule((), t.SetMark.set(1)),
        Rule((), t.Masquerade(random_fully=True)),
        Rule((TCP,), t.Masquerade(to_ports="1024-2048")),
        Rule((TCP, m.Ports("tcp")), t.Dnat(TO[version])),
        Rule((), t.Dnat(address, persistent=True)),
        Rule((), t.Snat(address)),
        Rule((UDP,), t.Redirect("53")),
    ]


def example(version: int) -> dict[str, Table]:
    """Tables with all of them, as the kernel lists them."""
    hooks = {
        "filter": ("INPUT", "FORWARD", "OUTPUT"),
        "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
        "raw": ("PREROUTING", "OUTPUT"),
    }
    own = {
        "filter": (Chain("OTHER"), Chain("RULES", tuple(filter_rules(version)))),
        "nat": (Chain("RULES", tuple(nat_rules(version))),),
        "raw": (Chain("RULES", (Rule((), t.Notrack(ct=True)), Rule((), t.Notrack()))),),
    }
    return {
        name: Table(
            name,
            {c.name: c for c in (*(Chain(h, policy="ACCEPT") for h in hooks[name]), *own[name])},
        )
        for name in hooks
    }
