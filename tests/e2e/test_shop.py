"""The shop as its users see it: names, Services, policies, probes, all through real packets."""

import json
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Kubewire


def http(url: str) -> str:
    """A program that prints who answers a URL."""
    return f"import json,urllib.request as u;print(json.load(u.urlopen({url!r}, timeout=5))['pod'])"


def worker(shop: Kubewire) -> str:
    return "shop/" + str(shop.pods("shop", "app=worker")[0]["metadata"]["name"])


def test_every_pod_is_ready_and_says_that_a_stand_in_runs(shop: Kubewire) -> None:
    for namespace in ("shop", "data", "monitoring"):
        for pod in shop.pods(namespace):
            assert {c["type"]: c["status"] for c in pod["status"]["conditions"]}["Ready"] == "True"
            assert "stand-in" in json.dumps(pod["status"]["containerStatuses"])


def test_names_resolve_as_the_kubelet_promises(shop: Kubewire) -> None:
    pod = worker(shop)
    address = shop.api("/api/v1/namespaces/shop/services/cart")["spec"]["clusterIP"]
    for name in (
        "cart",
        "cart.shop",
        "cart.shop.svc",
        "cart.shop.svc.cluster.local",
        "cart.shop.svc.cluster.local.",
    ):
        assert shop.exec(pod, "getent", "ahostsv4", name).split()[0] == address, name
    shop.exec(pod, "getent", "ahostsv4", "nowhere.shop", code=2)


def test_a_headless_service_names_its_pods(shop: Kubewire) -> None:
    pod = worker(shop)
    addresses = {p["metadata"]["name"]: p["status"]["podIP"] for p in shop.pods("data", "app=db")}
    for name, address in addresses.items():
        assert shop.exec(pod, "getent", "ahostsv4", f"{name}.db.data").split()[0] == address
    found = {
        line.split()[0] for line in shop.exec(pod, "getent", "ahostsv4", "db.data").splitlines()
    }
    assert found == set(addresses.values())


def test_a_service_is_answered_by_every_replica(shop: Kubewire) -> None:
    program = "\n".join(
        [
            "import json,urllib.request as u",
            "for _ in range(30): print(json.load(u.urlopen('http://catalog', timeout=5))['pod'])",
        ]
    )
    names = {p["metadata"]["name"] for p in shop.pods("shop", "app=catalog")}
    assert set(shop.python(worker(shop), program).split()) == names


def test_named_ports_lead_to_their_own_target(shop: Kubewire) -> None:
    assert shop.python(worker(shop), http("http://catalog:9100/")).startswith("catalog-")


def test_a_pod_reaches_itself_through_its_own_service(shop: Kubewire) -> None:
    shop.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: narcissus, labels: {app: narcissus}}\n"
        "spec: {containers: [{name: c, image: x, ports: [{containerPort: 8080}], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}]}\n"
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: mirror}\nspec: {selector: {app: narcissus}, ports: [{port: 80, targetPort: 8080}]}\n"
    )
    shop("sync")
    program = (
        "import json,time,urllib.request as u\n"
        "end=time.monotonic()+20\n"
        "while True:\n"
        "    try: print(json.load(u.urlopen('http://mirror', timeout=2))['pod']); break\n"
        "    except OSError:\n"
        "        assert time.monotonic() < end\n"
    )
    assert shop.python("default/narcissus", program).strip() == "narcissus"


def test_udp_through_a_service(shop: Kubewire) -> None:
    program = (
        "import socket\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(5)\n"
        "s.sendto(b'hello', ('statsd.monitoring', 8125)); print(s.recv(99).decode())"
    )
    assert "hello" in shop.python(worker(shop), program)


def reached(shop: Kubewire, *arguments: str) -> dict[tuple[str, str, int], bool]:
    answer = json.loads(shop("reach", "-o", "json", *arguments, code=None).stdout)
    return {(f["from"], f["to"], f["port"]): f["ok"] for f in answer["flows"]}


def test_policies_hold_against_real_connections(shop: Kubewire) -> None:
    flows = reached(shop, "--from", "shop/", "--from", "monitoring/", "--to", "data/db-0")
    assert flows
    apis = tuple(f"shop/{app}-" for app in ("cart", "catalog"))
    for (source, _, _), ok in flows.items():
        assert ok is source.startswith(apis), source


