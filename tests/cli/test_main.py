"""How the command says what was wrong, and how it reads names."""

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
