"""Freed memory stays with a process that asks for it, up to the bound."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
from vfmalign.core.allocator import keep_freed_memory
assert keep_freed_memory(256 * 2**20) is True
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
start = resident()
def left_of(mib):
    #MiB that stay with the process after so many were used and freed.
    blocks = [b"x" * 2**23 for _ in range(mib // 8)]
    assert resident() - start >= 0.9 * mib * 2**20
    del blocks
    return (resident() - start) / 2**20
assert left_of(128) > 100
assert left_of(1024) * 2**20 <= 256 * 2**20
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc takes this advice")
def test_freed_memory_is_kept_up_to_a_bound():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
