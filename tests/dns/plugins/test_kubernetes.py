"""The records of a cluster as tables: question -> rcode, answer, additional.

A negative answer must carry exactly one SOA record of the right zone; a positive one, none.
"""

import functools

import pytest

from dnsworld import WORLD, ZONE, Object, at, corefile, service, slice_
from kubewire.dns.explain import Explainer


@functools.cache
def explainer(options: str, zones: str = "cluster.local in-addr.arpa ip6.arpa") -> Explainer:
    return Explainer(WORLD, text=corefile(options, zones))


def check(
    world: Explainer, question: str, rcode: str, answer: str, additional: str = "", ttl: int = 5
) -> None:
    name, qtype = question.split()
    found = world.answer({"name": name, "type": qtype})
    rows = sorted(f"{t} {r}" for _, _, t, r in found["answer"])
    assert (found["rcode"], rows) == (rcode, sorted(_items(answer))), found
    extra = sorted(f"{n} {t} {r}" for n, _, t, r in found["additional"])
    assert extra == sorted(_items(additional)), found
    if not rows and rcode != "SERVFAIL":
        [[owner, soa_ttl, kind, rdata]] = found["authority"]
        assert kind == "SOA"
        assert name.lower().rstrip(".").endswith(owner.lower().rstrip("."))
        assert soa_ttl == min(ttl, 300)
        assert rdata.split()[:2] == [f"ns.dns.{owner}", f"hostmaster.{owner}"]
        assert rdata.split()[3:] == ["7200", "1800", "86400", str(ttl)]
    else:
        assert found["authority"] == []
    assert found["plugin"] == "kubernetes"


def _items(text: str) -> list[str]:
    return [x.strip() for x in text.split(";") if x.strip()]


