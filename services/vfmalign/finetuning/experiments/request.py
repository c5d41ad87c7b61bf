"""Requests of experiments: validation, pinned inputs, and the plan of the checks."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from pydantic import Field

from vfmalign.analysis.experiments.label_efficiency import get_main_count
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.errors import BadOption, within
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import Record, Sha256
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.core.domain.task_text import to_id_part
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.core.formats.bounds import get_max_length
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.trainings import check_data, select_training_cases
from vfmalign.finetuning.checks.request import check_spec, fit_check
from vfmalign.v1.alignment_pb2 import CreateCheckRequest

MAX_CELLS = 1_000
MAX_CHECK_ID = get_max_length(CreateCheckRequest, "check_id")
_DIGEST_DIGITS = 12


class PinnedInputs(Record):
    """Digests that the inputs of an experiment had when the experiment was created. All its checks use them.

    Attributes:
        dataset_digest: digest of the dataset.
        model_sha256: digest of each model's weights, in the order of the spec.
        primary_metrics: primary metric of each task, in the order of the spec.
        modality_maps: modality map of each model, in the order of the spec; empty for a model without a map.
        train_size: number of cases of `train`; 0 unless the experiment limits the number of training cases.
    """

    dataset_digest: Sha256
    model_sha256: tuple[Sha256, ...]
    primary_metrics: tuple[str, ...]
    modality_maps: tuple[ModalityMap, ...] = Field(default=(), exclude_if=lambda maps: not maps)
    train_size: int = Field(default=0, exclude_if=lambda size: not size)


@dataclass(frozen=True)
class PlannedCell:
    """One cell: the id of its check, the request of this check, and the digest of the request.

    Attributes:
        train_cases: number of training cases; 0 for all.
        result_digest: name under which the result of the cell is stored. In all experiments of this version, equal
            requests share a result.
    """

    model_id: str
    task: str
    seed: int
    check_id: str
    request: CheckSpec
    request_digest: str
    shuffled_labels: bool = False
    train_cases: int = 0
    frozen: bool = False

    @property
    def result_digest(self) -> str:
        """SHA-256 of two values: the version of vfmalign, and the digest of the request."""
        return hashlib.sha256(f"{importlib.metadata.version('vfmalign')} {self.request_digest}".encode()).hexdigest()


def check_experiment_spec(spec: ExperimentSpec) -> None:
    """Rejects an experiment that can never succeed. Does not read the object store.

    Raises:
        BadOption: a list is empty or has duplicates, there are too many cells, a task or preset is unknown, or a
            smallest difference is set for a metric that is not the primary metric of any task.
    """
    _check_list(spec.model_ids, "model_ids", "model")
    _check_list(spec.tasks, "tasks", "task")
    _check_list(spec.seeds, "seeds", "seed")
    if spec.train_cases:
        _check_list([count or "all" for count in spec.train_cases], "train_cases", "number")
    if 1 in spec.train_cases:
        raise BadOption("1 training case is too few", field="spec.train_cases", remedy="choose 2 or more, or 0 for all")
    counts = len(spec.train_cases or (0,)) + spec.frozen
    cells = len(spec.model_ids) * len(spec.tasks) * len(spec.seeds) * counts
    if cells > MAX_CELLS:
        numbers = " × numbers of training cases" if spec.train_cases else ""
        raise BadOption(
            f"models × tasks × seeds{numbers} are {cells:,} cells, and the maximum is {MAX_CELLS:,}",
            field="spec",
            remedy="create several experiments, or use fewer seeds",
        )
    if not spec.title.isprintable():
        raise BadOption(
            "the title is not a line of printable characters",
            field="spec.title",
            remedy="remove what cannot be printed",
        )
    for place, task in enumerate(spec.tasks):
        with within("spec", task=f"tasks[{place}]"):
            check_spec(CheckSpec(model_id=spec.model_ids[0], dataset_id=spec.dataset_id, task=task, recipe=spec.recipe))


def pin_inputs(store: ObjectStore, spec: ExperimentSpec) -> PinnedInputs:
    """Pins the inputs. Rejects inputs that would make a cell fail, before any cell uses compute time.

    Raises:
        NotFound: a model or the dataset does not exist.
        PreconditionFailed: the dataset has a different digest than requested.
        BadDataset: a split has no case, or a case lacks what a task needs.
        BadOption: `train` cannot be reduced to a number of training cases, two of these numbers are equal, the input of
            a model lacks a channel that a task requires or is smaller than a patch, or the dataset does not declare
            what a task requires.
    """
    dataset = load_dataset(store, spec.dataset_id, spec.dataset_digest or None)
    if {0, len(dataset.train)} <= set(spec.train_cases):
        raise BadOption(
            f"{len(dataset.train)} training cases are all of `train`, which the list has as 0 (`all`) too",
            field="spec.train_cases",
            remedy="name one of the two",
        )
    tasks = _resolve_tasks(spec, dataset)
    _check_smallest_differences(spec, tasks)
    cards = [load_card(store, model) for model in spec.model_ids]
    maps = _split_map(spec, cards)
    for model_place, (card, modality_map) in enumerate(zip(cards, maps, strict=True)):
        for place, (requested, task) in enumerate(zip(spec.tasks, tasks, strict=True)):
            cell = CheckSpec(
                model_id=card.id,
                dataset_id=spec.dataset_id,
                task=requested,
                recipe=spec.recipe,
                modality_map=modality_map,
            )
            with within("spec", task=f"tasks[{place}]", model_id=f"model_ids[{model_place}]"):
                fit_check(cell, task, dataset, card)
    return PinnedInputs(
        dataset_digest=dataset.digest(),
        model_sha256=tuple(card.checkpoint.sha256 for card in cards),
        modality_maps=maps if spec.modality_map else (),
        train_size=len(dataset.train) if spec.train_cases else 0,
        primary_metrics=tuple(task.primary_metric.name for task in tasks),
    )


def _split_map(spec: ExperimentSpec, cards: Sequence[ModelCard]) -> tuple[ModalityMap, ...]:
    """Returns the part of the experiment's map for each model: the entries for inputs that the model has."""
    known = {model_input for card in cards for model_input in card.preprocessing.modalities}
    for model_input in spec.modality_map.values():
        if model_input not in known:
            raise BadOption(
                f"no model has an input {model_input}",
                field="spec.modality_map",
                remedy=f"choose one of {', '.join(sorted(known))}",
            )
    return tuple(
        {modality: name for modality, name in spec.modality_map.items() if name in card.preprocessing.modalities}
        for card in cards
    )


