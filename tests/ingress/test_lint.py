"""Every annotation for an Ingress controller is named, with what becomes of it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kubewire.api.ingress import Ingress, IngressSpec, IngressTLS
from kubewire.api.meta import ObjectMeta
from kubewire.cli.ingress import ingress
from kubewire.ingress.lint import lint

NGINX = "nginx.ingress.kubernetes.io/"


@pytest.mark.parametrize(
    ("name", "value", "tls", "verdict"),
    [
        ("kubernetes.io/ingress.class", "kubewire", False, "supported"),
        (NGINX + "ssl-redirect", "true", True, "translated"),
        (NGINX + "force-ssl-redirect", "true", True, "translated"),
        (NGINX + "ssl-redirect", "true", False, "refused"),
        (NGINX + "ssl-redirect", "false", True, "translated"),
        (NGINX + "ssl-redirect", "yes", True, "refused"),
        (NGINX + "configuration-snippet", "more_set_headers x;", False, "refused"),
        (NGINX + "auth-snippet", "x", False, "refused"),
        (NGINX + "rewrite-target", "/", False, "refused"),
        ("nginx.org/server-snippets", "x", False, "refused"),
        ("example.com/note", "x", False, None),
    ],
)
def test_verdict(name: str, value: str, tls: bool, verdict: str | None) -> None:
    spec = IngressSpec(tls=(IngressTLS(hosts=("a.example",), secret_name="s"),) if tls else ())
    meta = ObjectMeta(name="i", namespace="n", annotations={name: value})
    rows = lint([Ingress(metadata=meta, spec=spec)])
    assert [r["verdict"] for r in rows] == ([verdict] if verdict else [])
    for row in rows:
        assert (row["ingress"], row["annotation"], row["value"]) == ("n/i", name, value)
        assert ("raw" in row["why"]) == ("snippet" in name)


def _file(tmp_path: Path, annotations: dict[str, str]) -> str:
    path = tmp_path / "i.json"
    meta = {"name": "i", "annotations": annotations}
    version = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress"}
    path.write_text(json.dumps({**version, "metadata": meta, "spec": {}}))
    return str(path)


def test_the_command_says_no_to_what_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, {NGINX + "server-snippet": "x"})
    result = CliRunner().invoke(ingress, ["lint", "-f", path, "-o", "json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["annotations"][0]["verdict"] == "refused"
    assert CliRunner().invoke(ingress, ["lint", "-f", _file(tmp_path, {})]).exit_code == 0


def test_explain_for_people_and_for_programs(tmp_path: Path) -> None:
    args = ["explain", "-f", _file(tmp_path, {}), "--host", "a"]
    table = CliRunner().invoke(ingress, [*args, "-o", "table"])
    assert table.stdout == "nothing (status 404)  no rule matches\n"
    assert json.loads(CliRunner().invoke(ingress, [*args, "-o", "json"]).stdout)["status"] == 404


def test_a_batch_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    from kubewire.api.errors import InputError

    args = ["explain", "-f", _file(tmp_path, {}), "--flows", str(tmp_path / "none")]
    result = CliRunner().invoke(ingress, args)
    assert isinstance(result.exception, InputError)
