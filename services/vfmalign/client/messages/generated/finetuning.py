"""Records of `finetuning.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field

from vfmalign.client.messages.base import UNLESS_ZERO, ApiMessage, Time
from vfmalign.client.messages.generated.common import Deletion, ObjectRef, Progress
from vfmalign.client.messages.methods import JobSpecMethods, RecipeMethods
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.jobs import JobKind, Network
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.models import Objective
from vfmalign.core.domain.record import Id, OptionalId, OptionalSha256
from vfmalign.v1 import finetuning_pb2

__all__ = ["Recipe", "JobSpec", "CurvePoint", "Failure", "Job", "DeleteJobRequest", "DeleteJobResponse", "JobState"]
JobState = Literal["queued", "pending", "running", "succeeded", "failed", "cancelled"]
"""State of a job."""


class Recipe(RecipeMethods):
    """Recipe of a training job: a preset, and fields that override the preset."""

    PROTO: ClassVar[type[Message]] = finetuning_pb2.Recipe

    preset: str = ""
    """Name of a preset of the task and network, such as `default` or `demo`; empty means `default`."""
    epochs: int | None = Field(default=None, ge=1, le=10000)
    """Epochs; the network is validated at step 0 and after each epoch."""
    steps_per_epoch: int | None = Field(default=None, ge=1, le=100000)
    """Optimiser steps per epoch."""
    batch_size: int | None = Field(default=None, ge=1, le=1024)
    """Volumes or patches per step."""
    learning_rate: float | None = Field(default=None, ge=0.0, le=10.0, allow_inf_nan=False)
    """Peak learning rate after warm-up."""
    weight_decay: float | None = Field(default=None, ge=0.0, le=10.0, allow_inf_nan=False)
    """AdamW weight decay."""
    layer_decay: float | None = Field(default=None, gt=0.0, le=1.0, allow_inf_nan=False)
    """Factor on the learning rate per stage towards the input."""
    encoder_rate: float | None = Field(default=None, ge=0.0, le=1.0, allow_inf_nan=False)
    """Factor on the learning rate of the whole encoder; the head has the full rate."""
    warmup_fraction: float | None = Field(default=None, ge=0.0, le=1.0, allow_inf_nan=False)
    """Share of all steps used for warm-up."""
    patch_shape_dhw: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = ()
    """Size of random training patches along D, H, W in voxels; empty trains on whole volumes."""


class JobSpec(JobSpecMethods):
    """Specification of a job."""

    PROTO: ClassVar[type[Message]] = finetuning_pb2.JobSpec

    kind: JobKind
    """Kind of training."""
    dataset_id: Id
    """Dataset id."""
    dataset_digest: OptionalSha256 = ""
    """Expected digest of the dataset, hex; empty accepts the stored one."""
    architecture: str = ""
    """Architecture, for pretraining; empty means `profound_conv_micro`."""
    objective: Objective = "supervised"
    """Objective, for pretraining: masked reconstruction or contrastive."""
    network: Network = "pretrained"
    """Starting network, for fine-tuning."""
    model_id: OptionalId = ""
    """Pretrained model id, for fine-tuning. The specialised network uses the input preparation of this model."""
    model_sha256: OptionalSha256 = ""
    """Expected digest of that model's weights, hex; empty accepts the stored one."""
    task: Task | None = None
    """Task, for fine-tuning."""
    recipe: Recipe = Recipe()
    """How to train."""
    seed: int = Field(default=0, ge=0, le=9223372036854775807)
    """Seed of all random number generators."""
    publish_as: OptionalId = ""
    """Model id of the published encoder; empty means `<job id>-encoder`."""
    modality_map: ModalityMap = Field(default_factory=dict)
    """Maps modalities of the dataset to inputs of the model, such as `t1w` to `input`. Inputs that are not named take
    the modality of the same name. No input occurs twice.
    """
    shuffled_labels: bool = False
    """For fine-tuning: permute the targets between the training cases, and between the validation cases, as in
    `CheckSpec`.
    """
    allow_cut_organs: bool = False
    """For fine-tuning: accept cases with organs that the model's field of view cuts off, as in `CheckSpec`; false by
    default.
    """
    initial_seed: int | None = Field(default=None, ge=0, le=9223372036854775807)
    """Control, for fine-tuning of the pretrained network: draw random initial weights with this seed instead of the
    model's weights.
    """
    frozen: bool = False
    """For fine-tuning, except of the specialised network: train only the head. The weights and buffers of the encoder
    do not change.
    """
    train_cases: Annotated[int, UNLESS_ZERO] = Field(default=0, ge=2, le=100000)
    """For fine-tuning: number of training cases, drawn with `seed` as in `CheckSpec`; 0 means all."""


