"""Short slices, in a process of their own: they cannot be handed back to pytest's."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, os, platform, struct, threading
from kubewire.kernel.scheduler import short_slices

def look():
    attr = ctypes.create_string_buffer(48)
    number = {"x86_64": 315, "aarch64": 275}[platform.machine()]
    assert not ctypes.CDLL(None).syscall(ctypes.c_long(number), 0, attr, 48, 0)
    found.append(struct.unpack_from("=Q", attr, 24)[0])

found = []
os.nice(3)
short_slices()
look()
thread = threading.Thread(target=look)
thread.start()
thread.join()
print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), *found)
"""
KERNEL = tuple(int(n) for n in platform.release().split(".")[:2])


def test_slices_get_short_and_nothing_else_changes() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    policy, nice, *lengths = map(int, ended.stdout.split())
    assert (policy, nice) == (os.SCHED_OTHER, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3))
    if KERNEL < (6, 12):
        pytest.skip("this kernel has one length of slices")
    assert lengths == [100_000, 100_000]
