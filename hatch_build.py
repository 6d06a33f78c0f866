"""Builds the compiled part of the DNS fast path where there is a C compiler.

Without one, or if it fails, the wheel is pure Python and everything works, only slower.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/kubewire/dns/native")


class FastPath(BuildHookInterface[Any]):
    """Compiles ``fastpath.c`` in place, so that an editable install has it, too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; on success the wheel belongs to this platform."""
        library = Path(self.root) / FOLDER / "fastpath.so"
        if not _compile(library):
            return
        build_data["artifacts"].append(f"{FOLDER}/fastpath.so")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"


def _compile(library: Path) -> bool:
    source = library.with_suffix(".c")
    compiler = shlex.split(os.environ.get("CC") or "cc")
    command = [*compiler, "-O3", "-shared", "-fPIC", "-pthread", "-o", str(library), str(source)]
    library.unlink(missing_ok=True)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "") or error
        print(f"the DNS fast path is not compiled, Python does it: {why}", file=sys.stderr)  # noqa: T201
        return False
    return True
