"""``dns explain``: the resolver's search, the cluster's own Corefile, reasons."""

import asyncio
import json
from typing import Any

import pytest
from click.testing import CliRunner

from kubewire.cli.main import cli
from kubewire.dns.explain import Explainer, default_corefile, fetch
from kubewire.testing.fakeapi import FakeApi

Object = dict[str, Any]
COREFILE = """.:53 {
 rewrite name suffix .old.local. .cluster.local. answer auto
 kubernetes cluster.local
 forward . 192.0.2.1
}
corp.example:53 {
 forward . 192.0.2.7
}
"""


def pod(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }


OBJECTS: list[Object] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}},
    pod("plain"),
    pod("two", dnsConfig={"options": [{"name": "ndots", "value": "2"}]}),
    pod("more", dnsConfig={"searches": ["corp.example"]}),
    pod("default", dnsPolicy="Default"),
    pod("none", dnsPolicy="None", dnsConfig={"nameservers": ["192.0.2.9"], "searches": ["svc.cluster.local"]}),
    pod("host", hostNetwork=True),
    pod("hostnet", hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"),
]  # fmt: skip
IN_CLUSTER: Object = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "coredns", "namespace": "kube-system"},
    "data": {"Corefile": COREFILE},
}


@pytest.fixture(scope="module")
def world() -> Explainer:
    return Explainer(OBJECTS, text=COREFILE)


SEARCHES = [
    # pod, name; what is tried, below cluster.local unless absolute; what the resolver says
    ("plain", "web", ["web.shop.svc"], "NOERROR"),
    ("plain", "web.shop", ["web.shop.shop.svc", "web.shop.svc"], "NOERROR"),
    ("plain", "web.shop.svc.cluster.local.", ["web.shop.svc"], "NOERROR"),
    ("plain", "no.shop.svc.cluster.local.", ["no.shop.svc"], "NXDOMAIN"),
    ("plain", "a.example", ["a.example.shop.svc", "a.example.svc", "a.example", "a.example."], "SERVFAIL"),
    ("plain", "a.b.c.d.e.f", ["a.b.c.d.e.f.", "a.b.c.d.e.f.shop.svc", "a.b.c.d.e.f.svc", "a.b.c.d.e.f"], "SERVFAIL"),
    ("two", "a.b.shop.svc.cluster.local", ["a.b.shop.svc", *("a.b.shop.svc.cluster.local" + s for s in (".shop.svc", ".svc", ""))], "NXDOMAIN"),
    ("more", "x", ["x.shop.svc", "x.svc", "x", "x.corp.example.", "x."], "SERVFAIL"),
    ("default", "web", ["web."], "SERVFAIL"),
    ("host", "web", ["web."], "SERVFAIL"),
    ("hostnet", "web", ["web.shop.svc"], "NOERROR"),
    ("none", "web.shop", ["web.shop.", "web.shop.svc"], "NOERROR"),
    ("none", "web", ["web.svc", "web."], "SERVFAIL"),
]  # fmt: skip


@pytest.mark.parametrize(("asker", "name", "tried", "rcode"), SEARCHES)
def test_every_name_of_the_search_is_told(
    world: Explainer, asker: str, name: str, tried: list[str], rcode: str
) -> None:
    found = world.answer({"name": name, "from": f"shop/{asker}"})
    wanted = [n if n.endswith(".") else f"{n}.cluster.local." for n in tried]
    assert [t["name"] for t in found["searched"]] == wanted
    assert found["rcode"] == rcode
    assert all(t["reason"] and t["plugin"] for t in found["searched"])


@pytest.mark.parametrize(
    ("question", "plugin", "reason"),
    [
        (("web.shop.svc.cluster.local", "A"), "kubernetes", "Service shop/web"),
        (("web.shop.svc.cluster.local", "AAAA"), "kubernetes", "Service shop/web; no record of type AAAA"),
        (("web.shop.svc.old.local", "A"), "kubernetes", "rewritten to web.shop.svc.cluster.local.: Service shop/web"),
        (("x.corp.example", "A"), "forward", "forwarded to 192.0.2.7:53, which is not asked offline"),
    ],
)  # fmt: skip
def test_reasons(world: Explainer, question: tuple[str, str], plugin: str, reason: str) -> None:
    name, qtype = question
    found = world.answer({"name": name, "type": qtype})
    assert (found["plugin"], found["reason"]) == (plugin, reason)


def test_the_clusters_own_corefile_counts() -> None:
    question = {"name": "x.corp.example"}
    own = Explainer([*OBJECTS, IN_CLUSTER])
    assert "192.0.2.7" in own.answer(question)["reason"]
    given = Explainer([*OBJECTS, IN_CLUSTER], text=default_corefile())
    assert "192.0.2.7" not in given.answer(question)["reason"]


def test_a_batch_takes_the_namespace_of_the_command(tmp_path: Any) -> None:
    objects = tmp_path / "objects.json"
    objects.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": OBJECTS}))  # fmt: skip
    words = ["dns", "explain", "-f", str(objects), "-n", "shop", "--flows", "-"]
    asked = '{"name": "web", "from": "plain"}\n{"name": "web"}\n'
    result = CliRunner().invoke(cli, words, input=asked)
    assert result.exit_code == 0, result.output
    inside, outside = map(json.loads, result.stdout.splitlines())
    assert inside["answer"] == [["web.shop.svc.cluster.local.", 30, "A", "10.96.0.7"]]
    assert [t["name"] for t in outside["searched"]] == ["web."]


async def test_live_the_corefile_comes_with_the_objects() -> None:
    api = FakeApi(*OBJECTS, IN_CLUSTER)
    world = Explainer(await fetch(api.client()))
    found = await asyncio.to_thread(world.answer, {"name": "x.corp.example", "from": "shop/plain"})
    assert "192.0.2.7" in found["reason"]
    assert len(Explainer(await fetch(FakeApi().client())).configuration.blocks) == 1
