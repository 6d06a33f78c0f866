"""How the command says what was wrong, and how it reads names."""

from pathlib import Path

import pytest

from kubewire.cli import main
from kubewire.cli.options import pod_of


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nonsense"], "kubewire: No such command 'nonsense'."),
        (["up", "--proxy-mode", "x"], "kubewire up: Invalid value for '--proxy-mode': 'x' is"),
        (["policy", "why", "a"], "kubewire policy why: give FROM and TO, or --flows"),
        (["exec"], "kubewire exec: Missing argument '[NS/]POD'."),
    ],
)
def test_wrong_use_is_one_line(
    args: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["kubewire", *args])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", ("n", "web")),
        ("pod/web", ("n", "web")),
        ("pods/web", ("n", "web")),
        ("x/web", ("x", "web")),
    ],
)
def test_a_pod_may_bring_its_namespace(text: str, expected: tuple[str, str]) -> None:
    assert pod_of(text, "n") == expected


FILES = [
    ("broken YAML", "images: [a\n", "kubewire.yaml: error parsing YAML: "),
    ("a list", "- a\n", "kubewire.yaml: images: a map of image to command is expected"),
    ("no map", "images: x\n", "kubewire.yaml: images: a map of image to command is expected"),
    ("a quote", "images: {a: 'b \"'}\n", "kubewire.yaml: images: a: No closing quotation"),
    ("not text", b"\xff", "kubewire.yaml: cannot be read: 'utf-8' codec"),
]


def complaint(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one line with which the command ends."""
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(("text", "written", "said"), FILES, ids=[f[0] for f in FILES])
def test_a_wrong_kubewire_yaml_is_told_in_one_line(
    text: str,
    written: str | bytes,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = written if isinstance(written, bytes) else written.encode()
    (tmp_path / "kubewire.yaml").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["kubewire", "up"])
    assert complaint(capsys, 2).startswith(said)


PLACES = [
    (["up", "--detach"], "/proc/none", 2, "/proc/none: No such file or directory; set KUBEWIRE_HOME"),
    (["up", "--detach"], "FILE", 2, "FILE: File exists; set KUBEWIRE_HOME"),
    (["kubeconfig"], "FILE", 2, 'no cluster "kubewire" on this machine'),
    (["up", "--run", 'x="'], "/proc/none", 2, '--run x=": No closing quotation'),
    (["controller-manager", "--kubeconfig", "FILE"], "/proc/none", 2, "kubeconfig FILE: error parsing YAML: while"),
    (["controller-manager", "--kubeconfig", "/none"], "/proc/none", 2, "kubeconfig /none: cannot be read: No such file or directory"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "home", "code", "said"), PLACES)
def test_places_that_cannot_be(
    args: list[str],
    home: str,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "file"
    file.write_text("a: [b\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBEWIRE_HOME", home.replace("FILE", str(file)))
    monkeypatch.setattr("sys.argv", ["kubewire", *(a.replace("FILE", str(file)) for a in args)])
    assert complaint(capsys, code).startswith(said.replace("FILE", str(file)))
