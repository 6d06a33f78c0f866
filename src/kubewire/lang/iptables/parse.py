"""Reads what ``iptables-save`` prints (with or without ``-c``), and rules as people write them.

What no class here stands for is kept as it was written (``OtherMatch``, ``OtherTarget``): rules of
others survive a round trip. A word that cannot belong to a rule is a ValueError that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from kubewire.lang.iptables import matches as m
from kubewire.lang.iptables import targets as t
from kubewire.lang.iptables.model import NOTHING, Chain, Rule, Table
from kubewire.lang.iptables.text import words

_FLAGS = {
    "--rcheck", "--set", "--update", "--remove", "--reap", "--rttl", "--rsource", "--rdest",
    "--random-fully", "--random", "--persistent", "--notrack", "--limit-iface-in", "--syn",
    "--return-nomatch", "--physdev-is-in", "--physdev-is-out", "--physdev-is-bridged", "--log-uid",
    "--save-mark", "--restore-mark",
}  # fmt: skip
"""Options without a value."""
_LONG = {
    "--source": "-s", "--src": "-s", "--destination": "-d", "--dst": "-d", "--protocol": "-p",
    "--in-interface": "-i", "--out-interface": "-o", "--jump": "-j", "--goto": "-g", "--match": "-m",
    "--destination-port": "--dport", "--source-port": "--sport", "--destination-ports": "--dports",
    "--source-ports": "--sports",
}  # fmt: skip
_PROTOCOLS = {"icmpv6": m.ICMP6, "1": "icmp", "6": "tcp", "17": "udp", "58": m.ICMP6, "132": "sctp"}


class Option(NamedTuple):
    """One option of a module or target."""

    name: str
    values: tuple[str, ...]
    invert: bool = False

    @property
    def value(self) -> str:
        """The only value."""
        return self.values[0] if self.values else ""

    @property
    def words(self) -> tuple[str, ...]:
        """As it was written."""
        return (*(("!",) if self.invert else ()), self.name, *self.values)


def parse(text: str, version: int = 4) -> dict[str, Table]:
    """Tables of a whole listing, by name."""
    found: dict[str, Table] = {}
    chains: dict[str, tuple[str, list[Rule]]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("*"):
            name, chains = line[1:].strip(), {}
        elif line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            chains[chain] = ("" if policy == "-" else policy, [])
        elif line.startswith("COMMIT"):
            found[name] = Table(
                name, {c: Chain(c, tuple(rules), policy) for c, (policy, rules) in chains.items()}
            )
        elif line.startswith(("-", "[")):
            chain, rule = parse_line(line, version)
            chains.setdefault(chain, ("", []))[1].append(rule)
    return found


def parse_line(line: str, version: int = 4) -> tuple[str, Rule]:
    """``[packets:bytes] -A CHAIN ...`` -> the chain and the rule."""
    counters = None
    if line.startswith("["):
        shown, _, line = line[1:].partition("]")
        packets, _, octets = shown.partition(":")
        counters = (int(packets), int(octets))
    found = words(line)
    if len(found) < 2 or found[0] not in ("-A", "--append"):
        raise ValueError(f"expected -A CHAIN, not {line.strip()!r}")
    rule = parse_rule(found[2:], version)
    return found[1], Rule(rule.matches, rule.target, counters)


def parse_rule(given: Iterable[str] | str, version: int = 4) -> Rule:
    """The words of a rule, without ``-A CHAIN``."""
    options = list(_options(words(given) if isinstance(given, str) else list(given)))
    found: list[m.Match] = []
    target: t.Target = NOTHING
    protocol = ""
    at = 0
    while at < len(options):
        option = options[at]
        at += 1
        if option.name in _HEADER:
            found.append(_HEADER[option.name](option, version))
            protocol = option.value if option.name == "-p" else protocol
        elif option.name in ("-m", "-j", "-g"):
            own = _own(options, at)
            at += len(own)
            if option.name == "-m":
                found += _match(option.value, own, version)
            else:
                target = _target(option, own, version)
        elif option.name in ("--dport", "--sport"):
            own = _own(options, at - 1)
            at += len(own) - 1
            found += _match(protocol, own, version)
        else:
            raise ValueError(f"unexpected {option.name!r}")
    return Rule(tuple(sorted(found, key=lambda one: one.rank)), target)


def _options(given: list[str]) -> Iterator[Option]:
    at, invert = 0, False
    while at < len(given):
        word = given[at]
        at += 1
        if word == "!":
            invert = True
            continue
        if not word.startswith("-"):
            raise ValueError(f"unexpected {word!r}")
        name, values = _LONG.get(word, word), []
        if name == "--comment" or name.endswith("-prefix"):
            values, at = given[at : at + 1], at + 1
        elif name not in _FLAGS:
            while at < len(given) and not given[at].startswith("-") and given[at] != "!":
                values.append(given[at])
                at += 1
        yield Option(name, tuple(values), invert)
        invert = False


def _own(options: list[Option], start: int) -> list[Option]:
    """Options of the module or target that begins before ``start``."""
    end = start
    while end < len(options) and options[end].name.startswith("--"):
        end += 1
    return options[start:end]


def _prefixed(text: str, version: int) -> str:
    if "/" not in text:
        return f"{text}/{32 if version == 4 else 128}"
    network = m.network(text)
    return str(network)


_HEADER: dict[str, Callable[[Option, int], m.Match]] = {
    "-s": lambda o, v: m.Source(_prefixed(o.value, v), o.invert),
    "-d": lambda o, v: m.Destination(_prefixed(o.value, v), o.invert),
    "-i": lambda o, v: m.InInterface(o.value, o.invert),
    "-o": lambda o, v: m.OutInterface(o.value, o.invert),
    "-p": lambda o, v: m.Proto(_PROTOCOLS.get(o.value, o.value), o.invert),
}

Found = Iterable[m.Match]


def _match(module: str, own: list[Option], version: int) -> Found:
    """The matches of one ``-m MODULE``."""
    reader, known = _MODULES.get(module, (None, frozenset()))
    if reader is None or not {o.name for o in own} <= known:
        return (m.OtherMatch(("-m", module, *(w for o in own for w in o.words))),)
    return reader(module, {o.name: o for o in own}, version)


Given = dict[str, Option]


def _ports(module: str, own: Given, version: int) -> Found:
    dport, sport = (own.get(n, Option(n, ("",))) for n in ("--dport", "--sport"))
    return (m.Ports(module, dport.value, sport.value, dport.invert, sport.invert),)


def _multiport(module: str, own: Given, version: int) -> Found:
    return (m.Multiport(tuple(o.value.split(",")), n[2:], o.invert) for n, o in own.items())


def _icmp(module: str, own: Given, version: int) -> Found:
    kind = 4 if module == "icmp" else 6
    return (m.IcmpType(o.value, kind, o.invert) for o in own.values())


def _addrtype(module: str, own: Given, version: int) -> Found:
    return (m.AddrType(o.value, n[2:5], o.invert) for n, o in own.items())


def _conntrack(module: str, own: Given, version: int) -> Found:
    for name, option in own.items():
        chosen = tuple(option.value.split(","))
        if name == "--ctstatus":
            statuses = tuple(s for s in m.STATUSES if s in chosen)
            yield m.CtStatus(statuses, option.invert)
        else:
            yield m.CtState(tuple(s for s in m.STATES if s in chosen), option.invert)


def _mark(module: str, own: Given, version: int) -> Found:
    option = own["--mark"]
    value, mask = _masked(option.value)
    return (m.Mark(value, mask, option.invert),)


def _masked(text: str) -> tuple[int, int]:
    value, _, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if mask else m.FULL_MARK


def _comment(module: str, own: Given, version: int) -> Found:
    return (m.Comment(own["--comment"].value),)


def _statistic(module: str, own: Given, version: int) -> Found:
    mode, probability = own.get("--mode"), own.get("--probability")
    if mode is None or mode.value != "random" or probability is None or probability.invert:
        return (m.OtherMatch(("-m", module, *(w for o in own.values() for w in o.words))),)
    return (m.Random(round(float(probability.value) * m.DICE)),)


def _recent(module: str, own: Given, version: int) -> Found:
    action = next(o for n in ("--set", "--rcheck", "--update", "--remove") if (o := own.get(n)))
    number = {n: int(own[n].value) if n in own else 0 for n in ("--seconds", "--hitcount")}
    name = own["--name"].value if "--name" in own else "DEFAULT"
    return (
        m.Recent(
            action.name[2:], name, number["--seconds"], "--reap" in own, number["--hitcount"],
            version, action.invert,
        ),
    )  # fmt: skip


def _set(module: str, own: Given, version: int) -> Found:
    option = own["--match-set"]
    return (m.InSet(option.values[0], tuple(option.values[1].split(",")), option.invert),)


def _limit(module: str, own: Given, version: int) -> Found:
    burst = own.get("--limit-burst")
    return (m.Limit(own["--limit"].value, int(burst.value) if burst else 5),)


_PORT_OPTIONS = frozenset({"--dport", "--sport"})
_MODULES: dict[str, tuple[Callable[[str, Given, int], Found], frozenset[str]]] = {
    "tcp": (_ports, _PORT_OPTIONS),
    "udp": (_ports, _PORT_OPTIONS),
    "sctp": (_ports, _PORT_OPTIONS),
    "multiport": (_multiport, frozenset({"--dports", "--sports", "--ports"})),
    "icmp": (_icmp, frozenset({"--icmp-type"})),
    "icmp6": (_icmp, frozenset({"--icmpv6-type"})),
    "addrtype": (_addrtype, frozenset({"--src-type", "--dst-type"})),
    "conntrack": (_conntrack, frozenset({"--ctstate", "--ctstatus"})),
    "mark": (_mark, frozenset({"--mark"})),
    "comment": (_comment, frozenset({"--comment"})),
    "statistic": (_statistic, frozenset({"--mode", "--probability"})),
    "recent": (
        _recent,
        frozenset({"--set", "--rcheck", "--update", "--remove", "--seconds", "--reap"})
        | {"--hitcount", "--name", "--mask", "--rsource"},
    ),
    "set": (_set, frozenset({"--match-set"})),
    "limit": (_limit, frozenset({"--limit", "--limit-burst"})),
}
"""Module -> its reader and the options that it understands."""


def _target(option: Option, own: list[Option], version: int) -> t.Target:
    name = option.value
    if option.name == "-g":
        return t.Jump(name, goto=True)
    if name in ("ACCEPT", "DROP", "RETURN"):
        return t.Verdict(name)
    reader, known = _TARGETS.get(name, (None, frozenset()))
    if reader is None and not own and name not in _KERNEL_TARGETS:
        return t.Jump(name)
    if reader is None or not {o.name for o in own} <= known:
        return t.OtherTarget(("-j", name, *(w for o in own for w in o.words)))
    return reader({o.name: o for o in own}, version)


_KERNEL_TARGETS = {
    "AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CT", "DSCP", "NETMAP", "NFQUEUE", "QUEUE", "SET",
    "TCPMSS", "TEE", "TOS", "TPROXY", "TRACE", "TTL",
}  # fmt: skip
"""Targets that are no chains even without options."""


def _mark_target(own: Given, version: int) -> t.Target:
    (option,) = own.values()
    value, mask = _masked(option.value)
    if option.name == "--set-xmark":
        return t.SetMark(value, mask)
    if option.name == "--set-mark":
        return t.SetMark.set(value, mask)
    made = {"--or-mark": t.SetMark.or_, "--xor-mark": t.SetMark.xor, "--and-mark": t.SetMark.and_}
    return made[option.name](value)


def _text(own: Given, name: str) -> str:
    return own[name].value if name in own else ""


_TARGETS: dict[str, tuple[Callable[[Given, int], t.Target], frozenset[str]]] = {
    "REJECT": (
        lambda own, v: t.Reject(_text(own, "--reject-with") or t.REJECT[v].with_),
        frozenset({"--reject-with"}),
    ),
    "MARK": (
        _mark_target,
        frozenset({"--set-xmark", "--set-mark", "--or-mark", "--xor-mark", "--and-mark"}),
    ),
    "MASQUERADE": (
        lambda own, v: t.Masquerade("--random-fully" in own, _text(own, "--to-ports")),
        frozenset({"--random-fully", "--to-ports"}),
    ),
    "SNAT": (
        lambda own, v: t.Snat(_text(own, "--to-source"), "--random-fully" in own),
        frozenset({"--to-source", "--random-fully"}),
    ),
    "DNAT": (
        lambda own, v: t.Dnat(_text(own, "--to-destination"), "--persistent" in own),
        frozenset({"--to-destination", "--persistent"}),
    ),
    "REDIRECT": (lambda own, v: t.Redirect(_text(own, "--to-ports")), frozenset({"--to-ports"})),
    "NFLOG": (
        lambda own, v: t.Nflog(int(_text(own, "--nflog-group") or 0), _text(own, "--nflog-prefix")),
        frozenset({"--nflog-group", "--nflog-prefix"}),
    ),
    "LOG": (
        lambda own, v: t.Log(_text(own, "--log-prefix"), int(_text(own, "--log-level") or 4)),
        frozenset({"--log-prefix", "--log-level"}),
    ),
    "NOTRACK": (lambda own, v: t.Notrack(), frozenset()),
    "CT": (
        lambda own, v: t.Notrack(ct=True) if own else t.OtherTarget(("-j", "CT")),
        frozenset({"--notrack"}),
    ),
}
"""Target -> its reader and the options that it understands."""