DEFAULTS = """
web.default.svc A                       | NOERROR  | A 10.96.0.7
web.default.svc AAAA                    | NOERROR  |
web.other.svc A                         | NOERROR  | A 10.96.1.7
WEB.Default.SVC A                       | NOERROR  | A 10.96.0.7
dual.default.svc A                      | NOERROR  | A 10.96.0.8
dual.default.svc AAAA                   | NOERROR  | AAAA fd00:96::8
six.default.svc A                       | NOERROR  |
six.default.svc AAAA                    | NOERROR  | AAAA fd00:96::9
bare.default.svc A                      | NOERROR  | A 10.96.0.10
bare.default.svc SRV                    | NOERROR  |
unready.default.svc A                   | NOERROR  | A 10.96.0.12
hl.default.svc A                        | NOERROR  | A 10.244.1.1; A 10.244.1.2; A 10.244.1.3
hl.default.svc AAAA                     | NOERROR  | AAAA fd00:10::1; AAAA fd00:10:1::
nop.default.svc A                       | NOERROR  | A 10.244.4.1
nop.default.svc SRV                     | NOERROR  |
gone.default.svc A                      | NXDOMAIN |
gone.default.svc AAAA                   | NXDOMAIN |
none.default.svc A                      | NXDOMAIN |
none.default.svc SRV                    | NXDOMAIN |
10-244-1-1.hl.default.svc A             | NOERROR  | A 10.244.1.1
10-244-1-1.hl.default.svc AAAA          | NOERROR  |
one.hl.default.svc A                    | NOERROR  | A 10.244.1.2
10-244-1-2.hl.default.svc A             | NXDOMAIN |
10-244-1-9.hl.default.svc A             | NXDOMAIN |
fd00-10--1.hl.default.svc AAAA          | NOERROR  | AAAA fd00:10::1
fd00-10--1.hl.default.svc A             | NOERROR  |
fd00-10-1--0.hl.default.svc AAAA        | NOERROR  | AAAA fd00:10:1::
fd00-10-1--.hl.default.svc AAAA         | NXDOMAIN |
p-6.hl.default.svc AAAA                 | NXDOMAIN |
sts-0.sts.default.svc A                 | NOERROR  | A 10.244.5.1; A 10.244.5.2
10-244-0-2.web.default.svc A            | NOERROR  | A 10.244.0.2
bob.web.default.svc A                   | NOERROR  | A 10.244.0.3
x.web.default.svc A                     | NXDOMAIN |
a.b.c.web.default.svc A                 | NXDOMAIN |
_tcp.web.default.svc A                  | NXDOMAIN |
_tcp.web.default.svc SRV                | NXDOMAIN |
_http._udp.web.default.svc SRV          | NXDOMAIN |
_x._tcp.web.default.svc SRV             | NXDOMAIN |
_http._tcp.nope.default.svc SRV         | NXDOMAIN |
nope.default.svc A                      | NXDOMAIN |
nope.default.svc AAAA                   | NXDOMAIN |
nope.default.svc ANY                    | NXDOMAIN |
web.nowhere.svc A                       | NXDOMAIN |
nowhere.svc A                           | NXDOMAIN |
foo A                                   | NXDOMAIN |
dns A                                   | NXDOMAIN |
web.default A                           | NXDOMAIN |
*.default.svc A                         | NXDOMAIN |
any.default.svc A                       | NXDOMAIN |
web.*.svc A                             | NXDOMAIN |
svc A                                   | NOERROR  |
svc AAAA                                | NOERROR  |
svc SRV                                 | NOERROR  |
svc HINFO                               | NOERROR  |
svc TXT                                 | NXDOMAIN |
pod A                                   | NOERROR  |
default.svc A                           | NOERROR  |
default.svc AAAA                        | NOERROR  |
default.svc SRV                         | NOERROR  |
default.svc TXT                         | NXDOMAIN |
empty.svc A                             | NOERROR  |
default.pod A                           | NXDOMAIN |
10-244-9-1.default.pod A                | NXDOMAIN |
web.default.svc TXT                     | NOERROR  |
web.default.svc MX                      | NOERROR  |
web.default.svc ANY                     | NOERROR  |
web.default.svc HTTPS                   | NOERROR  |
web.default.svc CNAME                   | NOERROR  |
web.default.svc PTR                     | NOERROR  |
web.default.svc NS                      | NOERROR  |
web.default.svc SOA                     | NOERROR  |
nope.default.svc TXT                    | NXDOMAIN |
nope.default.svc HTTPS                  | NXDOMAIN |
dns-version TXT                         | NOERROR  | TXT "1.1.0"
dns-version A                           | NXDOMAIN |
alias.default.svc A                     | NOERROR  | CNAME web.default.svc.cluster.local.; A 10.96.0.7
alias.default.svc AAAA                  | NOERROR  |
alias.default.svc CNAME                 | NOERROR  | CNAME web.default.svc.cluster.local.
alias.default.svc SRV                   | NOERROR  |
alias.default.svc TXT                   | NOERROR  |
alias2.default.svc A                    | NOERROR  | CNAME alias.default.svc.cluster.local.; CNAME web.default.svc.cluster.local.; A 10.96.0.7
away.default.svc A                      | NOERROR  | CNAME example.com.
away.default.svc AAAA                   | NOERROR  | CNAME example.com.
away.default.svc CNAME                  | NOERROR  | CNAME example.com.
away2.default.svc A                     | NOERROR  | CNAME away.default.svc.cluster.local.; CNAME example.com.
away.default.svc SRV                    | NOERROR  |
x.away.default.svc A                    | NXDOMAIN |
_http._tcp.away.default.svc SRV         | NXDOMAIN |
missing.default.svc A                   | NOERROR  |
missing.default.svc CNAME               | NOERROR  | CNAME nothing.default.svc.cluster.local.
numeric.default.svc A                   | NXDOMAIN |
numeric.default.svc CNAME               | NXDOMAIN |
loop1.default.svc A                     | NOERROR  |
loop2.default.svc AAAA                  | NOERROR  |
self.default.svc A                      | NOERROR  |
self.default.svc CNAME                  | NOERROR  | CNAME self.default.svc.cluster.local.
area.pin._zone.hl.default.svc A         | NXDOMAIN |
"""

SRV = """
web.default.svc            | 0 100 80 web.default.svc                    | web.default.svc A 10.96.0.7
_http._tcp.web.default.svc | 0 100 80 web.default.svc                    | web.default.svc A 10.96.0.7
http.tcp.web.default.svc   | 0 100 80 web.default.svc                    | web.default.svc A 10.96.0.7
_HTTP._TCP.web.default.svc | 0 100 80 web.default.svc                    | web.default.svc A 10.96.0.7
unnamed.default.svc        | 0 100 443 unnamed.default.svc               | unnamed.default.svc A 10.96.0.11
_dns._udp.dual.default.svc | 0 50 53 dual.default.svc                    | dual.default.svc A 10.96.0.8; dual.default.svc AAAA fd00:96::8
dual.default.svc           | 0 25 53 dual.default.svc                    | dual.default.svc A 10.96.0.8; dual.default.svc AAAA fd00:96::8
bob.web.default.svc        | 0 100 8080 bob.web.default.svc              | bob.web.default.svc A 10.244.0.3
_http._tcp.sts.default.svc | 0 50 8080 sts-0.sts.default.svc             | sts-0.sts.default.svc A 10.244.5.1; sts-0.sts.default.svc A 10.244.5.2
"""

