"""The examples of components' READMEs are true: commands on ``objects.yaml`` and what they print."""

import shlex
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner

import kubewire
from kubewire.cli.policy import policy
from kubewire.cli.service import service
from tests.readme import block, examples

ROOT = Path(kubewire.__file__).parent
READMES: dict[str, Command] = {
    "kubeproxy/backends/iptables": service,
    "kubeproxy/backends/envoy": service,
    "networkpolicy": policy,
}
ROWS = [
    (room, command, output)
    for room in READMES
    for command, output in examples((ROOT / room / "README.md").read_text())
]


@pytest.mark.parametrize(("room", "command", "output"), ROWS)
def test_example(
    room: str, command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("objects.yaml").write_text(block((ROOT / room / "README.md").read_text(), "yaml"))
    words = shlex.split(command)
    assert words[:2] == ["kubewire", READMES[room].name]
    assert CliRunner().invoke(READMES[room], words[2:]).stdout == output
