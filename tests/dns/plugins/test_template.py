"""template: Go's text/template, as CoreDNS 1.14.7 filled the same texts."""

import pytest

from kubewire.dns.plugins.template.functions import TemplateError
from kubewire.dns.plugins.template.text import Template

DATA = {
    "Name": "a.b.test.", "Type": "A", "Class": "IN", "Match": ["a.b", "a", "b"], "Group": {"0": "a.b", "x": "a"},
    "Message": {"Id": 7, "RecursionDesired": True}, "Meta": lambda key: f"<{key}>", "Empty": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x {{ .Name }} y", "x a.b.test. y"),
        ("x {{- .Name -}} y", "xa.b.test.y"),
        ("{{/* nothing */}}x", "x"),
        ("{{ .Group.x }}{{ .Nope }}{{ .Group.nope }}", "a<no value><no value>"),
        ("{{ index .Match 1 }}{{ .Match }}", "a[a.b a b]"),
        ('{{ .Meta "k/l" }}', "<k/l>"),
        ("{{ .Message.Id | printf `%03d` | len }}{{ .Message.RecursionDesired }}", "3true"),
        ("{{ $x := .Group.x }}{{ $x }}{{ $.Name }}", "aa.b.test."),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ('{{ if eq .Type "A" }}yes{{ else }}no{{ end }}', "yes"),
        ('{{ if eq .Type "B" }}1{{ else if eq .Type "C" "A" }}2{{ else }}3{{ end }}', "2"),
        ("{{ if and (ge 3 2) (le 1 1) (not false) (gt 2 1) (lt 1 2) (ne 1 2) }}yes{{ end }}", "yes"),
        ("{{ with index .Match 1 }}{{ . }}{{ $.Type }}{{ end }}", "aA"),
        ("{{ with .Empty }}x{{ else }}{{ .Type }}{{ end }}", "A"),
        ("{{ with $y := .Group.x }}{{ $y }}{{ end }}", "a"),
        ("{{ range .Match }}({{ . }}){{ end }}", "(a.b)(a)(b)"),
        ("{{ range $i, $e := .Match }}{{ $i }}{{ $e }} {{ end }}", "0a.b 1a 2b "),
        ("{{ range $e := .Match }}{{ $e }}{{ end }}", "a.bab"),
        ("{{ range .Empty }}x{{ else }}none{{ end }}", "none"),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        ("{{ range $k, $v := .Group }}{{ $k }}={{ $v }} {{ end }}", "0=a.b x=a "),
        ('{{ printf "%s-%05d-%q-%v-%x-%t-%%" .Type 7 .Class true 255 false }}', 'A-00007-"IN"-true-ff-false-%'),
        ('{{ printf "%d %s" "a" }}', "%!d(a) %!s(MISSING)"),
        ('{{ parseInt "3c" 16 32 }}{{ slice .Name 0 3 }}{{ print 1 "a" }}', "60a.b1a"),
        ("{{ html `<a>` }}{{ urlquery `a b/` }}", "&lt;a&gt;a+b%2F"),
        ("{{ or .Nope .Type }}{{ len .Match }}", "A3"),
    ],
)  # fmt: skip
def test_texts(text: str, expected: str) -> None:
    assert Template(text).render(DATA) == expected


@pytest.mark.parametrize(
    "text",
    ["{{ .Name", "{{ end }}", "{{ if .Name }}", "{{ nope .Name }}", "{{ $x }}", "{{ $x = 1 }}", "{{ (.Name }}",
     "{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", "{{ .Name | }}", "{{ template `x` }}"],
)  # fmt: skip
def test_what_is_no_template(text: str) -> None:
    with pytest.raises(TemplateError):
        Template(text)


@pytest.mark.parametrize(
    "text",
    ["{{ index .Match 9 }}", "{{ .Name.x }}", "{{ parseInt `zz` 10 8 }}", "{{ parseInt `999` 10 8 }}",
     "{{ slice .Name 5 2 }}", "{{ range .Type }}{{ end }}", "{{ len 5 }}"],
)  # fmt: skip
def test_what_does_not_fit(text: str) -> None:
    with pytest.raises(TemplateError):
        Template(text).render(DATA)