PTR = """
10.96.0.7     | web.default.svc
fd00:96::8    | dual.default.svc
10.244.1.1    | 10-244-1-1.hl.default.svc
10.244.1.2    | one.hl.default.svc
10.244.0.2    | 10-244-0-2.web.default.svc
10.244.0.3    | bob.web.default.svc
fd00:10:1::   | fd00-10-1--0.hl.default.svc
10.244.1.9    |
10.1.2.3      |
"""


def rows(table: str) -> list[tuple[str, ...]]:
    lines = [x for x in table.strip().splitlines() if x.strip()]
    return [tuple(c.strip() for c in line.split("|")) for line in lines]


@pytest.mark.parametrize(("question", "rcode", "answer"), rows(DEFAULTS))
@pytest.mark.parametrize("zone", ["cluster.local", "a.cluster.example"])
def test_names(question: str, rcode: str, answer: str, zone: str) -> None:
    name, qtype = question.split()
    if (zone != "cluster.local" and "cluster.local" in answer) or name.startswith(
        ("alias", "missing", "loop", "self", "away2")
    ):
        zone = "cluster.local"
    world = explainer("", f"{zone} in-addr.arpa ip6.arpa")
    check(world, f"{name}.{zone}. {qtype}", rcode, answer)


@pytest.mark.parametrize(("name", "answer", "additional"), rows(SRV))
@pytest.mark.parametrize("ttl", [5, 30, 0])
def test_srv(name: str, answer: str, additional: str, ttl: int) -> None:
    extra = "; ".join(
        f"{x.split()[0]}.{ZONE} {' '.join(x.split()[1:])}" for x in _items(additional)
    )
    world = explainer(f"ttl {ttl}")
    check(world, f"{name}.{ZONE} SRV", "NOERROR", f"SRV {answer}.{ZONE}", extra)
    found = world.answer({"name": f"{name}.{ZONE}", "type": "SRV"})
    assert {r[1] for s in ("answer", "additional") for r in found[s]} == {ttl}


def test_srv_of_headless_has_the_ports_of_each_slice() -> None:
    found = explainer("").answer({"name": f"_http._tcp.hl.default.svc.{ZONE}", "type": "SRV"})
    assert sorted(r[3] for r in found["answer"]) == sorted(
        f"0 16 {port} {host}.hl.default.svc.{ZONE}"
        for port, host in (
            (8080, "10-244-1-1"), (8080, "one"), (9090, "10-244-1-3"), (9090, "10-244-1-1"),
            (8080, "fd00-10--1"), (8080, "fd00-10-1--0"),
        )
    )  # fmt: skip
    assert len(found["additional"]) == 5


@pytest.mark.parametrize(("ip", "target"), rows(PTR))
def test_ptr(ip: str, target: str) -> None:
    from kubewire.lang.dns.name import reverse_name

    name = reverse_name(ip)
    expected = ("NOERROR", f"PTR {target}.{ZONE}") if target else ("NXDOMAIN", "")
    check(explainer(""), f"{name} PTR", *expected)
    check(explainer(""), f"{name} A", "NXDOMAIN", "")


@pytest.mark.parametrize(
    ("name", "rcode"),
    [
        ("in-addr.arpa.", "NOERROR"),
        ("ip6.arpa.", "NOERROR"),
        ("10.in-addr.arpa.", "NXDOMAIN"),
        ("96.10.in-addr.arpa.", "NXDOMAIN"),
        ("1.2.3.4.5.in-addr.arpa.", "NXDOMAIN"),
        ("d.f.ip6.arpa.", "NXDOMAIN"),
    ],
)
def test_reverse_tree(name: str, rcode: str) -> None:
    check(explainer(""), f"{name} PTR", rcode, "")


