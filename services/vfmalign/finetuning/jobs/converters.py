"""Converts jobs to messages of the API."""

from __future__ import annotations

from vfmalign.client.messages import jobs as messages
from vfmalign.client.messages.common import Failure, ObjectRef, Progress
from vfmalign.core.domain.errors import BadOption, Conflict
from vfmalign.core.domain.jobs import JobProgress
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.jobs.repository import StoredJob
from vfmalign.finetuning.operation import ERASED

_IN_THE_SPEC = (BadOption.reason, Conflict.reason)
"""Reasons of failures that are caused by the specification."""


def to_job(job: StoredJob, store: ObjectStore, *, whole: bool = True, log_command: str = "") -> messages.Job:
    """Returns a job as a message.

    Args:
        job: the job.
        store: object store of the job's result.
        whole: whether to include the learning curve. Lists of jobs do not include learning curves.
        log_command: command that shows the log of the job's latest attempt.
    """
    # A job that reused another job's result has published nothing under its own name.
    published = job.result is not None and (job.attempts or not job.baseline)
    return messages.Job(
        job_id=job.id,
        spec=job.request,
        state=job.state,
        attempts=job.attempts,
        create_time=job.created_at,
        start_time=job.started_at,
        end_time=job.finished_at,
        progress=_to_progress(job),
        curve=tuple(to_curve_point(point) for point in job.curve) if whole else (),
        failure=with_remedy(job.failure, *(("check", job.check_id) if job.check_id else ("job", job.id))),
        result=None if job.result is None else ObjectRef.of(job.result, store.uri),
        encoder_model_id=job.spec.publish_as if published else "",
        log_command=log_command,
        created_by=job.creator,
        dataset_digest=job.spec.dataset_digest,
        model_sha256=job.spec.model_sha256,
    )


def to_curve_point(point: JobProgress) -> messages.CurvePoint:
    """Returns one point of a learning curve."""
    return messages.CurvePoint.model_validate(point, from_attributes=True)


def with_remedy(failure: Failure | None, noun: str, resource_id: str) -> Failure | None:
    """Adds a remedy to a failure. The remedy tells the user how to continue the work.

    Args:
        failure: error that ended the job or check.
        noun: `job`, `check` or `experiment`.
        resource_id: its id.
    """
    if failure is None or failure.reason == ERASED:
        return failure
    remedy = f"once the cause is fixed, continue with `vfmalign {noun}s retry {resource_id}`"
    if failure.reason in _IN_THE_SPEC:  # a retry would fail in the same way
        remedy = f"create another {noun} with the corrected option"
    return failure.model_copy(update={"message": f"{failure.message}; {remedy}"})


def _to_progress(job: StoredJob) -> Progress:
    """Returns a job's progress with the counts of its learning curve."""
    if not job.curve:
        return job.progress
    last = job.curve[-1]
    counts = {"done": last.epoch, "total": last.epochs, "unit": "epoch", "elapsed_seconds": last.elapsed_seconds}
    return job.progress.model_copy(update=counts)
