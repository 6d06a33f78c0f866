import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from kubewire.api.errors import InputError
from kubewire.cli.service import service
from tests.kubeproxy.table import CONFIG, NODE, objects


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all(objects("plain")))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return ["-f", str(tmp_path / "objects.yaml"), "--config", str(tmp_path / "config.yaml"), "--node", NODE]  # fmt: skip


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(service, words, input=stdin)


@pytest.mark.parametrize("mode", ["plan", "nftables"])
def test_trace_answers_lines_in_order(words: list[str], mode: str) -> None:
    lines = [{"from": "10.244.0.9", "to": "10.96.0.41", "port": p} for p in (80, 81)]
    stdin = "\n".join(map(json.dumps, lines))
    result = run("trace", *words, "--mode", mode, "--flows", "-", stdin=stdin)
    assert result.exit_code == 0, result.output
    first, second = map(json.loads, result.stdout.splitlines())
    assert list(first) == ["verdict", "endpoints", "masquerade", "sticky", "reason"]
    assert first["endpoints"] == ["10.244.0.1:8080", "10.244.1.1:8080"]
    assert first["reason"].startswith("Service ns1/svc1 port p80")
    assert second["verdict"] == "reject"


def test_trace_of_one_flow_ends_with_its_verdict(words: list[str]) -> None:
    one = ["trace", *words, "--from", "10.244.0.9", "--to", "10.96.0.41", "--port"]
    assert run(*one, "80").exit_code == 0
    assert run(*one, "81").exit_code == 1


def test_malformed_objects_are_named(tmp_path: Path) -> None:
    found = objects("plain")
    found[2]["spec"]["ports"][0]["port"] = "eighty"
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump_all(found))
    result = run("trace", "-f", str(path), "--from", "10.0.0.1", "--to", "10.0.0.2", "--port", "1")
    assert isinstance(result.exception, InputError)
    assert f"{path}[document 3] Service ns1/svc1: spec.ports[0].port: " in str(result.exception)


def test_explain_shows_the_table(words: list[str]) -> None:
    result = run("explain", "ns1/svc1", *words)
    assert result.exit_code == 0, result.output
    assert "ClusterIP    10.96.0.41:80/TCP" in result.stdout
    assert "endpoint 10.244.0.1:8080 in  ready" in result.stdout


@pytest.mark.kernel
def test_trace_sends_real_packets(words: list[str]) -> None:
    lines = [{"from": "203.0.113.2", "to": "10.96.0.41", "port": p} for p in (80, 81)]
    stdin = "\n".join(map(json.dumps, lines))
    result = run("trace", *words, "--kernel", "--flows", "-", stdin=stdin)
    assert result.exit_code == 0, result.output
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["endpoints"] == ["10.244.0.1:8080", "10.244.1.1:8080"]
    assert (first["verdict"], first["masquerade"]) == ("accept", True)
    assert second["verdict"] == "reject"


def test_explain_says_where_the_kernel_has_it(words: list[str]) -> None:
    result = run("explain", "ns1/svc1", *words, "-o", "json")
    assert result.exit_code == 0, result.output
    (node,) = json.loads(result.stdout)["nodes"]
    (frontend,) = node["frontends"]
    assert "element services4: 10.96.0.41 . tcp . 80 : goto ipv4-c2-c2m-c2m" in frontend["kernel"]
    assert frontend["connections"] is None


def test_a_question_finds_its_node(tmp_path: Path) -> None:
    """Without --node it is the sender's; what a Local policy allows differs between nodes."""
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all(objects("internal-local")))
    ends = []
    for sender in ("192.168.0.2", "192.168.0.3"):
        result = run("trace", "-f", str(path), "--from", sender, "--to", "10.96.0.41", "--port", "80", "-o", "json")  # fmt: skip
        ends.append(json.loads(result.stdout)["endpoints"])
    assert ends == [["10.244.0.1:8080"], ["10.244.1.1:8080"]]


def test_a_node_port_of_another_node_is_asked_there(tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all(objects("nodeport")))
    found = []
    for more in ([], ["--node", "node-b"]):
        words = ["--from", "192.168.0.3", "--to", "192.168.0.2", "--port", "30080", *more]
        result = run("trace", "-f", str(path), *words, "-o", "json")
        found.append(json.loads(result.stdout)["verdict"])
    assert found == ["accept", "passthrough"]


def test_pods_are_senders_by_name(words: list[str], tmp_path: Path) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "asker", "namespace": "ns1"},
        "spec": {"nodeName": NODE, "containers": []},
        "status": {"podIP": "10.244.0.9"},
    }
    path = tmp_path / "pod.yaml"
    path.write_text(yaml.safe_dump(pod))
    question = json.dumps({"from": "ns1/asker", "to": "10.96.0.41", "port": 80})
    result = run("trace", *words, "-f", str(path), "--flows", "-", stdin=question)
    assert json.loads(result.stdout)["masquerade"] is False