def _resolve_tasks(spec: ExperimentSpec, dataset: DatasetManifest) -> list[TaskSpec]:
    tasks: list[TaskSpec] = []
    for place, requested in enumerate(spec.tasks):
        with within("spec", task=f"tasks[{place}]"):
            task = get_task_spec(requested, dataset.declaration)
        check_data(dataset, task)  # once for all models, because it reads every case
        for count, seed in product(spec.train_cases, spec.seeds):
            select_training_cases(dataset, task, count, seed)
        for earlier, other in enumerate(tasks):
            if task == other:
                raise BadOption(
                    f"{spec.tasks[earlier]} and {spec.tasks[place]} are the same task for dataset {dataset.id}",
                    field="spec.tasks",
                    remedy="name the task once",
                )
        tasks.append(task)
    return tasks


def plan_cells(experiment_id: str, spec: ExperimentSpec, pinned: PinnedInputs) -> tuple[PlannedCell, ...]:
    """Plans all cells in the order in which they start: by seed, number of training cases, task and model.

    Cells with a frozen encoder come after the others, and controls come last.
    """
    return _plan_cells(experiment_id, spec.to_json(), pinned.to_json())


@lru_cache(maxsize=64)  # the runner and every watcher plan each experiment several times per second
def _plan_cells(experiment_id: str, spec_json: bytes, pinned_json: bytes) -> tuple[PlannedCell, ...]:
    spec, pinned = ExperimentSpec.model_validate_json(spec_json), PinnedInputs.model_validate_json(pinned_json)
    cells = []
    maps = pinned.modality_maps or ({},) * len(spec.model_ids)
    models = tuple(zip(spec.model_ids, pinned.model_sha256, maps, strict=True))
    tasks = tuple(zip(spec.tasks, pinned.primary_metrics, strict=True))
    counts = spec.train_cases or (0,)
    main = [get_main_count(counts)]
    grid = [(*cell, False, False) for cell in product(spec.seeds, counts, tasks, models)]
    if spec.frozen:
        grid += [(*cell, False, True) for cell in product(spec.seeds, main, tasks, models)]
    if spec.shuffled_labels:
        grid += [(*cell, True, False) for cell in product(spec.seeds[:1], main, tasks, models)]
    for seed, count, (task, metric), (model, sha256, modality_map), shuffled, frozen in grid:
        request = CheckSpec(
            model_id=model,
            model_sha256=sha256,
            dataset_id=spec.dataset_id,
            dataset_digest=pinned.dataset_digest,
            task=task,
            recipe=spec.recipe,
            seed=seed,
            seeds=1,  # every seed of an experiment is a cell of its own
            recipe_seed=spec.seeds[0],
            permutations=spec.permutations,
            bootstrap_resamples=spec.bootstrap_resamples,
            interval_level=spec.interval_level,
            smallest_difference=_get_smallest_difference(spec, metric),
            modality_map=modality_map,
            shuffled_labels=shuffled,
            allow_cut_organs=spec.allow_cut_organs,
            train_cases=count,
            frozen=frozen,
        )
        check_id = make_check_id(
            experiment_id, str(task), model, seed, shuffled=shuffled, train_cases=count, frozen=frozen
        )
        cells.append(PlannedCell(model, str(task), seed, check_id, request, request.digest(), shuffled, count, frozen))
    return tuple(cells)


