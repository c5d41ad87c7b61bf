"""Supervisors over one store, database and emulated cluster. The test is the pod."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from tests.integration.finetuning.kubernetes.emulator import Api, until

from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.jobs import JobProgress, JobResult, MetricSpec, TrainingRecipe, TrainingSpec
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.jobs.repository import JobRepository, StoredJob
from vfmalign.finetuning.jobs.retries import Limits
from vfmalign.finetuning.jobs.rounds import JobRounds
from vfmalign.finetuning.jobs.supervisor import Supervisor
from vfmalign.finetuning.launchers.kubernetes.manifest import job_name


def result_of(job: str) -> JobResult:
    """The least that a job leaves."""
    metric = MetricSpec(name="m", unit="", higher_is_better=True, floor=0.1)
    return JobResult(
        job_id=job, metrics=(metric,), primary_metric="m", curve=(), selected_epoch=0, selected_step=0, test_scores=(),
        weight_change=None, parameters=1, device="cpu", stage_seconds={}, processor_seconds=0.0, software={},
    )  # fmt: skip


class World:
    """Supervisors over one store, database and cluster.

    Attributes:
        launcher: that of the latest supervisor.
    """

    def __init__(self, jobs: JobRepository, store: ObjectStore, api: Api, make: Callable[..., Any]) -> None:
        self.jobs, self.store, self.api, self._make = jobs, store, api, make
        self.prefix = uuid.uuid4().hex[:8]

    def supervisor(self, **options: Any) -> JobRounds:
        """An orchestrator that has just started."""
        limits = Limits(max_running=4, retry_delay_s=0.0, stop_grace_s=options.pop("stop_grace_s", 60.0))
        self.launcher = self._make(**options)
        return JobRounds([Supervisor(self.jobs, self.store, self.launcher, limits)], limits)

    def add(self, name: str) -> str:
        """A job that is asked for."""
        recipe = TrainingRecipe(epochs=2, steps_per_epoch=1, batch_size=1, learning_rate=0.1)
        spec = TrainingSpec(
            job_id=f"{self.prefix}-{name}", kind="finetune", dataset_id="d", dataset_digest="0" * 64, architecture="a",
            seed=1, recipe=recipe,
        )  # fmt: skip
        request = JobSpec(kind="finetune", dataset_id="d", model_id="m", task="segmentation", seed=1)
        return self.jobs.create(request, spec).id

    def started(self, supervisor: JobRounds, name: str) -> str:
        """The name of the Job that a new job got."""
        supervisor.reconcile()
        job = self.jobs.get(name)
        assert job.state == "pending", job.progress.detail
        return job_name(name, job.attempts)

    def until(self, supervisor: JobRounds, name: str, condition: Callable[[StoredJob], Any]) -> StoredJob:
        """The job once a condition holds."""

        def look() -> StoredJob | None:
            supervisor.reconcile()
            return job if condition(job := self.jobs.get(name)) else None

        return until(look)

    def finish(self, supervisor: JobRounds, name: str) -> StoredJob:
        """The job once it has ended."""
        return self.until(supervisor, name, lambda job: job.finished)

    def write_result(self, job: str) -> None:
        """What a pod leaves."""
        point = JobProgress(
            epoch=0, epochs=1, step=0, steps=1, train_loss=None, validation_score=0.1, elapsed_seconds=1.0
        )
        self.store.write(job_key(job, "progress/0000.json"), point)
        self.store.write(job_key(job, "result.json"), result_of(job))

    def fail_pod(self, name: str, code: int, reason: str = "Error") -> None:
        """Its pod ends, and the Job with it."""
        end = {"name": "training", "state": {"terminated": {"exitCode": code, "reason": reason}}}
        self.api.pod(name, {"phase": "Failed", "containerStatuses": [end]})
        self.api.condition(name, "Failed", "BackoffLimitExceeded")

    def outcomes(self, name: str) -> list[tuple[int | None, str]]:
        """What became of every attempt."""
        return [(attempt.exit_code, attempt.outcome) for attempt in self.jobs.attempts(name)]
