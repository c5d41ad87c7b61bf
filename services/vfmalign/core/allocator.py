"""How this process's memory allocator treats freed memory. Knows glibc; does nothing elsewhere."""

from __future__ import annotations

import ctypes
import platform

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST_BLOCK_BYTES = 32 * 2**20
"""Older releases of glibc take no larger blocks from what is kept."""
MOST_BYTES = 2**31 - 1
"""What a process can ask for that computes networks on a CPU: it uses the same again for the next study or step."""


def keep_freed_memory(kept_bytes: int, block_bytes: int = _LARGEST_BLOCK_BYTES) -> bool:
    """Lets a process keep memory that it freed for what it needs next.

    glibc otherwise hands the memory of each large array back, and the next one pays for every page anew: a quarter of a
    convolutional encoder's forward pass at full size, 9 ms of a request of 6 MB (measured; `python -m bench.forward`,
    `make bench BENCH='--only endpoint'`). Threads share one arena, so that one of them takes what another freed while
    it is still in the cache, and the bound is one for the whole process.

    Args:
        kept_bytes: how much of it, at the most; for as long as the process runs.
        block_bytes: of the largest array that takes part.

    Returns:
        Whether this process has an allocator that takes such advice.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    blocks = (block_bytes, min(block_bytes, _LARGEST_BLOCK_BYTES))
    taken = any(mallopt(_M_MMAP_THRESHOLD, size) for size in blocks)
    return taken and all(mallopt(*advice) for advice in ((_M_TRIM_THRESHOLD, kept_bytes), (_M_ARENA_MAX, 1)))
