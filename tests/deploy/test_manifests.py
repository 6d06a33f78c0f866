"""What is shipped for real clusters: an API server takes it, and the Corefiles are understood."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubewire.apiserver import server
from kubewire.client.manifests import load
from kubewire.client.rest import Client
from kubewire.cluster.apply import apply
from kubewire.dns.config import Environment, build

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "charts" / "kubewire-dns"


def corefiles(objects: list[dict[str, Any]]) -> list[str]:
    return [o["data"]["Corefile"] for o in objects if o["kind"] == "ConfigMap"]


@pytest.mark.parametrize("name", ["dns.yaml", "nodelocaldns.yaml"])
async def test_an_api_server_takes_it(name: str, tmp_path: Path) -> None:
    found = load([str(DEPLOY / name)])
    async with server.serving(server.Options(pki_dir=tmp_path / "pki", port=0)) as running:
        config = tmp_path / "kubeconfig"
        config.write_text(running.kubeconfig())
        async with Client.from_kubeconfig(config) as client:
            await apply(client, found)
    for text in corefiles([m.obj for m in found]):
        assert build(text, "Corefile", Environment(objects=[])).blocks


@pytest.mark.tool("helm")
def test_chart(tmp_path: Path) -> None:
    values = ["--set", "service.clusterIP=10.96.0.10", "--set", "clusterDomain=example.local"]
    command = ["helm", "template", "dns", str(CHART), "-n", "kube-system", *values]
    objects = list(yaml.safe_load_all(subprocess.check_output(command, text=True)))
    of = {o["kind"]: o for o in objects}
    assert of["Service"]["spec"]["clusterIP"] == "10.96.0.10"
    selector = of["Service"]["spec"]["selector"]
    assert selector.items() <= of["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    (text,) = corefiles(objects)
    assert "kubernetes example.local in-addr.arpa" in text
    assert build(text, "Corefile", Environment(objects=[])).blocks