PODS = """
insecure | 10-244-9-1.default.pod A      | NOERROR  | A 10.244.9.1
insecure | 1-2-3-4.default.pod A         | NOERROR  | A 1.2.3.4
insecure | 1-2-3-4.default.pod AAAA      | NOERROR  |
insecure | fd00--1.default.pod AAAA      | NOERROR  | AAAA fd00::1
insecure | --1.default.pod AAAA          | NOERROR  | AAAA ::1
insecure | 1-2-3-400.default.pod A       | NXDOMAIN |
insecure | name.default.pod A            | NXDOMAIN |
insecure | 1-2-3-4.nowhere.pod A         | NXDOMAIN |
insecure | default.pod A                 | NOERROR  |
insecure | nowhere.pod A                 | NXDOMAIN |
insecure | x.10-244-9-1.default.pod A    | NOERROR  | A 10.244.9.1
verified | 10-244-9-1.default.pod A      | NOERROR  | A 10.244.9.1
verified | 10-244-9-1.other.pod A        | NXDOMAIN |
verified | 10-244-9-2.default.pod A      | NXDOMAIN |
verified | 1-2-3-4.default.pod A         | NXDOMAIN |
verified | 10-244-9-3.default.pod A      | NOERROR  | A 10.244.9.3
verified | fd00-10--9.default.pod AAAA   | NOERROR  | AAAA fd00:10::9
verified | default.pod A                 | NOERROR  |
disabled | default.pod A                 | NXDOMAIN |
disabled | 10-244-9-1.default.pod A      | NXDOMAIN |
"""


@pytest.mark.parametrize(("mode", "question", "rcode", "answer"), rows(PODS))
def test_pods(mode: str, question: str, rcode: str, answer: str) -> None:
    name, qtype = question.split()
    check(explainer(f"pods {mode}"), f"{name}.{ZONE} {qtype}", rcode, answer)


OPTIONS = """
noendpoints                 | web.default.svc A                     | NOERROR  | A 10.96.0.7
noendpoints                 | hl.default.svc A                      | NXDOMAIN |
noendpoints                 | one.hl.default.svc A                  | NXDOMAIN |
noendpoints                 | 10-244-0-2.web.default.svc A          | NXDOMAIN |
ignore empty_service        | unready.default.svc A                 | NXDOMAIN |
ignore empty_service        | web.default.svc A                     | NOERROR  | A 10.96.0.7
ignore empty_service        | alias.default.svc CNAME               | NOERROR  | CNAME web.default.svc.cluster.local.
namespaces other            | web.default.svc A                     | NXDOMAIN |
namespaces other            | default.svc A                         | NXDOMAIN |
namespaces other            | web.other.svc A                       | NOERROR  | A 10.96.1.7
namespaces other default    | web.default.svc A                     | NOERROR  | A 10.96.0.7
namespace_labels team=b     | web.default.svc A                     | NXDOMAIN |
namespace_labels team=b     | web.other.svc A                       | NOERROR  | A 10.96.1.7
namespace_labels team!=b    | web.default.svc A                     | NOERROR  | A 10.96.0.7
labels app=web              | web.default.svc A                     | NOERROR  | A 10.96.0.7
labels app=web              | dual.default.svc A                    | NXDOMAIN |
labels app=web              | bob.web.default.svc A                 | NOERROR  | A 10.244.0.3
labels app in (hl, web)     | hl.default.svc A                      | NOERROR  | A 10.244.1.1; A 10.244.1.2; A 10.244.1.3
endpoint_pod_names          | p-6.hl.default.svc AAAA               | NOERROR  | AAAA fd00:10:1::
endpoint_pod_names          | fd00-10-1--0.hl.default.svc AAAA      | NXDOMAIN |
endpoint_pod_names          | one.hl.default.svc A                  | NOERROR  | A 10.244.1.2
endpoint_pod_names          | 10-244-1-1.hl.default.svc A           | NOERROR  | A 10.244.1.1
zonal                       | x.pin._zone.hl.default.svc A          | NOERROR  |
zonal                       | x.prefer._zone.hl.default.svc A       | NOERROR  | A 10.244.1.1; A 10.244.1.2; A 10.244.1.3
zonal                       | x.pin._zone.web.default.svc A         | NXDOMAIN |
zonal                       | x.other._zone.hl.default.svc A        | NXDOMAIN |
zonal                       | x.y.pin._zone.hl.default.svc AAAA     | NOERROR  |
"""


@pytest.mark.parametrize(("options", "question", "rcode", "answer"), rows(OPTIONS))
def test_options(options: str, question: str, rcode: str, answer: str) -> None:
    name, qtype = question.split()
    check(explainer(options), f"{name}.{ZONE} {qtype}", rcode, answer)


