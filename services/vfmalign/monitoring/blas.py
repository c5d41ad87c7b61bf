"""Threads of numpy's matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np  # noqa: F401 - its BLAS is limited only if it is loaded
from threadpoolctl import threadpool_limits


def use_one_thread() -> AbstractContextManager[object]:
    """Limits the matrix products of this process to one thread, until the returned context is closed.

    The products for an observation are too small for several threads: waiting threads took as much processor time as
    the service. With one thread per core, the order of rounding also depends on the machine, so that a replay on
    another machine could differ in the last bits of a score.
    """
    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits
