"""The compiled loop under gcc's sanitizers: no octet too far, nothing undefined, no race.

``fastpath_fuzz.c`` includes the loop's source. Each run takes a seed of its own; a failure names it.
``make fuzz`` runs them longer.
"""

import os
import random
import subprocess
from pathlib import Path

import pytest

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
SOURCE = Path(__file__).with_name("fastpath_fuzz.c")
RUNS = [("address,undefined", "batches", 3000), ("address,undefined", "threads", 30_000), ("thread", "threads", 30_000)]  # fmt: skip


@pytest.mark.tool("gcc")
@pytest.mark.parametrize(("sanitizer", "what", "rounds"), RUNS)
def test_damaged_messages(sanitizer: str, what: str, rounds: int, tmp_path: Path) -> None:
    program = tmp_path / "fuzz"
    flags = ["-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-pthread"]
    built = subprocess.run(
        ["gcc", *flags, "-o", program, SOURCE], capture_output=True, text=True, check=False
    )
    if f"cannot find -l{'tsan' if sanitizer == 'thread' else 'asan'}" in built.stderr:
        pytest.skip("this gcc comes without its sanitizers' libraries")
    assert built.returncode == 0, built.stderr
    seed = str(random.randrange(1 << 32))
    ended = subprocess.run(
        [program, what, seed, str(rounds * TIMES)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"seed {seed}: {ended.stderr[-3000:]}"
