"""How this process's memory allocator treats freed memory. Knows glibc; does nothing elsewhere."""

from __future__ import annotations

import ctypes
import platform

# <malloc.h>; larger thresholds for mmap than 32 MiB are refused.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_BYTES = 32 * 2**20
KEPT_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Lets a service keep up to `KEPT_BYTES` of memory that it freed for its next request.

    glibc otherwise hands the memory of each large message and array back, and the next one pays for every page anew:
    9 ms of a request of 6 MB (measured; `make bench BENCH='--only endpoint'`).

    Returns:
        Whether this process has an allocator that takes such advice.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
