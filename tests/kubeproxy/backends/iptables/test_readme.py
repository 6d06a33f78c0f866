"""The examples of the back end's README are true."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import kubewire.kubeproxy.backends.iptables
from kubewire.cli.service import service
from kubewire.kubeproxy.backends.iptables.compile import Setting, tables
from kubewire.kubeproxy.backends.iptables.names import PREFIXES
from kubewire.kubeproxy.objects import read
from kubewire.kubeproxy.trace import Tracer

TEXT = (Path(kubewire.kubeproxy.backends.iptables.__file__).parent / "README.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found
    return found[1]


def examples() -> list[tuple[str, str]]:
    parts = re.split(r"^\$ (.*)\n", block("console"), flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize(("command", "output"), examples())
def test_example(
    command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("objects.yaml").write_text(block("yaml"))
    words = shlex.split(command)
    assert words[:2] == ["kubewire", "service"]
    assert CliRunner().invoke(service, words[2:]).stdout == output


def test_the_chains_of_the_example() -> None:
    found = read((o, str) for o in yaml.safe_load_all(block("yaml")))
    tracer = Tracer(found, None, "n1")
    nat = tables(4, tracer.plan.frontends.values(), Setting(tracer.config))["nat"]
    own = [c for c in nat.chains.values() if c.name.startswith(PREFIXES)]
    assert "".join(f"{line}\n" for chain in own for line in chain.lines()) == block("iptables")
