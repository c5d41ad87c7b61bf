"""Exit codes of the commands. Scripts rely on the exit codes. Mention every change of the table in the changelog."""

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
    OK: "success",
    FAILED: "the check or job failed or was cancelled, or vfmalign itself failed",
    BAD_INPUT: "invalid usage or input: an option, a file, an unknown id, a wrong digest, or a missing package",
    UNAVAILABLE: "a required service is unavailable or overloaded (retry later)",
    REFUSED: "not authenticated or not permitted, by a service, the object store or a PACS",
    GATE_FAILED: "the check or monitor finished, and a condition of its gate failed or could not be evaluated",
    INTERRUPTED: "interrupted by Ctrl-C; work on a service continues",
}

_CODES: dict[type[errors.VfmalignError], int] = {
    errors.InvalidInput: BAD_INPUT,
    errors.NotFound: BAD_INPUT,
    errors.PreconditionFailed: BAD_INPUT,
    errors.Conflict: BAD_INPUT,
    errors.Exhausted: UNAVAILABLE,
    errors.Unavailable: UNAVAILABLE,
    errors.StoreRefused: REFUSED,
    errors.PacsRefused: REFUSED,
    errors.DeadlineExceeded: UNAVAILABLE,
    errors.Unauthenticated: REFUSED,
    errors.Forbidden: REFUSED,
}


def get_exit_code(error: errors.VfmalignError) -> int:
    """Returns the exit code of an error.

    Looks up the error's class, then the base classes, and falls back to `FAILED`.
    """
    return next((_CODES[cls] for cls in type(error).__mro__ if cls in _CODES), FAILED)


def epilog() -> str:
    """Returns the exit codes as text for `vfmalign --help`."""
    return "Exit codes: " + "; ".join(f"{code}: {meaning}" for code, meaning in MEANINGS.items()) + "."
