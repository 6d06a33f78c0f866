"""More of the table: a fixture, a target, and what becomes of each kind of sender.

An outcome is ``reject``, ``drop``, ``pass`` or the endpoints, with ``+`` in front where the flow is
masqueraded; an empty one is not asked.
"""

from collections.abc import Iterator
from typing import Any

from tests.kubeproxy.basics import (
    BOTH,
    BOTH_OUT,
    DYING,
    ETP,
    HERE,
    HERE_OUT,
    JSON,
    NODE,
    NODE_IP,
    NODE_PORT,
    OTHER,
    OTHER_IP,
    OUTSIDE,
    POD,
    REMOTE,
    THERE,
    THERE_OUT,
    VIP,
    Row,
    endpoint,
    hint,
    piece,
    service,
)

VIP4, EXTERNAL, CLUSTER = "5.5.5.5", "1.2.3.4", "10.96.0.41"
ITP = {"internalTrafficPolicy": "Local"}
ALL: JSON = {"status": VIP, "externalIPs": [EXTERNAL], **NODE_PORT}
STICKY = {"sessionAffinity": "ClientIP"}
GONE = {"ready": False, "serving": False, "terminating": True}
SIX = piece(
    endpoint("fd00:10:244::1"), endpoint("fd00:10:244:1::1", OTHER), family="IPv6", suffix="six"
)
SIX_OUT = "[fd00:10:244::1]:8080 [fd00:10:244:1::1]:8080"
POD6, OUT6, NODE6 = "fd00:10:244::9", "2001:db8:1::9", "2001:db8::2"
DUAL = {"clusterIPs": [CLUSTER, "fd00:10:96::41"], "clusterIP": CLUSTER}
UDP53 = {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30080}
TCP53 = {"name": "dns-tcp", "port": 53, "protocol": "TCP", "nodePort": 30080}


def vip(*ips: str, **more: Any) -> JSON:
    return {"loadBalancer": {"ingress": [{"ip": ip, **more} for ip in ips]}}


