"""Run pytest inside a virtual machine with Debian's stock kernel: for what this kernel lacks.

    python tests/vm/run.py [--if-possible] PYTEST_ARGUMENTS...

``qemu-system-x86_64`` emulates the processor in software, so neither KVM nor root is needed. The
guest's root is this machine's, shared read-only over 9p with a tmpfs on top: it runs the very same
``.venv`` and files. Kernel and modules come out of Debian's linux-image package, which is fetched
into a cache folder and not installed. Output comes over the serial console as it is written; the
exit status is pytest's.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
META_PACKAGE = "linux-image-amd64"
QEMU, BUSYBOX = "qemu-system-x86_64", "busybox"
BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""What the guest needs before it has modprobe."""
KEPT_MODULES = (
    *(
        f"net/{name}/"
        for name in ("9p", "802", "bridge", "ipv4", "ipv6", "llc", "netfilter", "sctp")
    ),
    *(f"fs/{name}/" for name in ("9p", "fscache", "netfs", "overlayfs")),
    *(f"drivers/{name}" for name in ("net/dummy", "net/veth", "net/wireguard/", "virtio/")),
    "arch/x86/crypto/",
    "crypto/",
    "lib/",
)
CONTENT = " ".join(KEPT_MODULES)
"""What a cached kernel has, so that one of another list is fetched anew."""
STATUS = re.compile(rb"kubewire-vm-status=(\d+)")
SEARCH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/bin"))


class MissingError(Exception):
    """Something that the machine cannot be started without; the text says what and the fix."""


def main() -> int:
    """Boot, run, pass on the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--if-possible", action="store_true")
    parser.add_argument("--memory", default="1500M")
    options, arguments = parser.parse_known_args()
    try:
        qemu, busybox = _program(QEMU, "qemu-system-x86"), _program(BUSYBOX, "busybox-static")
        kernel, modules = kernel_files(busybox)
    except MissingError as missing:
        print(f"left out: the tests that need ip_vs or WireGuard: {missing}", file=sys.stderr)
        return 0 if options.if_possible else 2
    compile_modules()
    with tempfile.TemporaryDirectory(prefix="kubewire-vm-") as folder:
        image = initramfs(Path(folder), busybox, modules, arguments)
        return boot(qemu, kernel, image, options.memory)


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=SEARCH)
    if found is None:
        raise MissingError(f"{name} is not there (Debian package {package})")
    return found


# -- the kernel -----------------------------------------------------------------------------------


def kernel_files(busybox: str) -> tuple[Path, Path]:
    """vmlinuz and the folder of modules of the newest stock kernel; fetched once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubewire" / "vm"
    package = _package()
    folder = cache / package if package else _newest(cache)
    ready = folder / "ready"
    if not ready.exists() or ready.read_text() != CONTENT:
        _fetch(package, folder, busybox)
    (kernel,) = (folder / "boot").glob("vmlinuz-*")
    (modules,) = (folder / "lib" / "modules").iterdir()
    return kernel, modules


def _package() -> str:
    """The package that the meta package leads to; "" where apt does not know."""
    if shutil.which("apt-cache", path=SEARCH) is None:
        return ""
    asked = subprocess.run(
        ["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True, check=False
    )
    found = re.search(r"Depends: (linux-image-\S+)", asked.stdout)
    return found[1] if found else ""


def _newest(cache: Path) -> Path:
    known = sorted((p for p in cache.glob("*/ready")), key=lambda p: p.stat().st_mtime)
    if not known:
        raise MissingError(
            f"no kernel (apt-get download {META_PACKAGE} needs Debian and apt-get update)"
        )
    return known[-1].parent


def _fetch(package: str, folder: Path, busybox: str) -> None:
    """Download and unpack beside, then rename: an interrupted one leaves nothing half done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        work, content = Path(name), Path(name) / "content"
        for command in (
            ["apt-get", "download", "-q", package],
            ["sh", "-c", f"dpkg-deb -x {package}_*.deb content"],
        ):
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
            if done.returncode:
                raise MissingError(
                    f"no kernel: {shlex.join(command)}: {done.stderr.strip()[-200:]}"
                )
        _keep_network_modules(content)
        (release,) = (content / "lib" / "modules").iterdir()
        command = [busybox, "depmod", "-b", str(content), release.name]
        subprocess.run(command, check=True)
        (content / "ready").write_text(CONTENT)
        shutil.rmtree(folder, ignore_errors=True)
        content.rename(folder)


def _keep_network_modules(content: Path) -> None:
    """Of 400 MB of modules, the few that a machine without devices can use."""
    (release,) = (content / "lib" / "modules").iterdir()
    for module in release.rglob("*.ko*"):
        if not str(module.relative_to(release / "kernel")).startswith(KEPT_MODULES):
            module.unlink()


# -- the guest ------------------------------------------------------------------------------------


def compile_modules() -> None:
    """Here, once: there each machine anew would spend minutes on it, at a tenth of the speed."""
    command = [sys.executable, "-m", "compileall", "-q", "-j", "2", str(PROJECT / "src")]
    subprocess.run([*command, str(PROJECT / "tests")], check=False)


def initramfs(folder: Path, busybox: str, modules: Path, arguments: list[str]) -> Path:
    """A cpio archive with busybox, the modules, `guest.sh` as init, and what to run."""
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    shutil.copy(HERE / "guest.sh", root / "init")
    (root / "init").chmod(0o755)
    target = root / "lib" / "modules" / modules.name
    shutil.copytree(modules, target, ignore=shutil.ignore_patterns("build", "source"))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    names = ("PATH", "HOME", "LANG", "PYTHONPATH")
    lines = [f"export {n}={shlex.quote(os.environ[n])}" for n in names if n in os.environ]
    # Not to be resolved: the venv's python is a link, and its place tells it where the venv is.
    lines += [f"cd {shlex.quote(str(PROJECT))}", shlex.join(command)]
    (root / "command.sh").write_text("\n".join(lines) + "\n")
    (root / "boot-modules").write_text("\n".join(BOOT_MODULES) + "\n")
    image = folder / "initramfs"
    with image.open("wb") as output:
        names_of = subprocess.Popen(["find", "."], cwd=root, stdout=subprocess.PIPE)
        subprocess.run(
            [busybox, "cpio", "-o", "-H", "newc"], cwd=root, stdin=names_of.stdout, stdout=output,
            stderr=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        names_of.wait()
    return image


def boot(qemu: str, kernel: Path, image: Path, memory: str) -> int:
    """Start the machine; print what it says; return what pytest returned in it."""
    share = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
    command = [
        qemu, "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", memory,
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
        "-kernel", str(kernel), "-initrd", str(image), "-virtfs", share,
        "-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off random.trust_cpu=on",
    ]  # fmt: skip
    # The machine must not outlive its caller's interest.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert machine.stdout
    said = b""
    try:
        # As it comes: a test's dot is no line.
        while piece := os.read(machine.stdout.fileno(), 1 << 16):
            said = (said + piece)[-200:]
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    finally:
        machine.kill()
        machine.wait()
    found = STATUS.search(said)
    if found is None:
        print("the machine stopped before pytest had ended", file=sys.stderr)
        return 3
    return int(found[1])


if __name__ == "__main__":
    sys.exit(main())
