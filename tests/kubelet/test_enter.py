"""What a pod's mounts leave as it was."""

from pathlib import Path

from kubewire.kernel import sandbox
from kubewire.kubelet.enter import Bind, bind_all


def test_what_is_mounted_below_a_folder_stays_when_a_file_is_added(tmp_path: Path) -> None:
    """A container's last words go into /dev, where terminals and shared memory are mounted."""
    source = tmp_path / "message"
    source.write_text("")

    def mounted() -> list[str]:
        return [n for n in ("pts", "shm", "mqueue") if Path("/dev", n).is_mount()]

    def add() -> tuple[list[str], list[str]]:
        before = mounted()
        bind_all((Bind(str(source), "/dev/kubewire-test-message"),))
        Path("/dev/kubewire-test-message").write_text("said")
        Path("/dev/null").write_text("nobody reads this")
        return before, mounted()

    before, after = sandbox.run(add)  # type: ignore[misc]
    assert after == before
    assert source.read_text() == "said"
    assert not Path("/dev/kubewire-test-message").exists()