FIXTURES: dict[str, list[JSON]] = {
    "all": [service("LoadBalancer", **ALL), BOTH],
    "all-local": [service("LoadBalancer", **ALL, **ETP), BOTH],
    "all-remote": [service("LoadBalancer", **ALL, **ETP), REMOTE],
    "all-empty-local": [service("LoadBalancer", **ALL, **ETP)],
    "both-local": [service("LoadBalancer", **ALL, **ETP, **ITP), BOTH],
    "both-local-remote": [service("LoadBalancer", **ALL, **ETP, **ITP), REMOTE],
    "internal-local-all": [service("LoadBalancer", **ALL, **ITP), BOTH],
    "internal-empty": [service(**ITP)],
    "sticky-all": [service("LoadBalancer", **ALL, **STICKY), BOTH],
    "sticky-local": [service("LoadBalancer", **ALL, **STICKY, **ETP), BOTH],
    "sticky-empty": [service(**STICKY)],
    "ranges-empty": [service("LoadBalancer", loadBalancerSourceRanges=["203.0.113.0/25"], **ALL)],
    "ranges-local": [service("LoadBalancer", loadBalancerSourceRanges=["203.0.113.0/25"], **ALL, **ETP), BOTH],
    "ranges-pods": [service("LoadBalancer", loadBalancerSourceRanges=["10.244.0.0/16"], **ALL), BOTH],
    "ranges-any": [service("LoadBalancer", loadBalancerSourceRanges=["0.0.0.0/0"], **ALL), BOTH],
    "ranges-sloppy": [service("LoadBalancer", loadBalancerSourceRanges=[" 203.000.113.000/25 "], **ALL), BOTH],
    "ranges-host": [service("LoadBalancer", loadBalancerSourceRanges=["203.0.113.2/32", "203.0.113.0/30"], **ALL), BOTH],
    "two-vips": [service("LoadBalancer", status=vip(VIP4, "5.5.5.6"), **NODE_PORT), BOTH],
    "vip-hostname": [service("LoadBalancer", status={"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}}), BOTH],
    "vip-unset-mode": [service("LoadBalancer", status=vip(VIP4, ipMode="VIP")), BOTH],
    "vip-proxy-nodeport": [service("LoadBalancer", status=vip(VIP4, ipMode="Proxy"), **NODE_PORT), BOTH],
    "no-node-ports": [service("LoadBalancer", status=VIP, allocateLoadBalancerNodePorts=False), BOTH],
    "two-ports": [
        service(ports=[{"name": "p80", "port": 80}, {"name": "p81", "port": 81}]),
        {**piece(HERE, THERE), "ports": [{"name": "p80", "port": 8080, "protocol": "TCP"}, {"name": "p81", "port": 8181, "protocol": "TCP"}]},
    ],
    "one-port-of-two": [service(ports=[{"name": "p80", "port": 80}, {"name": "p81", "port": 81}]), BOTH],
    "port-per-slice": [service(), piece(HERE, port=8080), piece(THERE, port=9090, suffix="b")],
    "dns": [service("NodePort", ports=[UDP53, TCP53]), piece(HERE, port=1053, name="dns", protocol="UDP"), piece(THERE, port=1053, name="dns-tcp", suffix="b")],
    "udp-empty": [service("NodePort", ports=[{"name": "p80", "port": 80, "protocol": "UDP", "nodePort": 30080}])],
    "sctp-nodeport": [service("NodePort", ports=[{"name": "p80", "port": 80, "protocol": "SCTP", "nodePort": 30080}]), piece(HERE, protocol="SCTP")],
    "dual-all": [service("LoadBalancer", status=vip(VIP4, "2001:db8:5::5"), externalIPs=[EXTERNAL, "2001:db8:4::4"], **NODE_PORT, **DUAL), BOTH, SIX],
    "dual-local": [service("LoadBalancer", status=vip(VIP4, "2001:db8:5::5"), **NODE_PORT, **DUAL, **ETP), BOTH, SIX],
    "dual-half-empty": [service(**DUAL), BOTH],
    "six-only": [service("NodePort", clusterIP="fd00:10:96::41", **NODE_PORT), SIX],
    "six-ranges": [service("LoadBalancer", status=vip(VIP4, "2001:db8:5::5"), loadBalancerSourceRanges=["2001:db8:1::/64"], **DUAL), BOTH, SIX],
    "mixed-family": [service(externalIPs=["2001:db8:4::4", EXTERNAL]), BOTH],
    "hints-both": [service(), piece(endpoint("10.244.0.1", hints={**hint("b"), **hint(name=NODE)}), endpoint("10.244.1.1", OTHER, hints={**hint("a"), **hint(name=OTHER)}))],
    "hints-node-partial": [service(), piece(endpoint("10.244.0.1", hints={**hint("a"), **hint(name=OTHER)}), endpoint("10.244.1.1", OTHER, hints=hint("b")))],
    "hints-unready": [service(), piece(endpoint("10.244.0.1", hints=hint("a")), endpoint("10.244.1.1", OTHER, ready=False))],
    "hints-dying": [service(), piece(endpoint("10.244.0.1", hints=hint("b"), **DYING), endpoint("10.244.1.1", OTHER, hints=hint("a"), **DYING))],
    "hints-local": [service("NodePort", **NODE_PORT, **ETP), piece(endpoint("10.244.0.1", hints=hint("b")), endpoint("10.244.1.1", OTHER, hints=hint("a")))],
    "hints-two-zones": [service(), piece(endpoint("10.244.0.1", hints={"forZones": [{"name": "b"}, {"name": "a"}]}), endpoint("10.244.1.1", OTHER, hints=hint("b")))],
    "hints-empty": [service(), piece(endpoint("10.244.0.1", hints={"forZones": []}), endpoint("10.244.1.1", OTHER, hints=hint("a")))],
    "distribution": [service(trafficDistribution="PreferSameNode"), BOTH],
    "serving-unsaid": [service(), piece(endpoint("10.244.0.1", ready=False, terminating=True), endpoint("10.244.1.1", OTHER, **GONE))],
    "conditions-unsaid": [service(), piece({"addresses": ["10.244.0.1"]}, {"addresses": ["10.244.1.1"], "conditions": {"ready": None}})],
    "dying-everywhere-local": [service("NodePort", **NODE_PORT, **ETP), piece(endpoint("10.244.1.1", OTHER, **DYING))],
    "dying-both": [service("NodePort", **NODE_PORT, **ETP), piece(endpoint("10.244.0.1", **DYING), endpoint("10.244.1.1", OTHER, **DYING))],
    "unready-not-dying": [service(), piece(endpoint("10.244.0.1", ready=False, serving=True))],
    "moving": [service(), piece(endpoint("10.244.0.1", ready=False)), piece(HERE, suffix="b")],
    "own-pod": [service(), piece(endpoint(POD), THERE)],
    "only-own-pod": [service("LoadBalancer", **ALL, **ETP), piece(endpoint(POD))],
    "on-the-node": [service(), piece(endpoint(NODE_IP), endpoint(OTHER_IP, OTHER))],
    "outside-endpoint": [service(), piece({"addresses": ["198.51.100.7"], "conditions": {"ready": True}})],
    "external-node-ip": [service(externalIPs=[NODE_IP]), BOTH],
    "external-other-node": [service(externalIPs=[OTHER_IP]), BOTH],
    "sloppy": [service(externalIPs=[" 001.002.003.004 "]), BOTH],
    "mapped": [service(externalIPs=["::ffff:1.2.3.4"]), BOTH],
    "leftovers": [service("ExternalName", externalName="a.example", **ALL), BOTH],
    "headless-all": [service("LoadBalancer", **{**ALL, "clusterIP": "None"}), BOTH],
    "no-cluster-ip": [service("LoadBalancer", **{**ALL, "clusterIP": ""}), BOTH],
    "fqdn": [service(), piece({"addresses": ["a.example"], "conditions": {}}, family="FQDN")],
    "strange-slice": [service(), piece(HERE), piece(THERE, labels={"kubernetes.io/service-name": "other"}, suffix="b")],
    "foreign-labels": [service(labels={"service.kubernetes.io/headless": ""}), BOTH],
}  # fmt: skip

ENDS = f"+{BOTH_OUT}"
MATRIX: list[tuple[str, str, int, str, str, str, str]] = [
    # fixture, target, port, from a pod, from the node, from another node, from outside
    *(("all", t, p, ENDS, ENDS, ENDS, ENDS) for t, p in ((VIP4, 80), (EXTERNAL, 80), (NODE_IP, 30080))),
    ("all", CLUSTER, 80, BOTH_OUT, ENDS, ENDS, ENDS),
    ("all", VIP4, 30080, "pass", "pass", "pass", "pass"),
    ("all", EXTERNAL, 81, "pass", "pass", "pass", "pass"),
    ("all", NODE_IP, 80, "pass", "pass", "pass", "pass"),
    ("all", OTHER_IP, 30080, "pass", "pass", "pass", "pass"),
    ("all", CLUSTER, 30080, "reject", "reject", "reject", "reject"),
    *(("all-local", t, p, BOTH_OUT, ENDS, HERE_OUT, HERE_OUT) for t, p in ((VIP4, 80), (EXTERNAL, 80), (NODE_IP, 30080))),
    ("all-local", CLUSTER, 80, BOTH_OUT, ENDS, ENDS, ENDS),
    *(("all-remote", t, p, THERE_OUT, f"+{THERE_OUT}", "drop", "drop") for t, p in ((VIP4, 80), (EXTERNAL, 80), (NODE_IP, 30080))),
    ("all-remote", CLUSTER, 80, THERE_OUT, f"+{THERE_OUT}", f"+{THERE_OUT}", f"+{THERE_OUT}"),
    *(("all-empty-local", t, p, "reject", "reject", "reject", "reject") for t, p in ((VIP4, 80), (EXTERNAL, 80), (NODE_IP, 30080), (CLUSTER, 80))),
    ("both-local", CLUSTER, 80, HERE_OUT, f"+{HERE_OUT}", f"+{HERE_OUT}", f"+{HERE_OUT}"),
    *(("both-local", t, p, BOTH_OUT, ENDS, HERE_OUT, HERE_OUT) for t, p in ((VIP4, 80), (NODE_IP, 30080))),
    ("both-local-remote", CLUSTER, 80, "drop", "drop", "drop", "drop"),
    ("both-local-remote", VIP4, 80, THERE_OUT, f"+{THERE_OUT}", "drop", "drop"),
    ("internal-local-all", CLUSTER, 80, HERE_OUT, f"+{HERE_OUT}", f"+{HERE_OUT}", f"+{HERE_OUT}"),
    *(("internal-local-all", t, p, ENDS, ENDS, ENDS, ENDS) for t, p in ((VIP4, 80), (EXTERNAL, 80), (NODE_IP, 30080))),
    ("internal-empty", CLUSTER, 80, "reject", "reject", "reject", "reject"),
    ("sticky-empty", CLUSTER, 80, "reject", "reject", "", ""),
    ("ranges-empty", VIP4, 80, "drop", "drop", "drop", "reject"),
    ("ranges-empty", EXTERNAL, 80, "reject", "reject", "reject", "reject"),
    ("ranges-local", VIP4, 80, "drop", "drop", "drop", HERE_OUT),
    ("ranges-local", NODE_IP, 30080, BOTH_OUT, ENDS, HERE_OUT, HERE_OUT),
    ("ranges-pods", VIP4, 80, ENDS, "drop", "drop", "drop"),
    ("ranges-any", VIP4, 80, ENDS, ENDS, ENDS, ENDS),
    ("ranges-sloppy", VIP4, 80, "drop", "drop", "drop", ENDS),
    ("ranges-host", VIP4, 80, "drop", "drop", "drop", ENDS),
    *(("two-vips", t, 80, ENDS, ENDS, ENDS, ENDS) for t in (VIP4, "5.5.5.6")),
    ("two-vips", "5.5.5.7", 80, "pass", "pass", "pass", "pass"),
    ("vip-hostname", CLUSTER, 80, BOTH_OUT, ENDS, "", ""),
    ("vip-unset-mode", VIP4, 80, ENDS, ENDS, ENDS, ENDS),
    ("vip-proxy-nodeport", VIP4, 80, "pass", "pass", "pass", "pass"),
    ("vip-proxy-nodeport", NODE_IP, 30080, ENDS, ENDS, ENDS, ENDS),
    ("no-node-ports", VIP4, 80, ENDS, ENDS, ENDS, ENDS),
    ("no-node-ports", NODE_IP, 30080, "pass", "pass", "pass", "pass"),
    ("two-ports", CLUSTER, 81, "10.244.0.1:8181 10.244.1.1:8181", "+10.244.0.1:8181 10.244.1.1:8181", "", ""),
    ("two-ports", CLUSTER, 82, "reject", "reject", "", ""),
    ("one-port-of-two", CLUSTER, 80, BOTH_OUT, ENDS, "", ""),
    ("one-port-of-two", CLUSTER, 81, "reject", "reject", "reject", "reject"),
    ("port-per-slice", CLUSTER, 80, "10.244.0.1:8080 10.244.1.1:9090", "", "", "+10.244.0.1:8080 10.244.1.1:9090"),
    ("dual-all", "fd00:10:96::41", 80, SIX_OUT, f"+{SIX_OUT}", "", f"+{SIX_OUT}"),
    ("dual-all", "2001:db8:5::5", 80, f"+{SIX_OUT}", f"+{SIX_OUT}", "", f"+{SIX_OUT}"),
    ("dual-all", "2001:db8:4::4", 80, f"+{SIX_OUT}", f"+{SIX_OUT}", "", f"+{SIX_OUT}"),
    ("dual-all", NODE6, 30080, f"+{SIX_OUT}", f"+{SIX_OUT}", "", f"+{SIX_OUT}"),
    ("dual-all", VIP4, 80, ENDS, ENDS, ENDS, ENDS),
    ("dual-local", "2001:db8:5::5", 80, SIX_OUT, f"+{SIX_OUT}", "", "[fd00:10:244::1]:8080"),
    ("dual-local", NODE6, 30080, SIX_OUT, f"+{SIX_OUT}", "", "[fd00:10:244::1]:8080"),
    ("dual-half-empty", "fd00:10:96::41", 80, "reject", "reject", "", "reject"),
    ("dual-half-empty", CLUSTER, 80, BOTH_OUT, ENDS, ENDS, ENDS),
    ("six-only", NODE_IP, 30080, "pass", "pass", "pass", "pass"),
    ("six-only", NODE6, 30080, f"+{SIX_OUT}", f"+{SIX_OUT}", "", f"+{SIX_OUT}"),
    ("six-only", "fd00:10:96::41", 81, "reject", "reject", "", "reject"),
    ("six-ranges", "2001:db8:5::5", 80, "drop", "drop", "", f"+{SIX_OUT}"),
    ("six-ranges", VIP4, 80, ENDS, ENDS, ENDS, ENDS),
    ("mixed-family", EXTERNAL, 80, ENDS, ENDS, ENDS, ENDS),
    ("mixed-family", "2001:db8:4::4", 80, "pass", "pass", "", "pass"),
    ("hints-both", CLUSTER, 80, HERE_OUT, f"+{HERE_OUT}", "", f"+{HERE_OUT}"),
    ("hints-node-partial", CLUSTER, 80, HERE_OUT, f"+{HERE_OUT}", "", ""),
    ("hints-unready", CLUSTER, 80, HERE_OUT, f"+{HERE_OUT}", "", ""),
    ("hints-dying", CLUSTER, 80, BOTH_OUT, ENDS, "", ""),
    ("hints-local", NODE_IP, 30080, THERE_OUT, f"+{THERE_OUT}", HERE_OUT, HERE_OUT),
    ("hints-two-zones", CLUSTER, 80, HERE_OUT, "", "", ""),
    ("hints-empty", CLUSTER, 80, BOTH_OUT, "", "", ""),
    ("distribution", CLUSTER, 80, BOTH_OUT, ENDS, "", ""),
    ("serving-unsaid", CLUSTER, 80, HERE_OUT, f"+{HERE_OUT}", "", ""),
    ("conditions-unsaid", CLUSTER, 80, BOTH_OUT, ENDS, "", ""),
    ("dying-everywhere-local", NODE_IP, 30080, THERE_OUT, f"+{THERE_OUT}", "drop", "drop"),
    ("dying-both", NODE_IP, 30080, BOTH_OUT, ENDS, HERE_OUT, HERE_OUT),
    ("unready-not-dying", CLUSTER, 80, "reject", "reject", "reject", "reject"),
    ("moving", CLUSTER, 80, HERE_OUT, f"+{HERE_OUT}", "", ""),
    ("own-pod", CLUSTER, 80, f"+{POD}:8080 {THERE_OUT}", f"+{POD}:8080 {THERE_OUT}", "", f"+{POD}:8080 {THERE_OUT}"),
    *(("only-own-pod", t, p, f"+{POD}:8080", f"+{POD}:8080", f"{POD}:8080", f"{POD}:8080") for t, p in ((VIP4, 80), (NODE_IP, 30080))),
    ("on-the-node", CLUSTER, 80, f"{NODE_IP}:8080 {OTHER_IP}:8080", "", "", f"+{NODE_IP}:8080 {OTHER_IP}:8080"),
    ("outside-endpoint", CLUSTER, 80, "198.51.100.7:8080", "+198.51.100.7:8080", "", "+198.51.100.7:8080"),
    ("external-node-ip", NODE_IP, 80, ENDS, ENDS, ENDS, ENDS),
    ("external-other-node", OTHER_IP, 80, ENDS, ENDS, "", ENDS),
    ("sloppy", EXTERNAL, 80, ENDS, ENDS, ENDS, ENDS),
    ("mapped", EXTERNAL, 80, ENDS, ENDS, ENDS, ENDS),
    *(("leftovers", t, p, "pass", "pass", "pass", "pass") for t, p in ((CLUSTER, 80), (VIP4, 80), (EXTERNAL, 80), (NODE_IP, 30080))),
    *(("headless-all", t, p, "pass", "pass", "pass", "pass") for t, p in ((VIP4, 80), (EXTERNAL, 80), (NODE_IP, 30080))),
    *(("no-cluster-ip", t, p, "pass", "pass", "pass", "pass") for t, p in ((VIP4, 80), (EXTERNAL, 80), (NODE_IP, 30080))),
    ("fqdn", CLUSTER, 80, "reject", "reject", "", ""),
    ("strange-slice", CLUSTER, 80, HERE_OUT, f"+{HERE_OUT}", "", ""),
    ("foreign-labels", CLUSTER, 80, "pass", "pass", "pass", "pass"),
]  # fmt: skip


def _row(fixture: str, source: str, target: str, port: int, outcome: str, **more: Any) -> Row:
    verdicts = {"reject": "reject", "drop": "drop", "pass": "passthrough"}
    if outcome in verdicts:
        return Row(fixture, source, target, port, verdicts[outcome], **more)
    ends = outcome.removeprefix("+")
    return Row(fixture, source, target, port, "accept", ends, outcome.startswith("+"), **more)


def _rows() -> Iterator[Row]:
    for fixture, target, port, *outcomes in MATRIX:
        senders = (POD, NODE_IP, OTHER_IP, OUTSIDE)
        if ":" in target:
            senders = (POD6, NODE6, "", OUT6)
        for source, outcome in zip(senders, outcomes, strict=True):
            if outcome:
                yield _row(fixture, source, target, port, outcome)
    for fixture, target, port in (("sticky-all", VIP4, 80), ("sticky-all", NODE_IP, 30080)):
        yield _row(fixture, OUTSIDE, target, port, ENDS, sticky=10800)
    yield _row("sticky-local", OUTSIDE, VIP4, 80, HERE_OUT, sticky=10800)
    yield _row("sticky-local", POD, VIP4, 80, BOTH_OUT, sticky=10800)
    udp = {"protocol": "UDP"}
    yield _row("dns", POD, CLUSTER, 53, "10.244.0.1:1053", **udp)
    yield _row("dns", POD, CLUSTER, 53, "10.244.1.1:1053")
    yield _row("dns", OUTSIDE, NODE_IP, 30080, "+10.244.0.1:1053", **udp)
    yield _row("dns", OUTSIDE, NODE_IP, 30080, "+10.244.1.1:1053")
    yield _row("dns", POD, CLUSTER, 53, "reject", protocol="SCTP")
    for source in (POD, NODE_IP, OUTSIDE):
        yield _row("udp-empty", source, CLUSTER, 80, "reject", **udp)
        yield _row("udp-empty", source, NODE_IP, 30080, "reject", **udp)
        yield _row("udp-empty", source, NODE_IP, 30080, "pass")
        yield _row("sctp-nodeport", source, NODE_IP, 30080, f"+{HERE_OUT}", protocol="SCTP")


ROWS = list(_rows())
