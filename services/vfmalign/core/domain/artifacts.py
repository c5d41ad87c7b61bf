"""The JSON artifacts that services share through object storage: their fields and their addresses (design §3).

Knows the shape of a dataset, a model card, a job's spec, progress, result and failure; nothing of S3, torch or gRPC.
Every record is frozen, refuses unknown fields and states its units.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Modality = Literal["t2w", "dwi", "adc"]
VolumeKind = Literal["t2w", "dwi", "adc", "gland", "lesions"]
Split = Literal["pretrain", "train", "val", "test"]
Objective = Literal["masked_reconstruction", "contrastive", "supervised", "random"]
Network = Literal["pretrained", "scratch", "specialised"]

MODALITIES: tuple[Modality, ...] = ("t2w", "dwi", "adc")
SPLITS: tuple[Split, ...] = ("pretrain", "train", "val", "test")

ID_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,127}$"
Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
SHA256_PATTERN = r"^[0-9a-f]{64}$"
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]


class Record(BaseModel):
    """Base of every artifact: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """Canonical bytes: sorted keys, no spaces, so that equal records have equal digests."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        """SHA-256 of the canonical bytes, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON bytes that depend on the value alone (sorted keys, no spaces, no NaN)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def is_id(text: str) -> bool:
    """Whether `text` may name an object: lower-case letters, digits, `_`, `.`, `-`; at most 128 characters."""
    return re.fullmatch(ID_PATTERN, text) is not None


# --- datasets ---------------------------------------------------------------------------------------------------------


class VolumeRef(Record):
    """One stored volume and the digest of its bytes."""

    key: str
    sha256: Sha256


class Case(Record):
    """One examination of one patient.

    Attributes:
        id: generated on import; never a file or folder name.
        group: generated id of the patient, the sampling unit: cases of one patient share it.
        volumes: by kind; `gland` and `lesions` are label maps.
    """

    id: Id
    group: Id
    volumes: dict[VolumeKind, VolumeRef]


class Dataset(Record):
    """Cases by split.

    Attributes:
        held_out: False where the same case stands in several splits on purpose (a one-case run).
        phantom: True where the cases are generated, not patients: whatever is measured on them is a rehearsal.
    """

    id: Id
    held_out: bool = True
    phantom: bool = False
    pretrain: tuple[Case, ...] = ()
    train: tuple[Case, ...] = ()
    val: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()

    def split(self, name: Split) -> tuple[Case, ...]:
        """The cases of one split, in the order that fixes the rows of every feature set."""
        cases: tuple[Case, ...] = getattr(self, name)
        return cases

    def digest(self) -> str:
        """SHA-256 of the canonical bytes, in hex. `phantom` counts where it is true: sets of patients keep theirs."""
        content = self.model_dump(mode="json", exclude=set() if self.phantom else {"phantom"})
        return hashlib.sha256(canonical_json(content)).hexdigest()


# --- models -----------------------------------------------------------------------------------------------------------


class Preprocessing(Record):
    """How an encoder wants its input.

    Attributes:
        modalities: channel order.
        spacing_mm: target spacing along D, H, W; None keeps the T2 grid's own.
        shape_DHW: size after centre crop and zero padding, in voxels.
        normalisation: z-score of each channel: `zscore_nonzero` over voxels that are not zero, which stay zero;
            `zscore_gland` by mean and SD inside the gland mask, which every study must then have.
    """

    modalities: tuple[Modality, ...] = MODALITIES
    spacing_mm: tuple[float, float, float] | None
    shape_DHW: tuple[int, int, int]
    normalisation: Literal["zscore_nonzero", "zscore_gland"] = "zscore_nonzero"


class LayerSpec(Record):
    """One layer whose features can be taken: its name and its number of channels."""

    name: str
    channels: int


class Pretraining(Record):
    """What a model has seen before: needed to notice leakage into a test split."""

    dataset: Id
    dataset_digest: Sha256
    volume_sha256: tuple[Sha256, ...]
    groups: tuple[Id, ...]


