"""Threads of numpy's matrix products."""

from __future__ import annotations

import numpy as np  # noqa: F401 - its BLAS is limited only if it is loaded
from threadpoolctl import threadpool_limits


def use_one_thread() -> None:
    """Lets the matrix products of this process run in the thread that asks for them.

    The products of an observation are too short to divide: waiting threads took as much processor time as the service.
    Divided among as many threads as the machine has cores, sums are also rounded in another order, so that a repetition
    elsewhere could differ in the last bits of a score.
    """
    threadpool_limits(1, user_api="blas")
