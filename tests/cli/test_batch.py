import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from kubewire.cli.main import cli

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
}


@pytest.mark.parametrize(
    ("command", "good", "field"),
    [
        ("service trace", {"from": "10.244.0.9", "to": "10.96.0.7", "port": 80}, "verdict"),
        ("policy why", {"from": "192.0.2.1", "to": "10.96.0.7", "port": 80}, "verdict"),
        ("dns explain", {"name": "web.default.svc.cluster.local.", "type": "A"}, "rcode"),
        ("ingress explain", {"host": "a.example", "path": "/"}, "status"),
    ],
)
def test_every_question_in_a_batch_is_answered(
    command: str, good: dict[str, Any], field: str, tmp_path: Path
) -> None:
    objects = tmp_path / "objects.yaml"
    objects.write_text(yaml.safe_dump(SERVICE))
    words = [*command.split(), "-f", str(objects), "--flows", "-"]
    lines = [json.dumps(good), "{", "", "[]", json.dumps(good)]
    result = CliRunner().invoke(cli, words, input="\n".join(lines))
    assert result.exit_code == 2, result.output
    first, *bad, last = map(json.loads, result.stdout.splitlines())
    assert field in first
    assert first == last
    assert bad[0]["error"].startswith("not JSON")
    assert bad[1] == {"error": "an object is expected"}
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == [
        "STDIN[line 2]",
        "STDIN[line 4]",
    ]
    assert CliRunner().invoke(cli, words, input=json.dumps(good)).exit_code == 0
