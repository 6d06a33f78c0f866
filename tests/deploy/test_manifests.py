"""What is shipped for real clusters: an API server takes it, and the Corefiles are understood."""

import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from kubewire.apiserver import server
from kubewire.cli.cni import cni
from kubewire.cli.node import node
from kubewire.client.manifests import load
from kubewire.client.rest import Client
from kubewire.cluster.apply import apply
from kubewire.dns.config import Environment, build

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "charts" / "kubewire-dns"


def corefiles(objects: list[dict[str, Any]]) -> list[str]:
    return [o["data"]["Corefile"] for o in objects if o["kind"] == "ConfigMap"]


@pytest.mark.parametrize("name", ["dns.yaml", "nodelocaldns.yaml", "node.yaml"])
async def test_an_api_server_takes_it(name: str, tmp_path: Path) -> None:
    found = load([str(DEPLOY / name)])
    async with server.serving(server.Options(pki_dir=tmp_path / "pki", port=0)) as running:
        config = tmp_path / "kubeconfig"
        config.write_text(running.kubeconfig())
        async with Client.from_kubeconfig(config) as client:
            await apply(client, found)
    for text in corefiles([m.obj for m in found]):
        assert build(text, "Corefile", Environment(objects=[])).blocks


def node_arguments(objects: list[dict[str, Any]]) -> list[list[str]]:
    spec = next(o for o in objects if o["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    return [c["args"] for c in (*spec.get("initContainers", ()), *spec["containers"])]


def understood(arguments: list[str]) -> None:
    """The command line knows all of them."""
    words = [a.replace("$(NODE_NAME)", "n") for a in arguments]
    command: click.Command = {"node": node, "cni": cni}[words.pop(0)]
    if isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context("x", words)


def test_the_command_line_of_the_nodes_agent() -> None:
    for arguments in node_arguments([m.obj for m in load([str(DEPLOY / "node.yaml")])]):
        understood(arguments)


@pytest.mark.tool("helm")
@pytest.mark.parametrize(
    "settings",
    [
        ["clusterCIDR={10.1.0.0/16,fd00::/56}", "cni.chain={portmap}", "cni.podNetwork=vxlan"],
        ["cni.nonMasqueradeCIDR={192.168.0.0/16,10.0.0.0/8}", "cni.masquerade=false"],
        ["cni.enabled=false", "serviceProxy.enabled=true", "apiServer.host=192.0.2.1"],
        ["networkPolicy.enabled=false"],
    ],
)
async def test_node_chart(settings: list[str], tmp_path: Path) -> None:
    chart = DEPLOY / "charts" / "kubewire-node"
    subprocess.check_output(["helm", "lint", "--strict", str(chart)])
    values = [word for setting in settings for word in ("--set", setting)]
    command = ["helm", "template", "net", str(chart), "-n", "kube-system", *values]
    text = subprocess.check_output(command, text=True)
    (tmp_path / "all.yaml").write_text(text)
    found = load([str(tmp_path / "all.yaml")])
    for arguments in node_arguments([m.obj for m in found]):
        understood(arguments)
    async with server.serving(server.Options(pki_dir=tmp_path / "pki", port=0)) as running:
        config = tmp_path / "kubeconfig"
        config.write_text(running.kubeconfig())
        async with Client.from_kubeconfig(config) as client:
            await apply(client, found)


@pytest.mark.tool("helm")
def test_node_chart_without_a_way_to_the_api_server() -> None:
    chart = DEPLOY / "charts" / "kubewire-node"
    command = ["helm", "template", "net", str(chart), "--set", "serviceProxy.enabled=true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs apiServer.host" in done.stderr


@pytest.mark.tool("helm")
async def test_chart(tmp_path: Path) -> None:
    subprocess.check_output(["helm", "lint", "--strict", str(CHART)])
    values = ["--set", "service.clusterIP=10.96.0.10", "--set", "clusterDomain=example.local"]
    command = ["helm", "template", "dns", str(CHART), "-n", "kube-system", *values]
    rendered = subprocess.check_output(command, text=True)
    objects = list(yaml.safe_load_all(rendered))
    of = {o["kind"]: o for o in objects}
    assert of["Service"]["spec"]["clusterIP"] == "10.96.0.10"
    selector = of["Service"]["spec"]["selector"]
    assert selector.items() <= of["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    (text,) = corefiles(objects)
    assert "kubernetes example.local in-addr.arpa" in text
    assert build(text, "Corefile", Environment(objects=[])).blocks
    (tmp_path / "all.yaml").write_text(rendered)
    async with server.serving(server.Options(pki_dir=tmp_path / "pki", port=0)) as running:
        config = tmp_path / "kubeconfig"
        config.write_text(running.kubeconfig())
        async with Client.from_kubeconfig(config) as client:
            await apply(client, load([str(tmp_path / "all.yaml")]))
