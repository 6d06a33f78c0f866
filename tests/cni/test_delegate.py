"""What another IPAM plugin gave, as it is written down."""

from pathlib import Path

import pytest

from kubewire.cni.delegate import NAME, Given


def test_an_answer_is_kept_until_it_is_taken_back(tmp_path: Path) -> None:
    given = Given(tmp_path)
    assert list(given.owners()) == []
    assert given.get("c1/eth0") is None
    given.expect("c1/eth0")
    assert given.get("c1/eth0") == {}
    given.put("c1/eth0", {"ips": []})
    assert Given(tmp_path).get("c1/eth0") == {"ips": []}
    assert list(Given(tmp_path).owners()) == ["c1/eth0"]
    given.forget("c1/eth0")
    given.forget("c1/eth0")
    assert list((tmp_path / NAME).iterdir()) == []


def test_a_kill_while_it_is_written_leaves_nothing_behind_the_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Given(tmp_path)
    given.expect("c1/eth0")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        given.put("c1/eth0", {"ips": []})
    assert list(given.owners()) == ["c1/eth0"]
    given.forget("c1/eth0")
    assert list((tmp_path / NAME).iterdir()) == []
