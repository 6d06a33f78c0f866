"""The examples of the README are true."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from kubewire.cli.service import service
from kubewire.kubeproxy.backends import envoy

TEXT = (Path(next(iter(envoy.__path__))) / "README.md").read_text()


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
