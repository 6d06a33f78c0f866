import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from kubewire.api.errors import InputError
from kubewire.cli.policy import policy
from networkpolicy.fixture import fixture, netpol

DENY = netpol("deny", "y", {"podSelector": {}})


@pytest.fixture
def files(tmp_path: Path) -> str:
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all([*fixture(), DENY]))
    return str(path)


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(policy, words, input=stdin)


def test_why_names_policy_and_rule(files: str) -> None:
    result = run("why", "-f", files, "-o", "json", "x/a", "y/b:80")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["verdict"] == "deny"
    assert answer["egress"] == {
        "verdict": "allow",
        "policy": None,
        "rule": None,
        "reason": "no policy selects x/a for egress",
    }
    assert answer["ingress"]["policy"] == "NetworkPolicy y/deny"


def test_why_as_a_table(files: str) -> None:
    result = run("why", "-f", files, "y/b", "x/a:80/UDP")
    assert result.exit_code == 0
    assert result.stdout.startswith("ALLOW  y/b -> x/a:80/UDP\n")


def test_a_batch_answers_in_order_and_exits_0(files: str) -> None:
    flows: list[dict[str, Any]] = [
        {"from": "x/a", "to": "y/b", "port": 80, "protocol": "TCP"},
        {"from": "203.0.113.7", "to": "x/a", "port": 80, "protocol": "SCTP"},
        {"from": "y/b", "to": "203.0.113.7", "port": 53, "protocol": "UDP"},
    ]
    result = run("why", "-f", files, "--flows", "-", stdin="\n".join(map(json.dumps, flows)))
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [x["verdict"] for x in lines] == ["deny", "allow", "allow"]


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("{", r"STDIN\[line 1\]: not JSON"),
        ('{"from":"x/a"}', r"STDIN\[line 1\]: to: a pod"),
        ("[]", r"STDIN\[line 1\]: an object is expected"),
        ('{"from":"x/a","to":"y/zz"}', r'STDIN\[line 1\]: to: pod "y/zz" not found'),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_answered(
    files: str, stdin: str, message: str
) -> None:
    good = json.dumps({"from": "x/a", "to": "y/b", "port": 80})
    result = run("why", "-f", files, "--flows", "-", stdin=f"{stdin}\n\n{good}\n")
    assert result.exit_code == 2
    assert re.match(message, result.stderr)
    bad, answer = map(json.loads, result.stdout.splitlines())
    assert list(bad) == ["error"]
    assert result.stderr == f"STDIN[line 1]: {bad['error']}\n"
    assert answer["verdict"] == "deny"


def test_bad_objects_are_named_by_file_document_object_and_field(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    bad = netpol("p", "x", {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "x"}}]}]})
    path.write_text(yaml.safe_dump_all([DENY, bad]))
    result = run("why", "-f", str(path), "x/a", "y/b")
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith(
        f"{path}[document 2] NetworkPolicy x/p: spec.ingress[0].from[0].ipBlock.cidr: Invalid value"
    )


def test_two_policies_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(yaml.safe_dump_all([DENY, DENY]))
    result = run("why", "-f", str(path), "x/a", "y/b")
    assert isinstance(result.exception, InputError)


def test_list_shows_the_order(files: str) -> None:
    result = run("list", "-f", files, "-o", "json", "y/b")
    record = json.loads(result.stdout)
    assert record["ingress"]["isolated"]
    assert [s["policy"] for s in record["ingress"]["steps"]] == ["NetworkPolicy y/deny"]
    assert record["egress"] == {"isolated": False, "steps": []}


def test_diff_shows_what_would_close(files: str, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text(yaml.safe_dump(netpol("deny", "x", {"podSelector": {}})))
    result = run("diff", "--old", files, "-f", str(new), "-o", "json")
    assert result.exit_code == 1
    record = json.loads(result.stdout)
    assert record["opened"] == 0
    assert {f["policy"] for f in record["flows"]} == {"NetworkPolicy x/deny"}
    assert run("diff", "--old", files, "-f", files).exit_code == 0


def test_diff_shows_what_a_deletion_would_open(files: str) -> None:
    result = run("diff", "--old", files, "--delete", "netpol/y/deny", "-o", "json")
    record = json.loads(result.stdout)
    assert (result.exit_code, record["closed"]) == (1, 0)
    assert record["opened"] == len(record["flows"]) > 0
    assert {f["to"].split("/")[0] for f in record["flows"]} == {"y"}
    again = run("diff", "--old", files, "--delete", "NetworkPolicy/deny", "-n", "y", "-f", files)
    assert again.exit_code == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "give -f or --delete"),
        (("--delete", "pod/y/a"), "expected networkpolicy/[NAMESPACE/]NAME"),
        (("--delete", "cnp/y/a"), "expected networkpolicy/[NAMESPACE/]NAME"),
        (("--delete", "netpol/y/other"), 'NetworkPolicy "y/other" not found'),
    ],
)
def test_a_wrong_deletion_is_named(files: str, words: tuple[str, ...], text: str) -> None:
    result = run("diff", "--old", files, *words)
    assert text in result.output + str(result.exception)
    assert result.exit_code
