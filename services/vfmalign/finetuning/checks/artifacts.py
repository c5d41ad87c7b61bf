"""Stages of a check and their artifacts. Verifies that artifacts, and the objects that they refer to, are intact."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from vfmalign.client.features import AsyncFeaturesClient
from vfmalign.client.messages.common import Progress
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.core.domain.errors import DataLoss, NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import JobResult, Network
from vfmalign.core.domain.record import Record
from vfmalign.core.storage.feature_sets import describe_extraction, find_damaged_parts, read_committed
from vfmalign.core.storage.keys import check_key
from vfmalign.core.storage.lost_objects import lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.clients import FeatureSetRef
from vfmalign.finetuning.checks.repository import CheckRepository, StoredCheck
from vfmalign.finetuning.checks.signing import StatementSigner
from vfmalign.finetuning.checks.trainings import Training
from vfmalign.finetuning.jobs.repository import JobRepository, StoredJob
from vfmalign.finetuning.jobs.results import check_encoder, read_result

AnyRecord = TypeVar("AnyRecord", bound=Record)
RESTORE = "restore the object from a backup and continue with `vfmalign checks retry ID`, or run a new check"


class SetStatus(Protocol):
    """Callback with which a stage reports its current activity."""

    async def __call__(self, detail: str, progress: Progress | None = None, *, reason: str = "") -> None:
        """Replaces the stage's progress.

        Args:
            detail: one sentence.
            progress: counts, if there are any.
            reason: UPPER_SNAKE_CASE constant while the stage waits.
        """


@dataclass(frozen=True)
class StageContext:
    """Context of the stages of one check.

    Attributes:
        set_status: reports the stage's progress.
        poll_s: interval at which the state of a job is polled, in seconds.
        digests: maps each finished stage to the SHA-256 of its artifact, as the database records it.
        repairing: whether the stage creates a lost artifact again.
        before_store: function that receives each artifact before the artifact is stored.
        signer: signs the results of checks with a plan; None if the deployment has no key.
    """

    check: StoredCheck
    store: ObjectStore
    checks: CheckRepository
    jobs: JobRepository
    features: AsyncFeaturesClient
    mmd: AsyncMmdClient
    set_status: SetStatus
    poll_s: float
    digests: Mapping[str, str] = field(default_factory=dict)
    repairing: bool = False
    before_store: Callable[[Record], Awaitable[None]] | None = None
    signer: StatementSigner | None = None


class Outputs:
    """Maps each finished stage to its artifact."""

    def __init__(self, records: Mapping[str, Record] | None = None) -> None:
        self._records = dict(records or {})

    def __contains__(self, stage: str) -> bool:
        return stage in self._records

    def put(self, stage: str, record: Record) -> None:
        """Adds a stage's artifact."""
        self._records[stage] = record

    def remove(self, stage: str) -> Record | None:
        """Removes and returns a stage's artifact, if there is one."""
        return self._records.pop(stage, None)

    def items(self) -> list[tuple[str, Record]]:
        """Returns every stage with its artifact."""
        return list(self._records.items())

    def restrict_to(self, stages: Iterable[str]) -> Outputs:
        """Returns the artifacts of the named stages only."""
        return Outputs({stage: self._records[stage] for stage in stages if stage in self._records})

    def get(self, stage: str, record: type[AnyRecord]) -> AnyRecord:
        """Returns the artifact of a stage.

        Raises:
            KeyError: the calling stage cannot read the artifact because it does not list `stage` in its `reads`.
            TypeError: the stage creates artifacts of another type.
        """
        artifact = self._records[stage]
        if not isinstance(artifact, record):
            raise TypeError(f"stage {stage} created a {type(artifact).__name__}, expected a {record.__name__}")
        return artifact


@dataclass(frozen=True)
class Stage:
    """One stage. In the list of all stages, this stage comes after the stages in `reads` and `after`.

    Attributes:
        reads: stages whose artifacts this stage needs. The stage begins once these artifacts exist, and receives no
            other artifacts.
        find: returns the artifact, or None if it does not exist. Raises DataLoss for a finished stage if its artifact,
            or an object that the artifact refers to, is missing or changed. After this error, the stage must run again.
        make: does the work, stores the artifact and returns it.
        artifact: name of the artifact below `checks/<id>/`; empty for stages that wait for a job.
        after: other stages that must finish before this stage begins. This stage does not read the artifacts of those
            stages.
        training: training of the job for which this stage waits; None if it does not wait for a job.
    """

    name: str
    reads: tuple[str, ...]
    find: Callable[[StageContext], Awaitable[Record | None]]
    make: Callable[[StageContext, Outputs], Awaitable[Record]]
    artifact: str = ""
    after: tuple[str, ...] = ()
    training: Training | None = None