class CurvePoint(ApiMessage):
    """One point of a learning curve."""

    PROTO: ClassVar[type[Message]] = finetuning_pb2.CurvePoint

    epoch: int
    """Epoch; 0 is before training."""
    step: int
    """Optimiser step."""
    train_loss: float | None = None
    """Mean training loss of the epoch; absent at epoch 0."""
    validation_score: float
    """The primary metric on `val`, in the metric's unit."""
    elapsed_seconds: float | None = None
    """Training time so far over all attempts, in seconds; absent in a check's result, which does not depend on time."""


class Failure(ApiMessage):
    """Reason for the failure of a job, check or experiment."""

    PROTO: ClassVar[type[Message]] = finetuning_pb2.Failure

    reason: str
    """UPPER_SNAKE_CASE constant."""
    message: str
    """One sentence that names the object and the remedy."""
    exit_code: int | None = None
    """Exit code of the training process, if there was one."""


class Job(ApiMessage):
    """A job."""

    PROTO: ClassVar[type[Message]] = finetuning_pb2.Job

    job_id: str
    """Id."""
    spec: JobSpec
    """Its specification."""
    state: JobState
    """State."""
    attempts: int = 0
    """Attempts launched so far."""
    create_time: Time
    """When it was created."""
    start_time: Time | None = None
    """When the service first saw that all processes or pods of an attempt had started, which ends the wait; absent
    before.
    """
    end_time: Time | None = None
    """When it ended."""
    progress: Progress = Progress()
    """Current activity or reason for waiting; phases are `queued`, `pending`, `training`, `stopping` and `finished`,
    the unit is `epoch`.
    """
    curve: tuple[CurvePoint, ...] = ()
    """The learning curve so far."""
    failure: Failure | None = None
    """Set when it failed."""
    result: ObjectRef | None = None
    """Set when it succeeded: `jobs/<id>/result.json`."""
    encoder_model_id: str = ""
    """Model id of the published encoder, if any."""
    log_command: str = ""
    """Command that shows the log of its latest attempt, such as `kubectl logs …`, for people with access to the cluster
    or machine that runs it; empty before the first attempt. A cluster keeps the log as long as the Job, by default for
    a day.
    """
    created_by: str = ""
    """Who created it, or the check or experiment that it belongs to: issuer and subject of the token, as
    `issuer#subject`; empty if unknown.
    """
    dataset_digest: str = ""
    """Digest of the dataset that it reads, hex."""
    model_sha256: str = ""
    """Digest of the weights of `spec.model_id`, hex; empty for pretraining."""


class DeleteJobRequest(ApiMessage):
    """Request of DeleteJob."""

    PROTO: ClassVar[type[Message]] = finetuning_pb2.DeleteJobRequest

    job_id: Id
    """Job id."""
    dry_run: bool = False
    """Delete nothing; return what the call would delete."""


class DeleteJobResponse(ApiMessage):
    """Response of DeleteJob."""

    PROTO: ClassVar[type[Message]] = finetuning_pb2.DeleteJobResponse

    deletion: Deletion = Deletion()
    """The deleted objects. After an interrupted deletion, those that were left."""