def test_a_failing_readiness_probe_moves_the_traffic(shop: Kubewire) -> None:
    victim, other = (str(p["metadata"]["name"]) for p in shop.pods("shop", "app=web"))
    shop("fail", "-n", "shop", victim, "--probe", "readiness", "--for", "60s")

    def ready() -> set[str]:
        slices: list[dict[str, Any]] = shop.api(
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=kubernetes.io/service-name=web"
        )["items"]
        return {
            e["targetRef"]["name"]
            for s in slices
            for e in s["endpoints"]
            if e["conditions"]["ready"]
        }

    while ready() != {other}:
        shop("sync")
    shop("sync")
    program = "\n".join(
        [
            "import json,urllib.request as u",
            "for _ in range(10): print(json.load(u.urlopen('http://web', timeout=5))['pod'])",
        ]
    )
    assert set(shop.python(worker(shop), program).split()) == {other}
    assert {
        c["restartCount"]
        for p in shop.pods("shop", "app=web")
        for c in p["status"]["containerStatuses"]
    } == {0}


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        ("shop/web", "data/db:5432", "deny"),
        ("shop/cart", "data/db:5432", "allow"),
        ("shop/web", "shop/cart:80", "allow"),
    ],
)
def test_why_takes_names_of_workloads_live_as_from_manifests(
    shop: Kubewire, source: str, target: str, verdict: str
) -> None:
    code = 1 if verdict == "deny" else 0
    words = (source, target, "-o", "json")
    live = json.loads(shop("policy why", *words, code=code).stdout)
    files = json.loads(
        shop("policy why", *words, "-f", str(ROOT / "examples/shop"), code=code).stdout
    )
    assert live["verdict"] == files["verdict"] == verdict
    for way in ("egress", "ingress"):
        assert (live[way]["policy"], live[way]["rule"]) == (
            files[way]["policy"],
            files[way]["rule"],
        )
    listed = json.loads(shop("policy list", source, "-o", "json").stdout)
    assert listed["pod"].startswith(f"{source}-")


OPEN = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: shop}
spec: {podSelector: {matchLabels: {app: worker}}, ingress: [{}]}
"""


def test_counters_are_asked_for_when_every_node_has_what_was_applied(shop: Kubewire) -> None:
    shop.apply(OPEN)
    rules = json.loads(shop("policy stats", "-o", "json").stdout)["rules"]
    assert "NetworkPolicy shop/open" in {r["policy"] for r in rules}
    shop("policy stats", "--no-sync")
    shop("policy list", "--no-sync", worker(shop))


SITE = """
apiVersion: v1
kind: Pod
metadata: {name: visitor, labels: {app: visitor}}
spec: {containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: site, labels: {app: site}}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: site}
spec: {clusterIP: None, selector: {app: site}, ports: [{port: 8080}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: site-only}
spec:
  tier: Admin
  priority: 1
  subject:
    pods:
      namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}
      podSelector: {matchLabels: {app: visitor}}
  egress:
    - {action: Accept, to: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]}
    - {action: Accept, to: [{domainNames: [site.default.svc.cluster.local]}]}
    - {action: Deny, to: [{networks: [0.0.0.0/0]}]}
"""


def test_a_pod_reaches_a_name_once_dns_has_told_it(shop: Kubewire) -> None:
    shop.apply(SITE)
    shop("sync")
    (site,) = shop.pods("default", "app=site")
    address = site["status"]["podIP"]
    connect = "import socket; socket.create_connection(({!r}, 8080), timeout=1)"
    why = ("policy why", "default/visitor", f"{address}:8080", "-o", "json")
    shop.python("default/visitor", connect.format(address), code=1)
    assert json.loads(shop(*why, code=1).stdout)["egress"]["rule"] == "spec.egress[2]"
    shop.python("default/visitor", connect.format("site.default.svc.cluster.local."))
    assert json.loads(shop(*why).stdout)["egress"]["rule"] == "spec.egress[1]"


def test_every_datagram_to_the_nodes_resolver_is_refused_not_one_in_a_second(
    shop: Kubewire,
) -> None:
    """Else questions of DNS about the outside would take a timeout each."""
    program = (
        "import socket\n"
        "for _ in range(20):\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "    s.connect(('172.30.0.1', 53)); s.settimeout(1); s.send(b'x')\n"
        "    try: s.recv(1)\n"
        "    except TimeoutError: print('lost')\n"
        "    except OSError: print('refused')\n"
    )
    assert shop.python(worker(shop), program).split() == ["refused"] * 20