def get_readers(stages: Iterable[Stage], name: str) -> tuple[str, ...]:
    """Returns all stages that depend directly or indirectly on the output of a stage, in their usual order."""
    outdated = [name]
    for stage in stages:
        if not set(stage.reads).isdisjoint(outdated):
            outdated.append(stage.name)
    return tuple(outdated[1:])


# --- artifacts in the store -------------------------------------------------------------------------------------------


async def find_artifact(context: StageContext, name: str, record: type[AnyRecord]) -> AnyRecord | None:
    """Returns `checks/<id>/<name>`, or None if it does not exist or cannot be read."""
    try:
        return await asyncio.to_thread(context.store.read, check_key(context.check.id, name), record)
    except (NotFound, PreconditionFailed):
        return None


def make_stage(
    name: str,
    reads: tuple[str, ...],
    make: Callable[[StageContext, Outputs], Awaitable[Record]],
    record: type[AnyRecord],
    artifact: str = "",
    *,
    verify: Callable[[StageContext, AnyRecord], None] | None = None,
) -> Stage:
    """Returns a stage that stores `checks/<id>/<artifact>`. `artifact` is `stages/<name>.json` by default.

    Args:
        name: name of the stage.
        reads: see `Stage`.
        make: does the work and returns the artifact.
        record: type of the artifact.
        artifact: its name.
        verify: raises DataLoss if an object that the artifact refers to is missing or changed.
    """
    artifact = artifact or f"stages/{name}.json"

    async def find(context: StageContext) -> Record | None:
        expected = context.digests.get(name)
        if expected is None:
            stored = await find_artifact(context, artifact, record)
        else:
            key = check_key(context.check.id, artifact)
            with lost_as("stage", name, RESTORE):
                stored = await asyncio.to_thread(context.store.read, key, record, expected)
        if stored is not None and verify is not None:
            await asyncio.to_thread(verify, context, stored)
        return stored

    async def make_and_store(context: StageContext, outputs: Outputs) -> Record:
        made = await make(context, outputs)
        if context.before_store is not None:
            await context.before_store(made)
        # This write commits the stage.
        await asyncio.to_thread(context.store.write, check_key(context.check.id, artifact), made)
        return made

    return Stage(name, reads, find, make_and_store, artifact)


def verify_feature_set(context: StageContext, ref: FeatureSetRef) -> None:
    """Verifies that a stage committed this feature set, and that each part exists and has the right size.

    Raises:
        DataLoss: the manifest or a part of the feature set is missing or changed.
    """
    manifest = read_committed(context.store, ref.feature_set, ref.manifest_sha256).manifest
    for index in find_damaged_parts(context.store, manifest):
        raise DataLoss(
            "the part is missing or has the wrong size",
            kind="feature_set",
            owner=ref.feature_set,
            subject=context.store.uri(manifest.parts[index].key),
            remedy=describe_extraction(manifest.request),
        )


# --- results of jobs --------------------------------------------------------------------------------------------------


async def find_job_result(context: StageContext, *, training: Training) -> Record | None:
    """Returns the result of a job that succeeded, or None. For a running job, `make` waits until the job ends.

    Raises:
        DataLoss: see `read_job_result`.
    """
    try:
        job = await asyncio.to_thread(context.jobs.get, training.job_id(context.check.id))
    except NotFound:
        return None
    if job.state != "succeeded" or job.check_id != context.check.id:
        return None
    return await asyncio.to_thread(read_job_result, context.store, job, training.network)


def read_job_result(store: ObjectStore, job: StoredJob, network: Network) -> JobResult:
    """Reads and verifies the result of a job. For the pretrained network, also checks that its encoder is intact.

    Raises:
        DataLoss: the result, the encoder's card or its weights are missing or changed.
    """
    result = read_result(store, job)
    if network == "pretrained":
        check_encoder(store, result)
    return result
