"""Real container runtimes inside a test's sandbox, with one image made of busybox.

What a machine without CAP_SYS_RESOURCE or writable cgroups refuses is turned off in their settings;
their CNI side is untouched.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from kubewire.kernel import namespaces

IMAGE = "localhost/busybox:1"
Field = tuple[int, "int | str | list[Field]"]


def _tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return out.getvalue()


def image_archive(path: Path) -> None:
    """Write an image that ``podman load`` and ``ctr image import`` take."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    tools = ("sh", "sleep", "ip", "nc", "cat")
    layer = _tar({"bin/busybox": busybox}, {f"bin/{tool}": "busybox" for tool in tools})
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "1000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    path.write_bytes(
        _tar(
            {
                "layer.tar": layer,
                "config.json": json.dumps(config).encode(),
                "manifest.json": json.dumps(manifest).encode(),
            }
        )
    )


def hide_cgroups() -> None:
    """Show runtimes a cgroup tree that nobody may change: they then do without."""
    namespaces.unshare(namespaces.CLONE_NEWCGROUP)
    tree = "/sys/fs/cgroup"
    namespaces.mount("none", tree, "cgroup2")
    namespaces.mount("none", tree, flags=namespaces.MS_BIND | namespaces.MS_REMOUNT | namespaces.MS_RDONLY)  # fmt: skip


# -- containerd, by the CRI ------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def encode(fields: list[Field]) -> bytes:
    """A protobuf message: (number, value) pairs, messages as lists."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else encode(value)
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def decode(data: bytes) -> dict[int, list[Any]]:
    """Field number -> its values; messages stay bytes."""
    found: dict[int, list[Any]] = {}
    stream = io.BytesIO(data)

    def varint() -> int:
        number = shift = 0
        while True:
            byte = stream.read(1)[0]
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while stream.tell() < len(data):
        key = varint()
        value: Any = stream.read(varint()) if key & 7 == 2 else varint()
        found.setdefault(key >> 3, []).append(value)
    return found


class Cri:
    """The part of the container runtime interface that a kubelet uses for a pod."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")

    def call(self, method: str, fields: list[Field]) -> dict[int, list[Any]]:
        ask = self._channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")
        return decode(ask(encode(fields), timeout=30))

    def conditions(self) -> dict[str, tuple[bool, str]]:
        """RuntimeReady and NetworkReady, with the reason why not."""
        status = decode(self.call("Status", [])[1][0])
        parsed = [decode(one) for one in status[1]]
        return {c[1][0].decode(): (bool(c.get(2)), str(c.get(4))) for c in parsed}

    def run_pod(
        self,
        name: str,
        ports: list[list[Field]] | None = None,
        annotations: dict[str, str] | None = None,
    ) -> str:
        config: list[Field] = [
            (1, [(1, name), (2, f"uid-{name}"), (3, "default")]),
            (2, name),
            (3, "/run/pod-logs"),
            *((5, port) for port in ports or ()),
            *((7, [(1, key), (2, value)]) for key, value in (annotations or {}).items()),
            (8, []),
        ]
        answer = self.call("RunPodSandbox", [(1, config)])
        return str(answer[1][0].decode())

    def ips(self, pod: str) -> list[str]:
        status = decode(self.call("PodSandboxStatus", [(1, pod)])[1][0])
        network = decode(status[5][0])
        more = [decode(one)[1][0].decode() for one in network.get(2, ())]
        return [network[1][0].decode(), *more]

    def remove_pod(self, pod: str) -> None:
        self.call("StopPodSandbox", [(1, pod)])
        self.call("RemovePodSandbox", [(1, pod)])


_CONTAINERD = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{folder}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin_dir}"
    conf_dir = "{conf_dir}"
"""


# The group of terminals (5) does not exist in a user namespace of one group; and podman tells a
# runtime that can do without cgroups by a flag that only crun knows.
_RUNC = """#!/bin/sh
left=$#
while [ $left -gt 0 ]; do
    case $1 in
    --cgroup-manager) shift 2; left=$((left - 2)); continue ;;
    --bundle) sed -i 's/,"gid=5"//' "$2/config.json" ;;
    esac
    set -- "$@" "$1"
    shift
    left=$((left - 1))
done
exec runc "$@"
"""


@contextmanager
def containerd(bin_dir: Path, conf_dir: Path) -> Iterator[Cri]:
    """A containerd with the image, whose CRI uses the plugins and networks of these folders."""
    hide_cgroups()
    folder = Path("/run/containerd-test")
    folder.mkdir()
    config = folder / "config.toml"
    config.write_text(
        _CONTAINERD.format(folder=folder, image=IMAGE, bin_dir=bin_dir, conf_dir=conf_dir)
    )
    (folder / "runc").write_text(_RUNC)
    (folder / "runc").chmod(0o755)
    log = (folder / "log").open("wb")
    daemon = subprocess.Popen(["containerd", "-c", config], stdout=log, stderr=log)
    try:
        socket = folder / "sock"
        archive = folder / "image.tar"
        image_archive(archive)
        # It waits for the daemon itself.
        load = ["ctr", "--connect-timeout", "60s", "-a", socket, "-n", "k8s.io", "image", "import", "--snapshotter", "native", archive]  # fmt: skip
        done = subprocess.run(load, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        yield Cri(socket)
    except BaseException:
        print((folder / "log").read_text(errors="replace")[-4000:])
        raise
    finally:
        daemon.kill()
        daemon.wait()
        log.close()


# -- podman ----------------------------------------------------------------------------------------

_PODMAN = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
runtime_supports_nocgroup = ["runc"]
[engine.runtimes]
runc = ["{folder}/runc"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["{bin_dir}"]
network_config_dir = "{conf_dir}"
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""


class Podman:
    """A podman of its own storage, whose networks are those of a folder."""

    def __init__(self, bin_dir: Path, conf_dir: Path) -> None:
        hide_cgroups()
        self._folder = Path("/run/podman-test")
        self._folder.mkdir()
        (self._folder / "runc").write_text(_RUNC)
        (self._folder / "runc").chmod(0o755)
        settings = self._folder / "containers.conf"
        settings.write_text(_PODMAN.format(folder=self._folder, bin_dir=bin_dir, conf_dir=conf_dir))
        self._env = os.environ | {"CONTAINERS_CONF": str(settings), "TMPDIR": str(self._folder)}
        archive = self._folder / "image.tar"
        image_archive(archive)
        self("load", "-i", str(archive))

    def __call__(self, *arguments: str) -> str:
        """Run a command; returns what it printed."""
        command = ["podman", "--root", f"{self._folder}/root", "--runroot", f"{self._folder}/run", "--storage-driver", "vfs", *arguments]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env=self._env, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