def test_ptr_under_options() -> None:
    check(
        explainer("ignore empty_service"),
        "12.0.96.10.in-addr.arpa. PTR",
        "NOERROR",
        f"PTR unready.default.svc.{ZONE}",
    )
    check(explainer("noendpoints"), "1.1.244.10.in-addr.arpa. PTR", "NXDOMAIN", "")
    check(explainer("namespaces other"), "7.0.96.10.in-addr.arpa. PTR", "NXDOMAIN", "")
    check(
        explainer("namespaces other"),
        "7.1.96.10.in-addr.arpa. PTR",
        "NOERROR",
        f"PTR web.other.svc.{ZONE}",
    )


@pytest.mark.parametrize("ttl", [0, 5, 30, 300, 301, 3600])
def test_ttl(ttl: int) -> None:
    world = explainer(f"ttl {ttl}")
    check(world, f"nope.default.svc.{ZONE} A", "NXDOMAIN", "", ttl=ttl)
    [row] = world.answer({"name": f"web.default.svc.{ZONE}"})["answer"]
    assert row[1] == ttl
    [soa] = world.answer({"name": ZONE, "type": "SOA"})["answer"]
    assert (soa[1], soa[3].split()[-1]) == (min(ttl, 300), str(ttl))
    [txt] = world.answer({"name": f"dns-version.{ZONE}", "type": "TXT"})["answer"]
    assert txt[1] == 28800


def test_spelling_of_the_client_is_kept() -> None:
    found = explainer("").answer({"name": "wEb.Default.svc.CLUSTER.local.", "type": "SRV"})
    assert found["answer"][0][0] == "wEb.Default.svc.CLUSTER.local."
    assert found["answer"][0][3].endswith("web.default.svc.CLUSTER.local.")
    found = explainer("").answer({"name": "nope.Default.svc.CLUSTER.local."})
    assert found["authority"][0][0] == "CLUSTER.local."


def test_zones_are_matched_by_label() -> None:
    world = explainer("", "cluster.local sub.cluster.local in-addr.arpa")
    found = world.answer({"name": "notsub.cluster.local."})
    assert found["authority"][0][0] == "cluster.local."
    found = world.answer({"name": "web.default.svc.sub.cluster.local."})
    assert found["answer"][0][3] == "10.96.0.7"
    found = world.answer({"name": "notcluster.local."})
    assert (found["rcode"], found["authority"]) == ("SERVFAIL", [])
    found = world.answer({"name": "7.0.96.10.in-addr.arpa.", "type": "PTR"})
    assert found["answer"][0][3] == "web.default.svc.cluster.local."


FALL = """
fallthrough                    | nope.default.svc.cluster.local. | SERVFAIL
fallthrough                    | web.default.svc.cluster.local.  | NOERROR
fallthrough in-addr.arpa       | nope.default.svc.cluster.local. | NXDOMAIN
fallthrough in-addr.arpa       | 1.1.1.1.in-addr.arpa.           | SERVFAIL
fallthrough other.local        | nope.default.svc.cluster.local. | NXDOMAIN
fallthrough default.svc.cluster.local | nope.default.svc.cluster.local. | SERVFAIL
fallthrough default.svc.cluster.local | nope.other.svc.cluster.local. | NXDOMAIN
"""


@pytest.mark.parametrize(("options", "name", "rcode"), rows(FALL))
def test_fallthrough_only_on_nxdomain(options: str, name: str, rcode: str) -> None:
    assert explainer(options).answer({"name": name, "type": "AAAA"})["rcode"] == rcode


def test_name_servers() -> None:
    dns = [
        service("kube-dns", "10.96.0.10", namespace="kube-system"),
        slice_("kube-dns", "a", at("10.244.0.53"), namespace="kube-system"),
    ]
    world = Explainer(dns, text=corefile())
    name = f"kube-dns.kube-system.svc.{ZONE}"
    check(world, f"{ZONE} NS", "NOERROR", f"NS {name}", f"{name} A 10.96.0.10")
    check(world, f"ns.dns.{ZONE} A", "NOERROR", "A 10.96.0.10")
    for absent in ("AAAA", "SRV", "MX", "NS", "CNAME", "ANY", "HTTPS"):
        check(world, f"ns.dns.{ZONE} {absent}", "NOERROR", "")
    check(world, f"dns.{ZONE} A", "NXDOMAIN", "")


