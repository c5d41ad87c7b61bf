"""Reads results of jobs from the store. Verifies that the results and the encoders that they name are intact."""

from __future__ import annotations

from vfmalign.core.domain.errors import DataLoss, DigestMismatch
from vfmalign.core.domain.jobs import JobResult
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.storage.keys import job_key, model_card_key
from vfmalign.core.storage.lost_objects import describe_publishing, lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.jobs.repository import JobRepository, StoredJob


def read_result(store: ObjectStore, job: StoredJob) -> JobResult:
    """Reads and verifies the result of a job.

    Raises:
        DataLoss: the result is missing or was changed.
    """
    with lost_as("job_result", job.id, _to_remedy(job.id)):
        expected = job.result.sha256 if job.result is not None else None
        return store.read(job_key(job.id, "result.json"), JobResult, expected)


def check_encoder(store: ObjectStore, result: JobResult, *, read: bool = False) -> None:
    """Checks that the encoder that a job published exists and has the card that the job's result names.

    Raises:
        DataLoss: the card or the weights are missing or changed; see `check_weights`.
    """
    key = model_card_key(result.encoder)
    with lost_as("model", result.encoder, _to_remedy(result.job_id)):
        card = store.read(key, ModelCard, result.encoder_card_sha256)
        if card.checkpoint.sha256 != result.encoder_sha256:
            raise DigestMismatch("the card and the job's result name different weights", subject=store.uri(key))
    check_weights(store, card, read=read)


def check_weights(store: ObjectStore, card: ModelCard, *, read: bool = False) -> None:
    """Checks that the weights of a model exist. If `read` is true, also verifies their bytes.

    Raises:
        DataLoss: the weights are missing or changed.
    """
    with lost_as("model", card.id, describe_publishing(card)):
        if read:
            store.get_large(card.checkpoint.key, sha256=card.checkpoint.sha256)
    if not read and not store.exists(card.checkpoint.key):
        raise DataLoss(
            "the weights are missing",
            kind="model",
            owner=card.id,
            subject=store.uri(card.checkpoint.key),
            remedy=describe_publishing(card),
        )


def reopen_if_lost(jobs: JobRepository, store: ObjectStore, job_id: str) -> None:
    """Queues a successful job again, if its result or a model that the job published is lost or damaged."""
    job = jobs.get(job_id)
    if job.state != "succeeded":
        return
    try:
        result = read_result(store, job)
        if result.job_id == job.id and result.encoder:
            check_encoder(store, result, read=True)
    except DataLoss as loss:
        reopen(jobs, store, job_id, f"{loss.subject}: {loss.message}; it is created again")


def reopen(jobs: JobRepository, store: ObjectStore, job_id: str, detail: str) -> None:
    """Queues a successful job again. The job resumes from its last checkpoint, and only has to test and publish.

    Args:
        jobs: repository of jobs.
        store: object store of the result.
        job_id: the job.
        detail: one sentence that names the lost object.
    """
    # Delete the result first: the supervisor considers a job with a result as done.
    store.delete(job_key(job_id, "result.json"))
    jobs.reopen(job_id, detail)


def _to_remedy(job_id: str) -> str:
    return f"run `vfmalign jobs retry {job_id}`, which creates it again from the job's checkpoint"
