"""Threads of numpy's matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np  # noqa: F401 - its BLAS is limited only if it is loaded
from threadpoolctl import threadpool_limits


def use_one_thread() -> AbstractContextManager[object]:
    """Limits matrix products in this process to one thread, until the returned context is closed.

    The products for one observation are too small for several threads. When this was measured, waiting threads used as
    much processor time as the rest of the service. With one thread per core, rounding would also depend on the machine.
    A replay on another machine could then differ in the last bits of a score.
    """
    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits
