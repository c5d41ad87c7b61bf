"""The one tree of errors: what went wrong, with which object, and what to do about it.

Knows nothing of gRPC: `core.interceptors` holds the one table from these classes to status codes. A message names
objects by generated id or URI only: never a local path, a patient's name or a secret (design §3).
"""

from __future__ import annotations


class VfmalignError(Exception):
    """Base of every error that a user is meant to read.

    Attributes:
        reason: UPPER_SNAKE_CASE constant that programs may branch on (`google.rpc.ErrorInfo.reason`).
        subject: the object the error is about: an id, an `s3://` URI or a request field.
        remedy: one sentence that says what to do.
        retry_after_s: seconds to wait before a retry makes sense, or None where a retry is pointless.
    """

    reason = "INTERNAL"
    retry_after_s: float | None = None

    def __init__(self, message: str, *, subject: str = "", remedy: str = "", reason: str | None = None) -> None:
        super().__init__(message)
        self.subject = subject
        self.remedy = remedy
        if reason is not None:
            self.reason = reason

    @property
    def message(self) -> str:
        """The sentence that says what went wrong."""
        return str(self.args[0])

    def __str__(self) -> str:
        prefix = f"{self.subject}: " if self.subject else ""
        suffix = f"; {self.remedy}" if self.remedy else ""
        return f"{prefix}{self.message}{suffix}"


class InvalidInput(VfmalignError):
    """A request, file or option that can never succeed as it is (INVALID_ARGUMENT).

    Attributes:
        field: path of the offending field in the request, such as `study.volumes[0]`.
    """

    reason = "INVALID_INPUT"

    def __init__(
        self, message: str, *, field: str = "", subject: str = "", remedy: str = "", reason: str | None = None
    ) -> None:
        super().__init__(message, subject=subject or field, remedy=remedy, reason=reason)
        self.field = field or subject


class BadVolume(InvalidInput):
    """A volume that cannot be decoded or used."""

    reason = "BAD_VOLUME"


class BadTensor(InvalidInput):
    """A tensor whose bytes, shape, dtype or values are wrong."""

    reason = "BAD_TENSOR"


class BadOption(InvalidInput):
    """An option outside its range, or a combination that means nothing."""

    reason = "BAD_OPTION"


class BadCheckpoint(InvalidInput):
    """Weights that cannot be read safely or do not fit the architecture."""

    reason = "BAD_CHECKPOINT"


class BadDataset(InvalidInput):
    """A dataset whose description or splits are wrong."""

    reason = "BAD_DATASET"


class NotFound(VfmalignError):
    """An object, model or job that does not exist (NOT_FOUND)."""

    reason = "NOT_FOUND"


class PreconditionFailed(VfmalignError):
    """The world is not as the request says it is (FAILED_PRECONDITION)."""

    reason = "PRECONDITION_FAILED"


class DigestMismatch(PreconditionFailed):
    """Bytes read back are not those that were written."""

    reason = "DIGEST_MISMATCH"


class CaseOrderMismatch(PreconditionFailed):
    """Two feature sets that should hold the same cases in the same order do not."""

    reason = "CASE_ORDER_MISMATCH"


class Leakage(PreconditionFailed):
    """A held-out case was seen in training, validation or pretraining."""

    reason = "LEAKAGE"


class Conflict(VfmalignError):
    """The same id exists with another body (ALREADY_EXISTS)."""

    reason = "ALREADY_EXISTS"


class Exhausted(VfmalignError):
    """A full queue, or work too large for the device (RESOURCE_EXHAUSTED)."""

    reason = "RESOURCE_EXHAUSTED"
    retry_after_s: float | None = 5.0


class Unavailable(VfmalignError):
    """Something we need is down, loading or draining; the same call may succeed later (UNAVAILABLE)."""

    reason = "UNAVAILABLE"
    retry_after_s = 2.0


class StoreRefused(Unavailable):
    """The object store turns this process away: its own credentials are wrong, or may not use the bucket.

    Not the caller's fault, so neither UNAUTHENTICATED nor PERMISSION_DENIED; it passes once an operator has acted.
    """

    reason = "STORE_REFUSED"
    retry_after_s = 30.0


class DeadlineExceeded(VfmalignError):
    """The time the caller gave is over (DEADLINE_EXCEEDED)."""

    reason = "DEADLINE_EXCEEDED"


class Cancelled(VfmalignError):
    """Somebody asked for the work to stop (CANCELLED)."""

    reason = "CANCELLED"


class Unauthenticated(VfmalignError):
    """No credential, or one that is not valid (UNAUTHENTICATED)."""

    reason = "UNAUTHENTICATED"


class Forbidden(VfmalignError):
    """A valid credential that may not do this (PERMISSION_DENIED)."""

    reason = "PERMISSION_DENIED"


class Internal(VfmalignError):
    """A fault of ours; the text outside is generic, the trace is in the log (INTERNAL)."""

    reason = "INTERNAL"


DONE, UNEXPECTED, BAD_SPEC, BAD_DATA, RETRYABLE, TERMINATED = 0, 1, 2, 3, 75, 143
"""Exit codes of processes that do one piece of work and end. Kubernetes Jobs and launchers branch on them."""

_EXIT_CODES: tuple[tuple[tuple[type[VfmalignError], ...], int], ...] = (
    ((Cancelled,), TERMINATED),  # the first row that matches counts
    # A store that refuses us is Unavailable too: an operator puts it right, not another spec.
    ((Unavailable, DeadlineExceeded, Exhausted), RETRYABLE),
    ((BadDataset, BadVolume, Leakage), BAD_DATA),
    ((Internal,), UNEXPECTED),
    ((VfmalignError,), BAD_SPEC),
)


def exit_code(error: VfmalignError) -> int:
    """Returns the exit code of a process that ends with this error."""
    return next(code for classes, code in _EXIT_CODES if isinstance(error, classes))
