"""The explanation names the rule that decided, and why the others did not."""

import pytest

from kubewire.api.errors import InputError
from kubewire.ingress.explain import explain, normal
from kubewire.ingress.plan import plan
from tests.ingress.test_plan import OURS, RULES


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a?b=/../c", "/a"),
        ("/x/../admin", "/admin"),
        ("/%61dmin", "/admin"),
        ("//a//b/", "/a/b/"),
        ("/", "/"),
        ("/a/.", "/a/"),
    ],
)
def test_paths_are_compared_normalised(target: str, path: str) -> None:
    assert normal(target) == path


def test_the_deciding_rule_and_the_rejected_ones() -> None:
    answer = explain(plan([RULES], OURS), {}, {"host": "b.example", "path": "/other"})
    assert answer["status"] == 503
    assert answer["rule"] == "Ingress n/i spec.defaultBackend"
    reasons = {r["rule"]: r["why"] for r in answer["rejected"]}
    assert (
        reasons["Ingress n/i spec.rules[0].http.paths[0]"] == 'host "b.example" is not "a.example"'
    )
    assert (
        reasons["Ingress n/i spec.rules[4].http.paths[0]"]
        == 'path "/other" does not match Prefix "/wild"'
    )


def test_nothing_matches() -> None:
    assert explain(plan([], OURS), {}, {"host": "a"})["status"] == 404


def test_a_path_that_no_request_has_is_refused() -> None:
    with pytest.raises(InputError, match='path: must be absolute, not "x"'):
        explain(plan([], []), {}, {"host": "b.example", "path": "x"})
