"""What ``kubewire cni install`` writes."""

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kubewire.api.errors import InputError
from kubewire.cli.cni import cni
from kubewire.cni import install
from kubewire.kernel import namespaces


def installed(programs: Path, config: Path, *arguments: str) -> Result:
    folders = ["--bin-dir", str(programs), "--conf-dir", str(config)]
    return CliRunner().invoke(cni, ["install", *folders, *arguments])


def test_programs_and_a_list_that_old_runtimes_take(tmp_path: Path) -> None:
    done = installed(tmp_path / "bin", tmp_path / "conf", "--chain", "portmap")
    assert (done.exit_code, done.stderr) == (0, "")
    programs = sorted((tmp_path / "bin").iterdir())
    assert [p.name for p in programs] == ["kubewire-cni", "kubewire-ipam", "loopback"]
    assert all(p.stat().st_mode & 0o111 for p in programs)
    config = json.loads((tmp_path / "conf" / "10-kubewire.conflist").read_text())
    assert config["cniVersion"] == "1.0.0"
    assert config["cniVersions"][-1] == "1.1.0"
    assert [p["type"] for p in config["plugins"]] == ["kubewire-cni", "portmap"]
    own = config["plugins"][0]["capabilities"]
    assert own == {"ips": True, "mac": True, "dns": True, "bandwidth": True}


def test_alone_and_masquerading(tmp_path: Path) -> None:
    masquerade = ["--ip-masq", "--non-masquerade-cidr", "10.0.0.0/8"]
    done = installed(tmp_path / "bin", tmp_path, "--standalone", *masquerade)
    assert done.exit_code == 0, done.output
    [main] = json.loads((tmp_path / "10-kubewire.conflist").read_text())["plugins"]
    assert main["ipam"]["ranges"] == [[{"subnet": "10.244.0.0/24"}]]
    assert main["ipMasq"] is True
    assert main["nonMasqueradeCIDRs"] == ["10.0.0.0/8"]
    assert main["capabilities"]["portMappings"] is True


def test_a_loopback_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "loopback").write_bytes(b"theirs")
    for compiler in ("cc", ""):
        install.install_programs(tmp_path, socket=Path("/run/s"), compiler=compiler)
        assert (tmp_path / "loopback").read_bytes() == b"theirs"
    (tmp_path / "loopback").unlink()
    install.install_programs(tmp_path, socket=Path("/run/s"), compiler="")
    install.install_programs(tmp_path, socket=Path("/run/other"), compiler="")
    assert b"/run/other" in (tmp_path / "loopback").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--subnet", "nonsense"], "--subnet: subnet 'nonsense'"),
        (
            ["--non-masquerade-cidr", "10.0.0.1/8"],
            "--non-masquerade-cidr: 10.0.0.1/8 has host bits set",
        ),
        (["--non-masquerade-cidr", "10.0.0.0/8"], "--non-masquerade-cidr: needs --ip-masq"),
        (["--name", "a/b"], "name 'a/b': has illegal characters"),
        (["--name", ""], "name: is missing"),
        (["--mtu", "10"], "mtu 10: must be between 68 and 65535"),
        (
            ["--subnet", "10.0.0.0/24", "--subnet", "10.0.0.0/25"],
            "ipam.ranges[1]: 10.0.0.1-10.0.0.126 overlaps",
        ),
        (["--subnet", "fd00::/64", "--mtu", "1000"], "mtu 1000: IPv6 needs 1280"),
        (["--socket", "/" + "x" * 110], "--socket /xxx"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: list[str], text: str) -> None:
    done = installed(tmp_path, tmp_path, *arguments)
    assert text in str(done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--pod-cidr", "10.0.0.0/24", "--pod-cidr", "10.0.0.0/25"], "--pod-cidr: 10.0.0.0/25: "),
        (["--socket", "/" + "x" * 110], "--socket /xxx"),
    ],
)
def test_wrong_use_of_the_agent(arguments: list[str], text: str) -> None:
    done = CliRunner().invoke(cni, ["serve", *arguments])
    assert isinstance(done.exception, InputError)
    assert str(done.exception).startswith(text)


@pytest.mark.kernel
def test_an_agent_that_cannot_listen_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(cni, ["serve", "--socket", "/proc/here"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: cannot serve at /proc/here, ")
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(
            cni, ["serve", "--socket", f"{tmp_path}/s", "--metrics-port", port]
        )
    assert done.exit_code == 1
    assert f"port {port}: [Errno 98] Address already in use" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_comes_first_is_told(tmp_path: Path) -> None:
    for name in ("05-other.conf", "20-later.conflist", "00-notes.txt"):
        (tmp_path / name).touch()
    done = installed(tmp_path / "bin", tmp_path)
    assert done.exit_code == 0
    assert (
        done.stderr == f"{tmp_path}: a runtime that takes one configuration takes 05-other.conf\n"
    )


@pytest.mark.parametrize(
    ("programs", "config", "text"),
    [
        ("file", "conf", "Error: {}/file: is not a folder\n"),
        ("file/below", "conf", "Error: {}/file/below: is not a folder\n"),
        ("bin", "file", "Error: {}/file: is not a folder\n"),
        ("bin", "full", "Error: {}/full/10-kubewire.conflist: Is a directory\n"),
        ("full", "conf", "Error: {}/full/kubewire-cni: Is a directory\n"),
        ("/proc/self", "conf", "Error: /proc/self: cannot be written to\n"),
        ("bin", "/proc/x/y", "Error: /proc/x/y: No such file or directory\n"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, programs: str, config: str, text: str) -> None:
    (tmp_path / "file").touch()
    for name in ("kubewire-cni", install.CONFIG_NAME):
        (tmp_path / "full" / name).mkdir(parents=True)
    done = installed(tmp_path / programs, tmp_path / config)
    assert (done.exit_code, done.stderr) == (1, text.format(tmp_path))
    assert list(tmp_path.rglob(".*")) == []


@pytest.mark.kernel
def test_a_full_disk_is_told_and_nothing_half_stays() -> None:
    namespaces.mount_tmpfs("/mnt", size="16k")
    done = installed(Path("/mnt"), Path("/mnt"))
    assert done.stderr == "Error: /mnt/kubewire-cni: No space left on device\n"
    assert list(Path("/mnt").iterdir()) == []


def test_a_data_folder_is_that_of_the_one_who_installs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(cni, ["install", "--bin-dir", "b", "--conf-dir", "c", "--data-dir", "d"])
    found = json.loads((tmp_path / "c" / install.CONFIG_NAME).read_text())
    assert found["plugins"][0]["ipam"]["dataDir"] == f"{tmp_path}/d"


def test_a_socket_path_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(install.InstallError, match="too long"):
        install.install_programs(tmp_path, socket=Path("/" + "x" * 200))