def imported(name: str, kind: str, *ips: str) -> Object:
    return {
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceImport",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": kind, "ips": list(ips), "ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
    }  # fmt: skip


MULTICLUSTER = """
imp.default.svc.clusterset.local. A                    | NOERROR  | A 10.97.0.1
_http._tcp.imp.default.svc.clusterset.local. SRV       | NOERROR  | SRV 0 100 80 imp.default.svc.clusterset.local.
web.default.svc.clusterset.local. A                    | NXDOMAIN |
imp.default.svc.cluster.local. A                       | NXDOMAIN |
web.default.svc.cluster.local. A                       | NOERROR  | A 10.96.0.7
himp.default.svc.clusterset.local. A                   | NOERROR  | A 10.8.0.1; A 10.9.0.1
10-8-0-1.east.himp.default.svc.clusterset.local. A     | NOERROR  | A 10.8.0.1
10-8-0-1.west.himp.default.svc.clusterset.local. A     | NXDOMAIN |
10-8-0-1.himp.default.svc.clusterset.local. A          | NXDOMAIN |
10-9-0-1.west.himp.default.svc.clusterset.local. A     | NOERROR  | A 10.9.0.1
"""


@pytest.mark.parametrize(("question", "rcode", "answer"), rows(MULTICLUSTER))
def test_multicluster(question: str, rcode: str, answer: str) -> None:
    labels = {"multicluster.kubernetes.io/service-name": "himp"}
    source = "multicluster.kubernetes.io/source-cluster"
    world = Explainer(
        [
            service("web", "10.96.0.7"),
            imported("imp", "ClusterSetIP", "10.97.0.1"),
            imported("himp", "Headless"),
            slice_("x", "a", at("10.8.0.1"), labels={**labels, source: "east"}),
            slice_("y", "a", at("10.9.0.1"), labels={**labels, source: "west"}),
        ],
        text=corefile("multicluster clusterset.local", "cluster.local clusterset.local"),
    )
    name, qtype = question.split()
    found = world.answer({"name": name, "type": qtype})
    rows_ = sorted(f"{t} {r}" for _, _, t, r in found["answer"])
    assert (found["rcode"], rows_) == (rcode, sorted(_items(answer)))


ERRORS = """
pods maybe                                | plugin/kubernetes: wrong value for pods: maybe,  must be one of: disabled, verified, insecure
pods                                      | plugin/kubernetes: Corefile:3 - Error during parsing: Wrong argument count or unexpected line ending after 'pods'
ttl 3601                                  | plugin/kubernetes: Corefile:3 - Error during parsing: ttl must be in range [0, 3600]: 3601
ttl -1                                    | plugin/kubernetes: Corefile:3 - Error during parsing: ttl must be in range [0, 3600]: -1
frob                                      | plugin/kubernetes: Corefile:3 - Error during parsing: unknown property 'frob'
ignore x                                  | plugin/kubernetes: unable to parse ignore value: 'x'
namespaces                                | plugin/kubernetes: Corefile:3 - Error during parsing: Wrong argument count or unexpected line ending after 'namespaces'
apiserver_qps -1                          | plugin/kubernetes: Corefile:3 - Error during parsing: apiserver_qps must be >= 0
noendpoints x                             | plugin/kubernetes: Corefile:3 - Error during parsing: Wrong argument count or unexpected line ending after 'x'
"""


@pytest.mark.parametrize(("options", "text"), rows(ERRORS))
def test_errors(options: str, text: str) -> None:
    from kubewire.dns.corefile import CorefileError

    with pytest.raises(CorefileError) as caught:
        Explainer([], text=corefile(options))
    assert str(caught.value) == text


def test_errors_of_the_whole() -> None:
    from kubewire.dns.corefile import CorefileError

    for text, part in (
        (
            corefile("namespaces a\nnamespace_labels b=c"),
            "namespaces and namespace_labels cannot both be set",
        ),
        (corefile("zonal\nnoendpoints"), "zonal requires the endpoint cache; remove noendpoints"),
        (
            corefile("multicluster x.local"),
            "is not authoritative for the multicluster zone x.local.",
        ),
        (corefile("", "in-addr.arpa"), "non-reverse zone name must be used"),
        (
            ".:53 {\nkubernetes a.local\nkubernetes b.local\n}",
            "this plugin can only be used once per Server Block",
        ),
    ):
        with pytest.raises(CorefileError, match=part.replace(".", r"\.")):
            Explainer([], text=text)
