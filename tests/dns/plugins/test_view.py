"""view: conditions on a question; what CoreDNS' expr-lang makes of them."""

import pytest

from kubewire.dns.plugin import Request
from kubewire.dns.plugins.view.expression import Expression
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Edns, Message, Question


def _request(name: str = "A.b.test.") -> Request:
    message = Message(7, 0x0100, Question(name, codes.A), edns=Edns(1232, do=True))
    request = Request(message, client=("10.1.2.3", 4000), local=("10.0.0.2", 53), size=40)
    request.metadata = {"kubernetes/client-namespace": lambda: "shop"}
    return request


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("true", True),
        ("false", False),
        ("name() == 'a.b.test.'", True),
        ("name() == 'A.b.test.'", False),
        ('name() != "x" and type() in ["A", "AAAA"]', True),
        ("type() not in ['A']", False),
        ("not (type() in ['A'])", False),
        ("!(type() in ['A']) || do()", True),
        ("false || true && false", False),
        ("name() matches '^a[.]' && name() contains '.b.'", True),
        ("name() startsWith 'a' && name() endsWith 'test.'", True),
        ("incidr(client_ip(), '10.0.0.0/8')", True),
        ("incidr(client_ip(), 'fd00::/8')", False),
        ("incidr('nonsense', '10.0.0.0/8')", False),
        ("class() == 'IN' && proto() == 'udp' && id() == 7 && opcode() == 0", True),
        ("bufsize() >= 1232 && size() < 0x40 && size() <= 40", True),
        ("server_ip() == '10.0.0.2' && server_port() == '53' && port() == '4000'", True),
        ("metadata('kubernetes/client-namespace') == 'shop' && metadata('no/label') == ''", True),
        ("int(server_port()) + 2 * 3 == 59", True),
        ("(int(server_port()) + 2) * 3 == 165", True),
        ("7 % 4 == 3 && 7 / 2 == 3.5 && 2 ** 3 ** 2 == 512 && -1 < +1", True),
        ("len(name()) == 9 ? do() : false", True),
        ("len(split(name(), '.')) > 3", True),
        ("split(name(), '.')[1] == 'b' && name()[0:1] == 'a' && name()[2:] == 'b.test.'", True),
        ("split('a.b.c', '.', 2)[1] == 'b.c' && join(['x', 'y'], '-') == 'x-y'", True),
        ("upper(lower('Ab')) == 'AB' && trim(' a ') == 'a' && trimSuffix('a.', '.') == 'a'", True),
        ("replace('aXb', 'X', '.') == 'a.b' && indexOf('abc', 'c') == 2 && repeat('a', 3) == 'aaa'", True),
        ("hasPrefix('abc', 'ab') && hasSuffix('abc', 'bc') && string(5) == '5'", True),
        ("max(1, [5, 2]) == 5 && min(3, 2) == 2 && abs(-2) == 2", True),
        ("first([4, 5]) == 4 && last([4, 5]) == 5 && first([]) == nil", True),
        ("any(['x.', 'test.'], {name() endsWith #})", True),
        ("all([1, 2], # > 1)", False),
        ("none([1, 2], {# > 2}) and one([1, 2], {# > 1})", True),
        ("count(1..5, {# % 2 == 0}) == 2", True),
        ("filter([1, 2, 3], {# > 1}) == [2, 3] && map([1, 2], {# * 2}) == [2, 4]", True),
        ("find([1, 2, 3], {# > 1}) == 2", True),
        ("name() | split('.') | len() == 4", True),
        ("(name() | split('.') | len()) == 4", True),
        ("nil ?? 'x' == 'x'", True),
        ("`a\\b` == 'a\\\\b'", True),
        # What fails while it is evaluated does not hold.
        ("name() > 5", False),
        ("name()[99] == 'a'", False),
        ("1 % 0 == 0", False),
        ("name() matches '('", False),
        ("name()", False),
        ("not name()", False),
    ],
)  # fmt: skip
def test_conditions(text: str, holds: bool) -> None:
    assert Expression(text).holds(_request()) is holds


@pytest.mark.parametrize(
    "text",
    ["", "name(", "name()) ", "nope()", "name", "name('x')", "incidr('a')", "1 +", "a ? b", "'open",
     "len()", "any([1])", "[1, 2", "x[", "@", "{1}", "name() | 5"],
)  # fmt: skip
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Expression(text)
