"""From a job's spec to what it needs: the spec is checked against itself, the store's models and the dataset.

Knows specs, model cards and datasets; knows nothing of training.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfmalign.core.domain.artifacts import (
    MODALITIES,
    Case,
    Dataset,
    ModelCard,
    Preprocessing,
    Pretraining,
    TrainingSpec,
    is_id,
    probe_id,
)
from vfmalign.core.domain.errors import BadDataset, BadOption, Conflict, NotFound, PreconditionFailed
from vfmalign.core.domain.recipes import check_probe_steps
from vfmalign.core.domain.tasks import TaskSpec, get_task_spec
from vfmalign.core.storage.datasets import find_leakage, load_dataset
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.cards import check_checkpoint_digest, load_card
from vfmalign.models.registry import get_architecture


@dataclass(frozen=True)
class Plan:
    """A checked job.

    Attributes:
        spec: the job.
        architecture: of its encoder (for `specialised`: the one whose input it shares).
        preprocessing: of every case.
        parent: the model it starts from, None for random weights.
        task: what it is fine-tuned for, None for pretraining.
    """

    spec: TrainingSpec
    architecture: Architecture
    preprocessing: Preprocessing
    parent: ModelCard | None
    task: TaskSpec | None


@dataclass(frozen=True)
class JobData:
    """The cases of a job by their use, and what the published model has to say of them.

    Attributes:
        train, val: to learn from and to select by.
        test: to score; empty for pretraining, which has no score.
        seen: what the published encoder has seen, its parent's past included.
    """

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]
    seen: tuple[Pretraining, ...]


def make_plan(store: ObjectStore, spec: TrainingSpec) -> Plan:
    """Checks a spec against itself and the store's models.

    Raises:
        BadOption: fields that do not go together, or an unknown name.
        NotFound: the model to start from does not exist.
        DigestMismatch: it has other weights than the spec says.
        Conflict: another model has an id under which the encoder is to be published.
    """
    architecture = get_architecture(spec.architecture)
    finetunes = spec.kind == "finetune"
    task = get_task_spec(spec.task) if finetunes else None
    specialised = finetunes and spec.network == "specialised"
    _require(specialised == (not spec.publish_as), "publish_as", _PUBLISH_REMEDY)
    _require(specialised or is_id(spec.publish_as), "publish_as", "use lower-case letters, digits, `_`, `.` and `-`")
    _require(finetunes or not spec.model, "model", "leave it empty: pretraining starts from random weights")
    check_probe_steps(spec.recipe)
    published = publications(spec)
    _require(
        not spec.recipe.probe_steps or (finetunes and not specialised and all(is_id(model) for model in published)),
        "recipe.probe_steps",
        "leave them out, or fine-tune an encoder and name it by a short publish_as",
    )
    for model, origin in published.items():
        _check_free(store, model, origin)
    starts_from_model = finetunes and spec.network == "pretrained"
    _require(bool(spec.model) or not starts_from_model, "model", "name the pretrained model to start from")
    # A baseline may name the model as well: it then shares its preprocessing, not its weights.
    card = load_card(store, spec.model) if spec.model else None
    if card is not None:
        check_checkpoint_digest(card, spec.model_sha256)
        _require(card.architecture == spec.architecture, "architecture", f"use the model's: {card.architecture}")
    preprocessing = card.preprocessing if card else architecture.preprocessing
    if task is not None:
        task.check_input(spec.model or spec.architecture, preprocessing.modalities)
    patch = spec.recipe.patch_shape_DHW
    _require(
        patch is None or all(0 < p <= size for p, size in zip(patch, preprocessing.shape_DHW, strict=True)),
        "recipe.patch_shape_DHW",
        f"use at most the input's size of {preprocessing.shape_DHW} voxels",
    )
    return Plan(spec, architecture, preprocessing, card if starts_from_model else None, task)


def select_data(store: ObjectStore, plan: Plan) -> JobData:
    """Reads the dataset, verified, and picks the splits that the job uses.

    Raises:
        BadDataset: missing, damaged, other than the spec says, or without the cases that the job needs.
        Leakage: a test case was seen by the model that the job starts from.
    """
    spec = plan.spec
    try:
        dataset = load_dataset(store, spec.dataset, digest=spec.dataset_digest)
    except (NotFound, PreconditionFailed) as error:
        raise BadDataset(error.message, subject=error.subject, remedy=error.remedy, reason=error.reason) from error
    past = plan.parent.pretraining if plan.parent else ()
    if plan.task is None:
        train, val = _cases(dataset, "pretrain"), _cases(dataset, "val")
        return JobData(train, val, (), (_seen(spec, train, val),))
    find_leakage(dataset, past)
    train, val, test = _cases(dataset, "train"), _cases(dataset, "val"), _cases(dataset, "test")
    return JobData(train, val, test, (*past, _seen(spec, train, val)))


def _cases(dataset: Dataset, split: str) -> tuple[Case, ...]:
    cases: tuple[Case, ...] = getattr(dataset, split)
    if not cases:
        raise BadDataset(
            f"the split {split!r} holds no case",
            subject=f"dataset {dataset.id}",
            remedy="put at least one case into it",
        )
    return cases


def _seen(spec: TrainingSpec, train: tuple[Case, ...], val: tuple[Case, ...]) -> Pretraining:
    """What the published weights owe to this job's dataset: the cases learned from and the cases selected by."""
    cases = (*train, *val)
    return Pretraining(
        dataset=spec.dataset,
        dataset_digest=spec.dataset_digest,
        # Images alone: label maps of different patients can be equal, the empty ones are.
        volume_sha256=tuple(
            sorted({ref.sha256 for case in cases for kind, ref in case.volumes.items() if kind in MODALITIES})
        ),
        groups=tuple(sorted({case.group for case in cases})),
    )


_PUBLISH_REMEDY = "name the model to publish the encoder as; leave it empty for a specialised network, which has none"


def publications(spec: TrainingSpec) -> dict[str, str]:
    """Ids of the models that a job publishes, with what their cards say of where the weights come from."""
    if not spec.publish_as:
        return {}
    probes = {probe_id(spec.publish_as, step): f"job {spec.id}, step {step}" for step in spec.recipe.probe_steps}
    return probes | {spec.publish_as: f"job {spec.id}"}


def published_by_another(model: str) -> Conflict:
    """The error of a job whose model id is taken."""
    return Conflict("another model is published under this id", subject=model, remedy="choose another publish_as")


def _check_free(store: ObjectStore, model: str, origin: str) -> None:
    """Refuses an id that another model has before the training rather than after it."""
    try:
        card = load_card(store, model)
    except NotFound:
        return
    if card.source != origin:
        raise published_by_another(model)


def _require(holds: bool, field: str, remedy: str) -> None:
    if not holds:
        raise BadOption("the field does not fit the rest of the spec", field=field, remedy=remedy)
