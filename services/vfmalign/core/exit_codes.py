"""How a process that does one piece of work and ends says how it ended (design §6): a table from errors to exit codes.

Knows the errors and the codes. Whoever starts such a process, a Kubernetes Job among them, may branch on them.
"""

from __future__ import annotations

from vfmalign.core.errors import (
    BadDataset,
    BadVolume,
    Cancelled,
    DeadlineExceeded,
    Exhausted,
    Internal,
    Leakage,
    Unavailable,
    VfmalignError,
)

DONE, UNEXPECTED, BAD_SPEC, BAD_DATA, RETRYABLE, TERMINATED = 0, 1, 2, 3, 75, 143

_CODES: tuple[tuple[tuple[type[VfmalignError], ...], int], ...] = (
    ((Cancelled,), TERMINATED),
    # A store that refuses us is Unavailable too: an operator puts it right, not another spec.
    ((Unavailable, DeadlineExceeded, Exhausted), RETRYABLE),
    ((BadDataset, BadVolume, Leakage), BAD_DATA),
    ((Internal,), UNEXPECTED),
    ((VfmalignError,), BAD_SPEC),
)


def exit_code(error: VfmalignError) -> int:
    """The exit code of an error: that of the first row of the table it belongs to."""
    return next(code for classes, code in _CODES if isinstance(error, classes))