class ModelCard(Record):
    """What is known of one encoder.

    Attributes:
        architecture: a name in `models.registry`.
        checkpoint: key and digest of the safetensors weights.
        primary_layer: the layer declared in advance for the check's main number.
        pretraining: the sets the model was pretrained on; empty where unknown (then leakage cannot be excluded and
            the report says so).
        parent: id of the model this one was fine-tuned from, empty for a pretrained one.
        source: free text without patient data: where the weights come from and under which licence.
    """

    id: Id
    architecture: str
    objective: Objective
    checkpoint: VolumeRef
    preprocessing: Preprocessing
    layers: tuple[LayerSpec, ...]
    primary_layer: str
    pretraining: tuple[Pretraining, ...] = ()
    parent: str = ""
    source: str = ""


# --- jobs -------------------------------------------------------------------------------------------------------------


class TrainingRecipe(Record):
    """How a job trains. One sound recipe per network lives in `training.recipes`; every field can be set by a request.

    Attributes:
        epochs: passes; validation happens at step 0 and after each.
        steps_per_epoch: optimiser steps in one epoch (cases are drawn with a seeded shuffle).
        batch_size: volumes (or patches) per step.
        learning_rate: peak rate after warm-up.
        layer_decay: factor per stage towards the input; 1.0 for none.
        encoder_rate: share of the rate that the whole encoder gets; the head gets all of it.
        warmup_fraction: share of all steps spent warming up.
        patch_shape_DHW: random patches of this size for training instead of whole volumes; None for whole.
        probe_steps: steps after which the encoder is published as it then stands (`recipes.check_probe_steps`).
    """

    epochs: int = Field(ge=1, le=10_000)
    steps_per_epoch: int = Field(ge=1, le=100_000)
    batch_size: int = Field(ge=1, le=1024)
    learning_rate: float = Field(ge=0.0, le=10.0)
    weight_decay: float = Field(default=0.05, ge=0.0, le=10.0)
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    encoder_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    warmup_fraction: float = Field(default=0.1, ge=0.0, le=1.0)
    gradient_clip: float = Field(default=1.0, gt=0.0)
    patch_shape_DHW: tuple[int, int, int] | None = None
    probe_steps: tuple[int, ...] = ()


class TrainingSpec(Record):
    """`jobs/<id>/spec.json`: all a training process needs to know besides its store's credentials.

    Attributes:
        kind: `pretrain` trains a fresh encoder by `objective`; `finetune` trains a head and an encoder on `task`.
        network: `pretrained` starts from `model`; `scratch` is the same architecture with random weights;
            `specialised` is the task's own network (a UNet, or a DenseNet where whole cases are classified).
        publish_as: model id under which the encoder is published; empty for `specialised`.
    """

    id: Id
    kind: Literal["pretrain", "finetune"]
    dataset: Id
    dataset_digest: Sha256
    architecture: str
    network: Network = "pretrained"
    objective: Objective = "supervised"
    model: str = ""
    model_sha256: str = ""
    task: str = ""
    recipe: TrainingRecipe
    seed: int = Field(ge=0, lt=2**63)
    publish_as: str = ""


