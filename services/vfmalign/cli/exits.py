"""What the exit code of a command means.

Knows the errors of the tree and the codes. Scripts may rely on both tables.
"""

from __future__ import annotations

from vfmalign.core.domain import errors

OK = 0
FAILED = 1
BAD_INPUT = 2
UNAVAILABLE = 3
REFUSED = 4
GATE_FAILED = 5
INTERRUPTED = 130

MEANINGS: dict[int, str] = {
    OK: "done",
    FAILED: "the operation failed: a check or job that failed or was cancelled, or a fault of vfmalign",
    BAD_INPUT: "usage, or input that can never succeed as it is: an option, a file, an unknown id, a wrong digest",
    UNAVAILABLE: "something that is needed does not answer or has no room: the same command may succeed later",
    REFUSED: "no credential, or one that may not do this; yours, or a service's own at the object store",
    GATE_FAILED: "the check is done, and a condition of its gate failed or could not be decided",
    INTERRUPTED: "stopped by Ctrl-C; what runs on a service goes on",
}

_CODES: dict[type[errors.VfmalignError], int] = {
    errors.InvalidInput: BAD_INPUT,
    errors.NotFound: BAD_INPUT,
    errors.PreconditionFailed: BAD_INPUT,
    errors.Conflict: BAD_INPUT,
    errors.Exhausted: UNAVAILABLE,
    errors.Unavailable: UNAVAILABLE,
    errors.StoreRefused: REFUSED,
    errors.DeadlineExceeded: UNAVAILABLE,
    errors.Unauthenticated: REFUSED,
    errors.Forbidden: REFUSED,
}


def exit_code_of(error: errors.VfmalignError) -> int:
    """The exit code of an error: that of its class or its nearest base in the table, else `FAILED`."""
    return next((_CODES[cls] for cls in type(error).__mro__ if cls in _CODES), FAILED)


def epilog() -> str:
    """The table as text for `--help`."""
    return "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items()) + "."
