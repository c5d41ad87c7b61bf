"""Records of training jobs: spec, progress, result and failure, as stored below `jobs/<id>/`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, FiniteFloat

from vfmalign.core.domain.field_of_view import CaseInside
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.models import Objective
from vfmalign.core.domain.record import Id, Record, Sha256
from vfmalign.core.domain.stored_objects import StoredFigure
from vfmalign.core.domain.task_text import Task
from vfmalign.core.formats.bounds import get_range
from vfmalign.v1.finetuning_pb2 import JobSpec, Recipe

JobKind = Literal["pretrain", "finetune"]
Network = Literal["pretrained", "scratch", "specialised"]


class TrainingRecipe(Record):
    """Settings of a training: the fields of the API's `Recipe`, each with a value. The presets are in `recipes`.

    Attributes:
        epochs: number of epochs. Validation runs at step 0 and after each epoch.
        steps_per_epoch: optimiser steps in one epoch. A seeded shuffle orders the cases.
        batch_size: volumes (or patches) per step.
        learning_rate: peak rate after warm-up.
        layer_decay: factor of the learning rate per stage towards the input; 1.0 for no decay.
        encoder_rate: factor of the learning rate for the whole encoder. The head uses the full learning rate.
        warmup_fraction: share of all steps spent warming up.
        patch_shape_dhw: size of random training patches; None for whole volumes.
    """

    epochs: Annotated[int, get_range(Recipe, "epochs")]
    steps_per_epoch: Annotated[int, get_range(Recipe, "steps_per_epoch")]
    batch_size: Annotated[int, get_range(Recipe, "batch_size")]
    learning_rate: Annotated[float, get_range(Recipe, "learning_rate")]
    weight_decay: Annotated[float, get_range(Recipe, "weight_decay")] = 0.05
    layer_decay: Annotated[float, get_range(Recipe, "layer_decay")] = 1.0
    encoder_rate: Annotated[float, get_range(Recipe, "encoder_rate")] = 1.0
    warmup_fraction: Annotated[float, get_range(Recipe, "warmup_fraction")] = 0.1
    gradient_clip: float = Field(default=1.0, gt=0.0)
    patch_shape_dhw: tuple[int, int, int] | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.epochs * self.steps_per_epoch


class TrainingSpec(Record):
    """`jobs/<id>/spec.json`: everything that a training process needs, except the store's credentials.

    Contains the API's `JobSpec`, the job's id, and a value for every field that a request may omit.

    Attributes:
        kind: `pretrain` trains a new encoder with `objective`. `finetune` trains a head and an encoder on `task`.
        network: `pretrained` starts from the model. `scratch` is the same architecture with random weights.
            `specialised` is a network for the task: a DenseNet for classification and regression, otherwise a UNet.
        model_id: model with which the training starts, or whose input format the training uses. Empty without such a
            model.
        task: None for pretraining.
        publish_as: model id under which the encoder is published; empty for `specialised`.
        modality_map: maps modalities of the dataset to the model inputs that they feed.
        shuffled_labels: whether targets are permuted among the training cases and among the validation cases.
        initial_seed: seed of the random weights that replace the model's weights in a control training.
        frozen: whether only the head is trained. The weights and buffers of the encoder do not change.
        allow_cut_organs: whether the field of view may contain less than the share `field_of_view.REFUSE_BELOW` of a
            structure.
        train_cases: number of training cases that `training_subsets` draws with `seed`; 0 for all.
    """

    job_id: Id
    kind: JobKind
    dataset_id: Id
    dataset_digest: Sha256
    architecture: str
    network: Network = "pretrained"
    objective: Objective = "supervised"
    model_id: str = ""
    model_sha256: str = ""
    task: Annotated[Task | None, BeforeValidator(lambda task: task or None)] = None
    recipe: TrainingRecipe
    seed: Annotated[int, get_range(JobSpec, "seed")]
    publish_as: str = ""
    modality_map: ModalityMap = Field(default_factory=dict)
    # Left out if it has its default, so that specs of earlier versions keep their digests.
    shuffled_labels: bool = Field(default=False, exclude_if=lambda shuffled: not shuffled)
    allow_cut_organs: bool = Field(default=False, exclude_if=lambda allowed: not allowed)
    initial_seed: int | None = Field(default=None, exclude_if=lambda seed: seed is None)
    train_cases: int = Field(default=0, ge=0, exclude_if=lambda count: not count)
    frozen: bool = Field(default=False, exclude_if=lambda frozen: not frozen)


class JobProgress(Record):
    """`jobs/<id>/progress/<epoch>.json`: the API's `CurvePoint` with total epochs and steps. Epoch 0 precedes training.

    Attributes:
        validation_score: the task's primary metric on `val`. For pretraining, the validation loss.
        elapsed_seconds: training time so far over all attempts, in seconds.
        step_bytes: for epoch 0 of a fine-tuning, the estimated memory of a training step in each process; else None.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    train_loss: float | None
    validation_score: float
    elapsed_seconds: float
    step_bytes: int | None = Field(default=None, exclude_if=lambda size: size is None)


