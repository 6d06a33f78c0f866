"""examples/shop with Envoy in the place of kube-proxy, then with others: the same flows, policies included."""

import json
import sys

from tests.e2e.conftest import ROOT, Kubewire


def test_every_flow_is_as_with_rules_in_the_kernel(kubewire: Kubewire) -> None:
    kubewire("up", "-f", str(ROOT / "examples" / "shop"), "--proxy-mode", "envoy", "--detach")
    flows = json.loads(kubewire("reach", "-A", "-o", "json").stdout)["flows"]
    direct = {(f["from"], f["port"]): f["ok"] for f in flows if f["to"].startswith("data/cache-")}
    services = [f for f in flows if f["toKind"] == "Service"]
    assert {f["to"] for f in services} > {"shop/web", "data/cache", "kube-system/kube-dns"}
    for flow in services:
        # Of all Services only this one is behind policies, and they judge the client.
        allowed = direct[flow["from"], 6379] if flow["to"] == "data/cache" else True
        assert flow["ok"] is allowed, flow
        if flow["to"].startswith("shop/"):
            assert flow["answeredBy"], flow
    assert {True, False} == set(direct.values())
    metrics = "http://127.0.0.1:15090/stats/prometheus"
    program = (
        f"import urllib.request as u; print(u.urlopen({metrics!r}, timeout=5).read().decode())"
    )
    text = kubewire("node-exec", "node-1", "--", sys.executable, "-c", program).stdout
    assert 'envoy_cluster_upstream_cx_total{envoy_cluster_name="shop/catalog/http"}' in text
    before = {(f["from"], f["to"], f["port"]): f["ok"] for f in flows}
    for mode in ("iptables", "nftables"):
        kubewire(f"proxy switch {mode}")
        again = json.loads(kubewire("reach", "-A", "-o", "json").stdout)["flows"]
        assert {(f["from"], f["to"], f["port"]): f["ok"] for f in again} == before
        assert kubewire("proxy dump --diff").stdout.splitlines() == [
            "# node node-1",
            "# node node-2",
        ]
