"""Messages of `FineTuningService`; fields and units are documented in `finetuning.proto`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import BeforeValidator, Field, PlainSerializer, SerializationInfo, field_validator

from vfmalign.client.messages.base import ApiMessage
from vfmalign.client.messages.common import Failure, JobState, ObjectRef, Progress
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.jobs import Network
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.models import Objective
from vfmalign.core.domain.record import Id, OptionalId, OptionalSha256
from vfmalign.v1 import finetuning_pb2

JobKind = Literal["pretrain", "finetune"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _serialise_task(task: Task | None, info: SerializationInfo) -> Any:
    return "" if task is None else task.model_dump(mode=info.mode, exclude_none=info.exclude_none, context=info.context)


OptionalTask = Annotated[Task | None, BeforeValidator(lambda task: task or None), PlainSerializer(_serialise_task)]
"""A task, or None for a pretraining, whose stored specs have an empty string."""


class Recipe(ApiMessage):
    """A preset and the fields that replace the preset's; None keeps the preset's value."""

    PROTO: ClassVar[type[Message]] = finetuning_pb2.Recipe

    preset: str = ""
    epochs: int | None = Field(default=None, ge=1, le=10_000)
    steps_per_epoch: int | None = Field(default=None, ge=1, le=100_000)
    batch_size: int | None = Field(default=None, ge=1, le=1024)
    learning_rate: float | None = Field(default=None, ge=0.0, le=10.0)
    weight_decay: float | None = Field(default=None, ge=0.0, le=10.0)
    layer_decay: float | None = Field(default=None, gt=0.0, le=1.0)
    encoder_rate: float | None = Field(default=None, ge=0.0, le=1.0)
    warmup_fraction: float | None = Field(default=None, ge=0.0, le=1.0)
    patch_shape_dhw: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = ()
    probe_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()

    @field_validator("patch_shape_dhw")
    @classmethod
    def _check_axes(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) not in {0, 3}:
            raise ValueError(f"expected no size or 3 sizes, got {len(shape)}")
        return shape


class JobSpec(ApiMessage):
    """A requested job; also stored as the job's request."""

    PROTO: ClassVar[type[Message]] = finetuning_pb2.JobSpec

    kind: JobKind
    dataset_id: Id
    dataset_digest: OptionalSha256 = ""
    architecture: str = ""
    objective: Objective = "supervised"
    network: Network = "pretrained"
    model_id: OptionalId = ""
    model_sha256: OptionalSha256 = ""
    task: OptionalTask = None
    recipe: Recipe = Recipe()
    seed: Seed = 0
    publish_as: OptionalId = ""
    modality_map: ModalityMap = Field(default_factory=dict)
    shuffled_labels: bool = Field(default=False, exclude_if=lambda shuffled: not shuffled)
    allow_cut_organs: bool = Field(default=False, exclude_if=lambda allowed: not allowed)


class CurvePoint(ApiMessage):
    """One point of a learning curve; `train_loss` is None before training, and the time within a check's result."""

    PROTO: ClassVar[type[Message]] = finetuning_pb2.CurvePoint

    epoch: int
    step: int
    train_loss: float | None = None
    validation_score: float
    elapsed_seconds: float | None = None


class Job(ApiMessage):
    """A job with its current state."""

    PROTO: ClassVar[type[Message]] = finetuning_pb2.Job

    job_id: str
    spec: JobSpec
    state: JobState
    attempts: int = 0
    create_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None
    progress: Progress = Progress()
    curve: tuple[CurvePoint, ...] = ()
    failure: Failure | None = None
    result: ObjectRef | None = None
    encoder_model_id: str = ""
    log_command: str = ""