_METRIC_SPELLINGS = {
    "dice": "Dice",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "auroc": "AUROC",
    "hd95": "HD95",
    "mae": "mean absolute error",
    "r2": "R²",
    "pearson": "Pearson's r",
}


class MetricSpec(Record):
    """A metric of a task: its unit, its direction and how it is aggregated.

    Attributes:
        name: name of the metric.
        unit: empty where unitless.
        higher_is_better: False where lower values are better.
        floor: a relative gain is computed if |baseline| is at least `floor`.
        empty_mask: value of the metric for empty masks, in words.
        of_set: aggregate over the cases. Aggregates other than the mean are undefined for a single case. For `auroc`
            and `balanced_accuracy`, the value of a case is the predicted probability that the case is positive. For
            `quadratic_kappa`, `r2` and `pearson`, the value of a case is the predicted grade or number.
        smallest_difference: smallest relevant difference between two networks, in `unit`; 0 if none is defined.
    """

    name: str
    unit: str
    higher_is_better: bool
    floor: float
    empty_mask: str = ""
    of_set: Literal["mean", "auroc", "balanced_accuracy", "quadratic_kappa", "r2", "pearson"] = "mean"
    smallest_difference: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)

    @property
    def two_classes(self) -> bool:
        """Whether the metric compares positive with negative cases."""
        return self.of_set in {"auroc", "balanced_accuracy"}

    @property
    def title(self) -> str:
        """The name as text, with acronyms and proper names in their usual spelling."""
        return " ".join(_METRIC_SPELLINGS.get(word, word) for word in self.name.split("_"))


class CaseScore(Record):
    """The selected checkpoint's metrics on one test case.

    Attributes:
        values: maps each metric to a finite value, or to None if the metric is undefined for the case.
        positive: true class in classification; None for other tasks.
        truth: true grade in a classification of grades, or true number in regression; None for other tasks.
    """

    case: Id
    group: Id
    values: dict[str, FiniteFloat | None]
    positive: bool | None = None
    truth: FiniteFloat | None = Field(default=None, exclude_if=lambda truth: truth is None)


class JobResult(Record):
    """`jobs/<id>/result.json`, which a job writes last. A job with a result is done.

    Attributes:
        primary_metric: metric that selects the checkpoint, and from which the gain is computed.
        curve: validation results at step 0 and after every epoch.
        selected_epoch, selected_step: epoch and step of the checkpoint with the best validation score. This checkpoint
            is scored and published. Step 0, the state before training, is never selected.
        naive_baseline_scores: scores of `TaskSpec.naive_baseline` on the same test cases; empty for pretraining.
        weight_change: ‖θ−θ0‖/‖θ0‖ of the encoder at the selected checkpoint; None for `specialised` and pretraining.
        encoder: the published model; empty for `specialised`.
        encoder_card_sha256: digest of the model card; empty without a published model.
        train_labels: maps the id of each training case to its class or grade; empty for tasks other than
            classification.
        train_subset: ids of the training cases, if the spec limits their number; else empty.
        inside: shares of the task's structures in the field of view, for every case in train, val and test with such a
            structure.
        stage_seconds: wall time per stage in seconds, over all attempts.
        processor_seconds: processor time of the process that finished the job, without earlier attempts.
    """

    job_id: Id
    metrics: tuple[MetricSpec, ...]
    primary_metric: str
    curve: tuple[JobProgress, ...]
    selected_epoch: int
    selected_step: int
    test_scores: tuple[CaseScore, ...]
    naive_baseline_scores: tuple[CaseScore, ...] = ()
    weight_change: float | None
    encoder: str = ""
    encoder_sha256: str = ""
    encoder_card_sha256: str = ""
    train_labels: dict[Id, bool | int] = Field(default_factory=dict)
    train_subset: tuple[Id, ...] = Field(default=(), exclude_if=lambda cases: not cases)
    inside: tuple[CaseInside, ...] = Field(default=(), exclude_if=lambda cases: not cases)
    parameters: int
    figures: tuple[StoredFigure, ...] = ()
    device: str
    stage_seconds: dict[str, float]
    processor_seconds: float
    software: dict[str, str]


class JobFailure(Record):
    """`jobs/<id>/failure.json`: why a training process failed. `core.domain.errors` defines the exit codes."""

    exit_code: int
    reason: str
    message: str
    remedy: str = ""
