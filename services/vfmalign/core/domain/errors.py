"""Errors with a cause, the affected object and a remedy.

`core.rpc.status_mapping` maps the classes to gRPC status codes and back. Messages name objects by generated id or URI
only: never by a local path, a patient's name or a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class VfmalignError(Exception):
    """Base class of all errors that users see.

    Attributes:
        reason: UPPER_SNAKE_CASE constant for programs (`google.rpc.ErrorInfo.reason`).
        subject: the affected object: an id, an `s3://` URI or a request field.
        remedy: one sentence on how to solve the problem.
        retry_after_s: seconds after which a retry may succeed; None if no retry can succeed.
        may_name_patients: whether the text may contain ids of cases or groups, which must not reach a service's log.
    """

    reason = "INTERNAL"
    retry_after_s: float | None = None
    may_name_patients = True

    def __init__(self, message: str, *, subject: str = "", remedy: str = "", reason: str | None = None) -> None:
        super().__init__(message)
        self.subject = subject
        self.remedy = remedy
        if reason is not None:
            self.reason = reason

    @property
    def message(self) -> str:
        """The sentence that describes the cause."""
        return str(self.args[0])

    @property
    def log_text(self) -> str:
        """The text for logs of services: only the reason if the whole text may name patients."""
        return self.reason if self.may_name_patients else str(self)

    def __str__(self) -> str:
        prefix = f"{self.subject}: " if self.subject else ""
        suffix = f"; {self.remedy}" if self.remedy else ""
        return f"{prefix}{self.message}{suffix}"


class InvalidInput(VfmalignError):
    """The caller must correct a request, file or option (INVALID_ARGUMENT).

    Attributes:
        field: path of the offending field in the request, such as `study.volumes[0]`.
    """

    reason = "INVALID_INPUT"

    def __init__(
        self, message: str, *, field: str = "", subject: str = "", remedy: str = "", reason: str | None = None
    ) -> None:
        super().__init__(message, subject=subject or field, remedy=remedy, reason=reason)
        self.field = field or subject


@contextmanager
def within(path: str, **names: str) -> Iterator[None]:
    """Converts the field of an error about part of a request to a path in the whole request.

    Args:
        path: path of the part, such as `spec`.
        names: maps fields of the part to their names in the request, if the names differ, such as `task="tasks[0]"`.
    """
    try:
        yield
    except BadOption as error:
        first, dot, rest = error.field.partition(".")
        if first not in {"", path}:
            is_subject = error.subject == error.field
            error.field = f"{path}.{names.get(first, first)}{dot}{rest}"
            error.subject = error.field if is_subject else error.subject
        raise


class BadVolume(InvalidInput):
    """A volume that cannot be decoded or used."""

    reason = "BAD_VOLUME"


class BadTensor(InvalidInput):
    """A tensor with wrong bytes, shape, dtype or values."""

    reason = "BAD_TENSOR"


class BadOption(InvalidInput):
    """An option is out of range, or options contradict each other."""

    reason = "BAD_OPTION"


class BadCheckpoint(InvalidInput):
    """Weights that cannot be read safely or do not fit the architecture."""

    reason = "BAD_CHECKPOINT"


class BadDataset(InvalidInput):
    """A dataset with a wrong description or wrong splits."""

    reason = "BAD_DATASET"


class NotFound(VfmalignError):
    """The object, model or job does not exist (NOT_FOUND)."""

    reason = "NOT_FOUND"


class PreconditionFailed(VfmalignError):
    """Stored data do not meet a condition of the request (FAILED_PRECONDITION)."""

    reason = "PRECONDITION_FAILED"


class DigestMismatch(PreconditionFailed):
    """The checksum of stored bytes is not the expected one."""

    reason = "DIGEST_MISMATCH"


class CaseOrderMismatch(PreconditionFailed):
    """Two feature sets do not contain the same cases in the same order."""

    reason = "CASE_ORDER_MISMATCH"


class Leakage(PreconditionFailed):
    """A held-out case is also part of training, validation or pretraining."""

    reason = "LEAKAGE"


class DataLoss(VfmalignError):
    """A stored object that is still needed is missing, truncated or changed (DATA_LOSS).

    Attributes:
        kind: kind of the lost artifact: `feature_set`, `model`, `volume`, `job_result`, `stage` or `report`. Programs
            use `kind` to decide how to create the artifact again.
        owner: id of the feature set, model, job or check that the object belongs to. For a stage, its name.
    """

    reason = "DATA_LOSS"

    def __init__(
        self,
        message: str,
        *,
        kind: str = "",
        owner: str = "",
        subject: str = "",
        remedy: str = "",
        reason: str | None = None,
    ) -> None:
        super().__init__(message, subject=subject, remedy=remedy, reason=reason)
        self.kind = kind
        self.owner = owner

    @property
    def log_text(self) -> str:
        """The reason, with the kind of the lost artifact. The owner may be a case."""
        return f"{self.reason} {self.kind}".rstrip()


class Conflict(VfmalignError):
    """An object with this id but other content exists (ALREADY_EXISTS)."""

    reason = "ALREADY_EXISTS"


class Exhausted(VfmalignError):
    """A resource is temporarily used up, such as a full queue (RESOURCE_EXHAUSTED)."""

    reason = "RESOURCE_EXHAUSTED"
    retry_after_s: float | None = 5.0
    may_name_patients = False


class TooLarge(Exhausted):
    """The work or message exceeds a limit. A retry cannot succeed (RESOURCE_EXHAUSTED)."""

    reason = "TOO_LARGE"
    retry_after_s = None
    may_name_patients = True


class StudyTooLarge(TooLarge):
    """A DICOM study exceeds the maximum size in bytes."""

    reason = "STUDY_TOO_LARGE"


class Unavailable(VfmalignError):
    """A required service is down, starting or shutting down. Try again later (UNAVAILABLE)."""

    reason = "UNAVAILABLE"
    retry_after_s = 2.0
    may_name_patients = False


class LeaseLost(Unavailable):
    """This orchestrator may not write: another orchestrator leads, or this orchestrator's lease has expired."""

    reason = "LEASE_LOST"


