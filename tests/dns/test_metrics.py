"""The page of the prometheus plugin: names and labels are those that CoreDNS 1.14.7 shows."""

import asyncio
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from kubewire.dns.metrics import Book, Metric
from kubewire.lang.dns.message import Edns

pytestmark = pytest.mark.kernel

COREFILE = """.:0 {
    prometheus 127.0.0.1:9153
    health 127.0.0.1:8080
    reload
    local
    dns64 {
        allow_ipv4
    }
    acl {
        filter type MX
        block type TXT
        drop type HINFO
    }
    cache 30
    template IN A tpl.test {
        answer "{{ .Name }} 60 IN A 192.0.2.1"
    }
    template IN A bad.test {
        answer "{{ .Name }} 60 IN A foo"
    }
    hosts HOSTS {
        fallthrough
    }
    forward . 127.0.0.1:1 {
        max_connect_attempts 1
        max_fails 0
    }
}
"""
QUESTIONS = [
    ("web.test.", "A"), ("web.test.", "A"), ("x.tpl.test.", "A"), ("x.bad.test.", "A"),
    ("localhost.foo.", "A"), ("web.test.", "AAAA"), ("x.test.", "MX"), ("x.test.", "TXT"),
    ("lost.test.", "A"),
]  # fmt: skip
AT = 'server="dns://:PORT"'
EXPECTED = [
    f'coredns_acl_allowed_requests_total{{{AT},view=""}} 7',
    f'coredns_acl_filtered_requests_total{{{AT},view="",zone="."}} 1',
    f'coredns_acl_blocked_requests_total{{{AT},view="",zone="."}} 1',
    f'coredns_cache_entries{{{AT},type="denial",view="",zones="."}} 0',
    f'coredns_cache_entries{{{AT},type="success",view="",zones="."}} 2',
    f'coredns_cache_hits_total{{{AT},type="success",view="",zones="."}} 2',
    f'coredns_cache_misses_total{{{AT},view="",zones="."}} 5',
    f'coredns_cache_requests_total{{{AT},view="",zones="."}} 7',
    f'coredns_dns64_requests_translated_total{{{AT}}} 1',
    f'coredns_dns_do_requests_total{{{AT},view="",zone="."}} 1',
    f'coredns_dns_requests_total{{family="1",proto="udp",{AT},type="MX",view="",zone="."}} 1',
    f'coredns_dns_responses_total{{plugin="hosts",rcode="NOERROR",{AT},view="",zone="."}} 4',
    "coredns_forward_healthcheck_broken_total 0",
    "coredns_forward_max_concurrent_rejects_total 0",
    "coredns_health_request_failures_total 0",
    'coredns_hosts_entries{hostsfile="HOSTS"} 2',
    "coredns_local_localhost_requests_total 1",
    "coredns_panics_total 0",
    f'coredns_plugin_enabled{{name="cache",{AT},view="",zone="."}} 1',
    'coredns_proxy_conn_cache_misses_total{proto="udp",proxy_name="forward",to="127.0.0.1:1"} 1',
    "coredns_reload_failed_total 0",
    f'coredns_template_matches_total{{class="IN",{AT},type="A",view="",zone="tpl.test."}} 1',
    f'coredns_template_rr_failures_total{{class="IN",section="answer",{AT},template="{{{{.Name}}}} 60 IN A foo",type="A",view="",zone="bad.test."}} 1',
]  # fmt: skip
BUCKETS = {
    "coredns_dns_request_duration_seconds": "0.00025 0.0005 0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 +Inf",
    "coredns_dns_response_size_bytes": "0 100 200 300 400 511 1023 2047 4095 8291 16000 32000 48000 64000 +Inf",
    "coredns_health_request_duration_seconds": "0.00025 0.0025 0.025 0.25 2.5 +Inf",
}  # fmt: skip


async def page() -> list[str]:
    def get() -> str:
        with urllib.request.urlopen("http://127.0.0.1:9153/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    return (await asyncio.to_thread(get)).splitlines()


async def test_what_plugins_count(serve: Any, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.7 web.test\n")
    async with serve(COREFILE.replace("HOSTS", str(hosts))) as dns:
        for name, kind in QUESTIONS:
            await dns.ask(name, kind, edns=Edns(do=True) if kind == "MX" else None)
        lines = await page()
        while not any(line.startswith("coredns_health_request_duration") for line in lines):
            lines = await page()
        shown = [x.replace(f":{dns.port}", ":PORT").replace(str(hosts), "HOSTS") for x in lines]
        assert set(EXPECTED) <= set(shown), set(EXPECTED) - set(shown)
        for name, bounds in BUCKETS.items():
            found = [m[1] for x in shown if (m := re.match(rf'{name}_bucket.*le="([^"]+)"', x))]
            assert found[: len(bounds.split())] == bounds.split()


async def test_replayed_answers_count_as_hits_of_the_cache(serve: Any, ask_bytes: Any) -> None:
    text = COREFILE.replace("dns64 {\n        allow_ipv4\n    }", "").replace("HOSTS", "/nowhere")
    text = re.sub(r"acl .*?\n    }\n", "", text, flags=re.DOTALL)
    text = re.sub(r"template .*?\n    }\n", "any\n", text, count=1, flags=re.DOTALL)
    text = re.sub(r"template .*?\n    }\n", "", text, flags=re.DOTALL)
    async with serve(text.replace("fallthrough", "192.0.2.7 web.test\n fallthrough")) as dns:
        for _ in range(20):
            await dns.ask("web.test.")
        lines = await page()
        [hits] = [x for x in lines if x.startswith("coredns_cache_hits_total")]
        [asked] = [x for x in lines if x.startswith("coredns_cache_requests_total")]
        assert (hits.split()[-1], asked.split()[-1]) == ("19", "20")


async def test_counters_go_on_over_a_reload(serve: Any) -> None:
    text = ".:0 {\n prometheus 127.0.0.1:9153\n cache\n template IN A . {\n rcode NXDOMAIN\n }\n}\n"
    async with serve(text) as dns:
        await dns.ask("a.test.")
        await dns.server.load(dns.build(text.replace(":0", f":{dns.port}")))
        await dns.ask("a.test.")
        lines = await page()
        for name in ("coredns_dns_requests_total", "coredns_cache_requests_total"):
            assert [x.split()[-1] for x in lines if x.startswith(name)] == ["2"]


def test_labels_are_escaped() -> None:
    book = Book()
    book.add(Metric("m", "help", ("b", "a")), 'x"y\\z\n', "1")
    assert list(book.lines())[-1] == 'm{a="1",b="x\\"y\\\\z\\n"} 1'
