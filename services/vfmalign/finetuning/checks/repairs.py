"""Repairs lost or damaged objects of a check by running the stage that created them again.

If the new object equals the lost object, stages that have read the object keep their artifacts. The new object may
differ, because another processor may round differently. In this case, everything that was computed from the lost object
is computed again. The number of repairs per stage is limited. If the limit is exceeded, the check fails with an error
that names the object and the remedy.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from vfmalign.core.domain.errors import DataLoss, NotFound, PreconditionFailed
from vfmalign.core.domain.record import Record
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.storage.keys import check_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.artifacts import Outputs, Stage, get_readers
from vfmalign.finetuning.checks.clients import FeatureSetRef
from vfmalign.finetuning.checks.repository import CheckRepository, StoredCheck
from vfmalign.finetuning.checks.trainings import Training
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.results import reopen

MAX_REPAIRS = 3
"""Repairs of one stage during one run of a check."""
_log = logs.get(__name__)


class ArtifactLost(Exception):
    """The artifact of a finished stage, or an object that the artifact refers to, was lost."""

    def __init__(self, loss: DataLoss) -> None:
        super().__init__(str(loss))
        self.loss = loss


@dataclass
class Repairs:
    """The repairs during one run of a check.

    Attributes:
        stages: all stages of the check by name, in order.
        active: maps each stage that runs again to the loss that the stage repairs.
    """

    check: StoredCheck
    stages: Mapping[str, Stage]
    store: ObjectStore
    checks: CheckRepository
    jobs: JobRepository
    active: dict[str, DataLoss] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)

    async def begin(self, stage: str, loss: DataLoss, outputs: Outputs, *, own: bool) -> tuple[str, ...]:
        """Prepares the stage that created a lost object to run again.

        Args:
            stage: the stage that noticed the loss.
            loss: the error that names the lost object.
            outputs: artifacts of the finished stages. This method removes the artifacts that become invalid.
            own: True if the lost object belongs to the artifact of `stage`; False if it belongs to an artifact that
                `stage` reads.

        Returns:
            The running stages that use the lost object and must therefore be cancelled.

        Raises:
            DataLoss: no stage can create the object again, or the object was lost too often.
        """
        creator = stage if own else self._find_creator(stage, loss, outputs)
        self._counts[creator] += 1
        if not creator or self._counts[creator] > MAX_REPAIRS:
            raise loss
        _log.warning("artifact_lost", check=self.check.id, stage=creator, kind=loss.kind, error=loss)
        await asyncio.to_thread(self.checks.record_loss, self.check.id, creator, f"{loss.subject}: {loss.message}")
        self.active[creator] = loss
        outputs.remove(creator)
        if (training := self.stages[creator].training) is not None:
            await asyncio.to_thread(self._reopen_job, training, loss)
            await self._invalidate(creator, outputs)
        return self._get_readers(creator)

    def blocks(self, stage: str) -> bool:
        """Returns whether a stage has to wait for a repair."""
        return any(stage in self._get_readers(creator) for creator in self.active)

    async def before_store(self, stage: str, record: Record, outputs: Outputs) -> None:
        """Invalidates everything that was computed from a stage's features if the new features are different."""
        if isinstance(record, FeatureSetRef) and not await asyncio.to_thread(self._is_same_set, stage, record):
            await self._invalidate(stage, outputs)

    def end(self, stage: str) -> None:
        """Counts a repair if the stage that has just ended was repairing a loss."""
        loss = self.active.pop(stage, None)
        if loss is None:
            return
        kind = "report" if stage == "report" else loss.kind
        if kind != "feature_set":  # the feature service counts the parts that it computes
            metrics.artifacts_recomputed.labels(kind).inc()
        _log.warning("artifact_created_again", check=self.check.id, stage=stage, kind=kind)

    def _find_creator(self, stage: str, loss: DataLoss, outputs: Outputs) -> str:
        """Returns the stage that can create an object again. Empty if no stage can, as for imported models."""
        if loss.kind in {"job_result", "model"} and self.stages[stage].training is not None:
            return stage
        for name, record in outputs.items():
            if isinstance(record, FeatureSetRef) and (loss.kind, loss.owner) == ("feature_set", record.feature_set):
                return name
            training = self.stages[name].training
            if training is not None and self._has_created(training, loss):
                return name
        return ""

    def _has_created(self, training: Training, loss: DataLoss) -> bool:
        if loss.kind == "model":
            return bool(loss.owner) and loss.owner == training.encoder_id(self.check.id)
        return loss.kind == "job_result" and loss.owner == training.job_id(self.check.id)

    def _reopen_job(self, training: Training, loss: DataLoss) -> None:
        detail = f"{loss.subject}: {loss.message}; it is created again"
        reopen(self.jobs, self.store, training.job_id(self.check.id), detail)

    async def _invalidate(self, stage: str, outputs: Outputs) -> None:
        """Removes the artifacts that were computed with the former output of a stage."""
        readers = self._get_readers(stage)
        for name in readers:
            outputs.remove(name)
            await asyncio.to_thread(self.store.delete, check_key(self.check.id, self.stages[name].artifact))
        await asyncio.to_thread(self.checks.forget_artifacts, self.check.id, readers)

    def _get_readers(self, stage: str) -> tuple[str, ...]:
        return get_readers(self.stages.values(), stage)

    def _is_same_set(self, stage: str, record: FeatureSetRef) -> bool:
        try:
            before = self.store.read(check_key(self.check.id, self.stages[stage].artifact), FeatureSetRef)
        except (NotFound, PreconditionFailed):
            return False
        return before.to_sample() == record.to_sample()
