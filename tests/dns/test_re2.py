"""RE2's syntax, as Go reads it."""

import re

import pytest

from kubewire.dns import re2


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^a[.]b$", "a.b", "a.b"),
        ("^[[:alpha:]]+", "ab1", "ab"),
        ("^[[:alnum:]_-]+", "a-1_.b", "a-1_"),
        ("[^[:digit:]]+", "1ab2", "ab"),
        ("[[:upper:][:digit:]]+", "abC9d", "C9"),
        ("[]a]+", "b]a", "]a"),
        ("[^]a]+", "a]bc", "bc"),
        (r"[\]x]+", "a]x", "]x"),
        (r"\pL+", "1äb.", "äb"),
        (r"\PL+", "ab12c", "12"),
        (r"\p{Nd}+", "a12", "12"),
        (r"[\pL.]+", "1a.b2", "a.b"),
        (r"a\z", "a", "a"),
        (r"\Qa.b\E.", "axb a.bc", "a.bc"),
        (r"\Qa.(", "a.(", "a.("),
        ("(?<n>a)(?P<m>b)", "ab", "ab"),
        ("(?i)AB", "ab", "ab"),
        ("a(?i)B", "aB ab", "aB"),
        ("a(?i)B", "AB ab", "ab"),
        ("(a(?i)b)C", "aBC", "aBC"),
        ("(a(?i)b)C", "aBc", None),
        ("(?i:a)b", "Ab", "Ab"),
        ("(a|b)(?:c)", "bc", "bc"),
        (r"\(x\)", "(x)", "(x)"),
        ("[(]x[)]", "(x)", "(x)"),
    ],
)
def test_what_is_found(pattern: str, text: str, found: str | None) -> None:
    match = re2.pattern(pattern).search(text)
    assert (match and match[0]) == found


@pytest.mark.parametrize(
    "pattern", ["(", "a)", "[a", "*", "[[:nope:]]", r"\p{Nope}", "(?U)a.*", "(?<n", "x\\"]
)
def test_what_is_none(pattern: str) -> None:
    with pytest.raises(re.error):
        re2.pattern(pattern)