class StoreUnavailable(Unavailable):
    """The object store does not answer, or returns errors."""

    reason = "STORE_UNAVAILABLE"


class StoreRefused(StoreUnavailable):
    """The object store rejects the credentials of this process.

    The code is UNAVAILABLE rather than UNAUTHENTICATED or PERMISSION_DENIED, because the caller's own credentials are
    not the problem. The call succeeds once an operator has corrected the service's credentials.
    """

    reason = "STORE_REFUSED"
    retry_after_s = 30.0


class PacsUnavailable(Unavailable):
    """A PACS does not answer, is overloaded, or aborts its answer.

    Attributes:
        stated_wait_s: seconds to wait according to the PACS; 0 if the PACS states no time.
    """

    reason = "PACS_UNAVAILABLE"
    stated_wait_s = 0.0


class PacsRefused(PreconditionFailed):
    """A PACS rejects the configured credentials, or the service cannot read them.

    As in `StoreRefused`, the caller's own credentials are not the problem. The code is therefore FAILED_PRECONDITION
    rather than PERMISSION_DENIED.

    Attributes:
        may_permit_others: True if the PACS accepts the credentials but does not permit this request. Other requests may
            be permitted.
    """

    reason = "PACS_REFUSED"
    may_permit_others = False
    may_name_patients = False


class StudyNotFound(NotFound):
    """A PACS does not have the requested study, or none of the requested series."""

    reason = "STUDY_NOT_FOUND"


class BadPacsAnswer(PreconditionFailed):
    """A PACS returns unrequested content, or more data than the limit allows."""

    reason = "BAD_PACS_ANSWER"


class ProcessLost(Unavailable):
    """Another process of the same job has ended or cannot be reached."""

    reason = "PROCESS_LOST"


class DeadlineExceeded(VfmalignError):
    """The call took longer than its deadline (DEADLINE_EXCEEDED)."""

    reason = "DEADLINE_EXCEEDED"
    may_name_patients = False


class Cancelled(VfmalignError):
    """The work was cancelled (CANCELLED)."""

    reason = "CANCELLED"


class Unauthenticated(VfmalignError):
    """The credential is missing or invalid (UNAUTHENTICATED)."""

    reason = "UNAUTHENTICATED"


class Forbidden(VfmalignError):
    """The credential is valid but lacks the permission (PERMISSION_DENIED)."""

    reason = "PERMISSION_DENIED"


class Internal(VfmalignError):
    """An internal error: a bug. Callers see a generic message. The traceback is in the service's log (INTERNAL)."""

    reason = "INTERNAL"
    may_name_patients = False


MISCONFIGURED_STORE = frozenset({"BUCKET_NOT_FOUND", "WRONG_REGION"})
"""Error reasons that no change of the request resolves: an operator must correct the object store's settings."""
DONE, UNEXPECTED, BAD_SPEC, BAD_DATA, RETRYABLE, TERMINATED = 0, 1, 2, 3, 75, 143
"""Exit codes of batch processes, which Kubernetes Jobs and launchers branch on."""
STORE_UNAVAILABLE, PROCESS_LOST = 69, 76
"""Exit codes only of training processes, which distinguish a lost store or process from other retryable failures."""

_EXIT_CODES: tuple[tuple[tuple[type[VfmalignError], ...], int], ...] = (
    ((Cancelled,), TERMINATED),  # the first matching row counts
    # StoreRefused is Unavailable as well: a retry succeeds once an operator has corrected the credentials.
    ((Unavailable, DeadlineExceeded, Exhausted), RETRYABLE),
    ((BadDataset, BadVolume, Leakage, DataLoss), BAD_DATA),
    ((Internal,), UNEXPECTED),
    ((VfmalignError,), BAD_SPEC),
)


def exit_code(error: VfmalignError) -> int:
    """Returns the exit code for a process that fails with this error."""
    return next(code for classes, code in _EXIT_CODES if isinstance(error, classes))