class JobProgress(Record):
    """`jobs/<id>/progress/<epoch>.json`: a point of the learning curve, written after every epoch (0: before training).

    Attributes:
        val_score: the task's main metric on `val`; for pretraining the validation loss.
        elapsed_s: training time so far over all attempts, in seconds.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    train_loss: float | None
    val_score: float
    elapsed_s: float


class MetricSpec(Record):
    """A metric.

    Attributes:
        name: of the metric.
        unit: empty where unitless.
        higher_is_better: direction.
        floor: of |baseline|, under which no relative gain is formed.
        empty_mask: what an empty mask gives.
        of_set: how the number of a set is formed of its cases' values. A case by itself has no AUROC and no balanced
            accuracy: its value is then the predicted probability that it is positive.
    """

    name: str
    unit: str
    higher_is_better: bool
    floor: float
    empty_mask: str = ""
    of_set: Literal["mean", "auroc", "balanced_accuracy"] = "mean"


class CaseScore(Record):
    """The selected checkpoint's metrics on one test case.

    Attributes:
        values: by metric; None where it is undefined for the case.
        positive: truth of a case that is classified; None for other tasks.
    """

    case: Id
    group: Id
    values: dict[str, float | None]
    positive: bool | None = None


class FigureRef(Record):
    """One figure under `jobs/<id>/figures/`."""

    key: str
    sha256: Sha256
    caption: str


class ProbeModel(Record):
    """The encoder as it stood after some step of its training, published under an id of its own (`probe_id`).

    Attributes:
        val_score: the validation at that step, from the learning curve.
    """

    step: int
    model: Id
    sha256: Sha256
    val_score: float


class JobResult(Record):
    """`jobs/<id>/result.json`, written last: its existence means that the job is done.

    Attributes:
        primary_metric: the metric that selects the checkpoint, forms the gain and is plotted.
        curve: validation at step 0 and after every epoch.
        selected_epoch, selected_step: of the best-validation checkpoint, which is scored and published.
        naive_baseline_scores: of `TaskSpec.naive_baseline`, which needs no network, on the same test cases.
        weight_change: ‖θ−θ0‖/‖θ0‖ of the encoder at the selected checkpoint; None for `specialised` and pretraining.
        encoder: the published model, None for `specialised`.
        probes: encoders published on the way, in order of steps.
        train_labels: class of every training case, by id; empty for tasks without classes of cases.
        stage_seconds: wall time per stage in seconds, over all attempts.
    """

    job: Id
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
    probes: tuple[ProbeModel, ...] = ()
    train_labels: dict[Id, bool] = Field(default_factory=dict)
    parameters: int
    figures: tuple[FigureRef, ...] = ()
    device: str
    stage_seconds: dict[str, float]
    software: dict[str, str]


class JobFailure(Record):
    """`jobs/<id>/failure.json`: why a training process gave up; the exit codes are those in `core.errors`."""

    exit_code: int
    reason: str
    message: str
    remedy: str = ""


# --- addresses --------------------------------------------------------------------------------------------------------


def volume_key(dataset: str, case: str, kind: VolumeKind) -> str:
    """Address of one volume."""
    return f"volumes/{dataset}/{case}/{kind}.nii.gz"


def dataset_key(dataset: str) -> str:
    """Address of a dataset's datalist."""
    return f"datasets/{dataset}/dataset.json"


def model_card_key(model: str) -> str:
    """Address of a model card, written last: it is the commit of a model."""
    return f"models/{model}/model.json"


def weights_key(model: str, sha256: str) -> str:
    """Address of a model's weights."""
    return f"models/{model}/{sha256}.safetensors"


def probe_id(publish_as: str, step: int) -> str:
    """Id under which a job publishes its encoder as it stands after a step."""
    return f"{publish_as}-step-{step}"


def features_prefix(feature_set: str) -> str:
    """Folder of a feature set's parts and manifest."""
    return f"features/{feature_set}/"


def upload_key(sha256: str) -> str:
    """Address of a safetensors file that a client put into the bucket for a comparison, by the digest of its bytes."""
    return f"uploads/{sha256}.safetensors"


def job_key(job: str, name: str) -> str:
    """Address of one of a job's artifacts, such as `spec.json`, `result.json` or `progress/0003.json`."""
    return f"jobs/{job}/{name}"


def check_key(check: str, name: str) -> str:
    """Address of one of a check's artifacts, such as `report.json`."""
    return f"checks/{check}/{name}"


def experiment_key(experiment: str, name: str) -> str:
    """Address of one of an experiment's artifacts, such as `report.json`."""
    return f"experiments/{experiment}/{name}"
