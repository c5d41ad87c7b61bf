"""How this process's memory allocator treats freed memory. Knows glibc; does nothing elsewhere."""

from __future__ import annotations

import ctypes
import platform

# <malloc.h>; larger thresholds for mmap than 32 MiB are refused.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MMAP_BYTES = 32 * 2**20
KEPT_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Lets a service keep up to `KEPT_BYTES` of memory that it freed for its next request.

    glibc otherwise hands the memory of each large message and array back, and the next one pays for every page anew:
    9 ms of a request of 6 MB (measured; `make bench BENCH='--only endpoint'`). Threads share one arena, so that one of
    them takes what another freed while it is still in the cache, and the bound is one for the whole process.

    Returns:
        Whether this process has an allocator that takes such advice.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    advice = {_M_MMAP_THRESHOLD: _MMAP_BYTES, _M_TRIM_THRESHOLD: KEPT_BYTES, _M_ARENA_MAX: 1}
    return all(mallopt(parameter, value) for parameter, value in advice.items())