def make_check_id(
    experiment_id: str,
    task: str,
    model: str,
    seed: int,
    *,
    shuffled: bool = False,
    train_cases: int = 0,
    frozen: bool = False,
) -> str:
    """Returns the id of a cell's check. An id that is too long is truncated, and a digest of the full id is appended.

    Args:
        experiment_id: the experiment.
        task: short name of the task.
        model: id of the model.
        seed: the cell's seed.
        shuffled: whether the cell is a control on shuffled labels.
        train_cases: number of training cases; 0 for all.
        frozen: whether the encoder of the cell is frozen.
    """
    kind = "-shuffled" if shuffled else "-frozen" if frozen else ""
    check_id = f"{experiment_id}-{to_id_part(task)}-{model}-{seed}{f'-n{train_cases}' if train_cases else ''}{kind}"
    if len(check_id) <= MAX_CHECK_ID:
        return check_id
    digest = hashlib.sha256(check_id.encode()).hexdigest()[:_DIGEST_DIGITS]
    return f"{check_id[: MAX_CHECK_ID - _DIGEST_DIGITS - 1]}-{digest}"


def _check_smallest_differences(spec: ExperimentSpec, tasks: Sequence[TaskSpec]) -> None:
    metrics = [difference.metric for difference in spec.smallest_differences]
    primary = {task.primary_metric.name for task in tasks}
    if unknown := [metric for metric in metrics if metric not in primary]:
        raise BadOption(
            f"{unknown[0][:64]!r} is not the primary metric of any task of the experiment",
            field="spec.smallest_differences",
            remedy=f"choose from {', '.join(sorted(primary))}",
        )
    if len(set(metrics)) != len(metrics):
        raise BadOption("a metric is named twice", field="spec.smallest_differences", remedy="name each metric once")


def _get_smallest_difference(spec: ExperimentSpec, metric: str) -> float:
    """The requested smallest relevant difference of a primary metric; 0 for the metric's own."""
    return next((difference.value for difference in spec.smallest_differences if difference.metric == metric), 0.0)


def _check_list(values: Sequence[object], field: str, noun: str) -> None:
    if not values:
        raise BadOption(f"no {noun} is named", field=f"spec.{field}", remedy=f"name at least one {noun}")
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise BadOption(
                f"{noun} {str(value)[:128]!r} is named twice", field=f"spec.{field}", remedy=f"name each {noun} once"
            )
        seen.add(value)
