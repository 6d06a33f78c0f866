"""Mistakes in directives: the place, the plugin and the text are CoreDNS' own."""

import pytest

from kubewire.api.errors import InputError
from kubewire.dns.config import Environment, build

P = "Corefile:{} - Error during parsing: {}"
ARGS = "Wrong argument count or unexpected line ending after '{}'"
FORWARD = "forward . 127.0.0.1 {\n%s\n}"

ROWS: list[tuple[str, str]] = [
    ("acl {\nblock type net 10.0.0.0/8\n}", "plugin/acl: " + P.format(3, 'no token specified in "type" section')),
    ("acl {\nblock type A net 192.168.0/16\n}", "plugin/acl: " + P.format(3, 'illegal CIDR notation "192.168.0/16"')),
    ("acl {\nblock type A net 2001::85a3::1\n}", "plugin/acl: " + P.format(3, 'illegal CIDR notation "2001::85a3::1/128"')),
    ("any example.org", "plugin/any: " + P.format(2, ARGS.format("example.org"))),
    ("autopath", "plugin/autopath: no resolv-conf specified"),
    ("autopath nofile", 'plugin/autopath: failed to parse "nofile": open nofile: no such file or directory'),
    ("cache {\npositive 15\n}", "plugin/cache: " + P.format(3, ARGS.format("positive"))),
    ("cancel 5", 'plugin/cancel: invalid duration: "5"'),
    ("cancel -1s", 'plugin/cancel: invalid negative duration: "-1s"'),
    ("chaos v2 {\nunknown\n}", "plugin/chaos: " + P.format(3, "unknown property 'unknown'")),
    ("errors {\nconsolidate 1m .* extra\n}", "plugin/errors: " + P.format(3, "unknown option in consolidate: extra")),
    ("errors {\nconsolidate 1m e info debug\n}", "plugin/errors: " + P.format(3, "multiple log levels specified in consolidate")),
    ("errors {\nconsolidate 1m e show_first info\n}", "plugin/errors: " + P.format(3, "log level must come before show_first in consolidate")),
    ("etcd {\nendpoint http://localhost:2379\ncredentials one\n}", "plugin/etcd: " + P.format(4, "credentials requires 2 arguments, username and password")),
    (FORWARD % "health_check 0.5s domain", "plugin/forward: " + P.format(3, ARGS.format("domain"))),
    (FORWARD % "health_check 0.5s rec", "plugin/forward: health_check: unknown option rec"),
    (FORWARD % "health_check 1s domain a..b", "plugin/forward: health_check: invalid domain name a..b"),
    (FORWARD % "expire 30s\nmax_age 10s", "plugin/forward: max_age (10s) must not be less than expire (30s)"),
    (FORWARD % "source_address nowhere", "plugin/forward: " + P.format(3, "invalid IP address: nowhere")),
    (FORWARD % "read_timeout 0s", "plugin/forward: read_timeout must be positive: 0s"),
    (FORWARD % "next INVALID", "plugin/forward: INVALID is not a valid rcode"),
    (FORWARD % "failover NOERROR", "plugin/forward: NoError cannot be used in failover"),
    (FORWARD % "max_concurrent many", 'plugin/forward: strconv.Atoi: parsing "many": invalid syntax'),
    ("forward . https://127.0.0.1/x", "plugin/forward: paths are not allowed in HTTPS upstream addresses (the /dns-query path is used by default): https://127.0.0.1/x"),
    ("forward . grpc://127.0.0.1", "plugin/forward: 'grpc' is not supported as a destination protocol in forward: grpc://127.0.0.1:443"),
    (FORWARD % "doh_method PUT", "plugin/forward: doh_method must be either POST or GET"),
    (FORWARD % "resolver a.test", 'plugin/forward: resolver must be an IP address or IP:port: "a.test"'),
    ("forward . tls://", 'plugin/forward: invalid address: "tls://"'),
    ("forward . tls://127.0.0.1%a.test:854 {\ntls_servername b\n}", "plugin/forward: both forward ('b') and proxy level ('a.test') TLS servernames are set for upstream proxy 'tls://127.0.0.1:854'"),
    ("header {\nfoo\n}", "plugin/header: setting up rule: invalid selector=foo should be query or response"),
    ("header {\nquery foo rd\n}", "plugin/header: setting up rule: unknown flag action=foo, should be set or clear"),
    ("header {\nresponse set\n}", "plugin/header: setting up rule: invalid length for flags, at least one should be provided"),
    ("health localhost:1 {\nlamedudk 4\n}", "plugin/health: " + P.format(3, "unknown property 'lamedudk'")),
    ("health localhost:1 {\nlameduck a\n}", "plugin/health: unable to parse lameduck duration value: 'a' : time: invalid duration \"a\""),
    ("loadbalance fleeb", "plugin/loadbalance: unknown policy: fleeb"),
    ("loadbalance round_robin a", "plugin/loadbalance: " + P.format(2, "unknown property for round_robin")),
    ("loadbalance weighted a b", "plugin/loadbalance: " + P.format(2, "unexpected argument(s)")),
    ("hosts {\nfallthrough\n10.0.0.1 a.test\n}", "plugin/hosts: " + P.format(4, "unknown property '10.0.0.1'")),
    ("hosts {\nfallthrough_unsupported\n}", "plugin/hosts: " + P.format(4, "fallthrough_unsupported requires fallthrough")),
    ("dnssec {\nkey file Kno\n}", "plugin/dnssec: open Kno.key: no such file or directory"),
    ("local {\nlocalhost_prefix maybe\n}", "plugin/local: " + P.format(3, "localhost_prefix expects 'on' or 'off', got \"maybe\"")),
    ("local example.org", "plugin/local: " + P.format(2, ARGS.format("example.org"))),
    ("log {\nclass what\n}", "plugin/log: invalid Class: what"),
    ("log {\nunknown\n}", "plugin/log: " + P.format(3, "unknown property 'unknown'")),
    ("metadata\nmetadata", "plugin/metadata: " + P.format(3, ARGS.format("metadata"))),
    ("prometheus {\nruntime_metrics x\n}", "plugin/prometheus: " + P.format(3, ARGS.format("x"))),
    ("ready {\nmonitor 404\n}", "plugin/ready: " + P.format(3, "monitor type '404' not supported")),
    ("reload 3s 0.5s", "plugin/reload: jitter value must be 0 or greater or equal to 1s"),
    ("rewrite stop", "plugin/rewrite: stop rule must begin with a rule type"),
    ("secondary", "plugin/secondary: " + P.format(2, "secondary zones require a transfer from property")),
    ("timeouts {\n}", "plugin/timeouts: " + P.format(3, "timeouts block with no timeouts specified")),
    ("timeouts {\ngiraffe 30s\n}", "plugin/timeouts: " + P.format(3, "unknown option: 'giraffe'")),
    ("timeouts {\nread snake\n}", "plugin/timeouts: " + P.format(3, "failed to parse duration 'snake'")),
    ("timeouts {\nmaxtcpqueries -2\n}", "plugin/timeouts: " + P.format(3, "maxtcpqueries provided '-2' needs to be -1 (unlimited) or a positive integer")),
    ("transfer example.com {\nto example.com\n}", "plugin/transfer: must specify an IP address: `example.com'"),
]  # fmt: skip

GOOD = [
    FORWARD % "read_timeout 500ms\nsource_address ::1\nexpire 10s\nmax_age 20s",
    "forward . tls://127.0.0.1%example.net:854 {\ntls\n}",
    "local {\nlocalhost_prefix off\n}",
    "prometheus {\nruntime_metrics\n}",
    "reload 2s 0s",
    "errors {\nconsolidate 5m e warning show_first\nstacktrace\n}",
]


@pytest.mark.parametrize(("directive", "text"), ROWS, ids=[r[0].replace("\n", " ") for r in ROWS])
def test_mistakes(directive: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        build(f". {{\n{directive}\n}}", "Corefile", Environment(objects=[]))
    assert str(caught.value) == text


@pytest.mark.parametrize("directive", GOOD, ids=[g.replace("\n", " ") for g in GOOD])
def test_what_is_allowed(directive: str) -> None:
    build(f". {{\n{directive}\n}}", "Corefile", Environment(objects=[]))
