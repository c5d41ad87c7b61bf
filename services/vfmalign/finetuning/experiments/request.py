"""What an experiment is asked for, and the checks that it comes down to.

Knows ids, cells and limits, and reads cards and the dataset through the store. Knows nothing of protobuf, databases or
how a check is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Annotated

from pydantic import Field, StringConstraints

from vfmalign.client.messages.base import OptionalSha256
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe, Seed
from vfmalign.core.domain.artifacts import Id, Record, Sha256
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.checks.request import check_spec
from vfmalign.finetuning.jobs.request import load_card

DEFAULT_MAX_RUNNING = 2
MAX_RUNNING = 64
MAX_MODELS = 32
MAX_CELLS = 1_000
MAX_TITLE = 200
MAX_CHECK_ID = 80
_DIGEST_DIGITS = 12

ExperimentId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,79}$")]


class ExperimentRequest(Record):
    """One experiment as asked for; fields as in `experiment.proto`."""

    models: tuple[Id, ...]
    dataset: Id
    dataset_digest: OptionalSha256 = ""
    tasks: tuple[str, ...]
    seeds: tuple[Seed, ...] = (0,)
    recipe: Recipe = Recipe()
    permutations: int = Field(default=1_000, ge=1, le=100_000)
    bootstrap_resamples: int = Field(default=2_000, ge=100, le=100_000)
    interval_level: float = Field(default=0.95, gt=0.0, lt=1.0)
    max_running: int = Field(default=DEFAULT_MAX_RUNNING, ge=1, le=MAX_RUNNING)
    title: str = ""

    def check(self) -> None:
        """Refuses what can never succeed, as far as that needs no store.

        Raises:
            BadOption: nothing or the same twice in a list, too many cells, or an unknown task or preset.
        """
        _check_list(self.models, "model_ids", "model")
        _check_list(self.tasks, "tasks", "task")
        _check_list(self.seeds, "seeds", "seed")
        if len(self.models) > MAX_MODELS:
            raise BadOption(
                f"{len(self.models)} models are more than {MAX_MODELS}",
                field="spec.model_ids",
                remedy="make several experiments",
            )
        cells = len(self.models) * len(self.tasks) * len(self.seeds)
        if cells > MAX_CELLS:
            raise BadOption(
                f"models × tasks × seeds are {cells:,} cells, more than {MAX_CELLS:,}",
                field="spec",
                remedy="make several experiments, or name fewer seeds",
            )
        if len(self.title) > MAX_TITLE or not self.title.isprintable():
            raise BadOption(
                f"is not a line of at most {MAX_TITLE} printable characters",
                field="spec.title",
                remedy="shorten it, or leave it empty",
            )
        for task in self.tasks:
            check_spec(CheckSpec(model_id=self.models[0], dataset_id=self.dataset, task=task, recipe=self.recipe))


class Fixed(Record):
    """What an experiment's checks are about, fixed when the experiment is created.

    Attributes:
        dataset_digest: of the dataset as it was stored then.
        model_sha256: digest of each model's weights then, in the order of the request.
    """

    dataset_digest: Sha256
    model_sha256: tuple[Sha256, ...]


@dataclass(frozen=True)
class ExperimentCell:
    """One cell and the check that fills it; the digest is the request's."""

    model: str
    task: str
    seed: int
    check_id: str
    request: CheckSpec
    request_digest: str


def fix(store: ObjectStore, request: ExperimentRequest) -> Fixed:
    """Looks at everything that would make cells fail for sure, before anything costs compute.

    Raises:
        NotFound, DigestMismatch, PreconditionFailed: a model or the dataset is missing, or the dataset is another one.
        BadDataset: a split without a case.
        BadOption: a model whose input lacks a channel that a task is about, naming both.
    """
    dataset = load_dataset(store, request.dataset, request.dataset_digest or None)
    for split in ("train", "val", "test"):
        if not getattr(dataset, split):
            raise BadDataset(
                f"the split {split!r} holds no case",
                field="spec.dataset_id",
                subject=dataset.id,
                remedy="put at least one case into it",
            )
    digests = []
    for model in request.models:
        card = load_card(store, model)
        for task in request.tasks:
            get_task_spec(task).check_input(card.id, card.preprocessing.modalities)
        digests.append(card.checkpoint.sha256)
    return Fixed(dataset_digest=dataset.digest(), model_sha256=tuple(digests))


@lru_cache(maxsize=64)
def expand(experiment: str, request: ExperimentRequest, fixed: Fixed) -> tuple[ExperimentCell, ...]:
    """Every cell in the order in which they are begun: by seed, then task, then model.

    Kept for the next call: whoever looks after an experiment asks several times a second.
    """
    cells = []
    models = tuple(zip(request.models, fixed.model_sha256, strict=True))
    for seed, task, (model, sha256) in product(request.seeds, request.tasks, models):
        asked = CheckSpec(
            model_id=model,
            model_sha256=sha256,
            dataset_id=request.dataset,
            dataset_digest=fixed.dataset_digest,
            task=task,
            recipe=request.recipe,
            seed=seed,
            permutations=request.permutations,
            bootstrap_resamples=request.bootstrap_resamples,
            interval_level=request.interval_level,
        )
        cells.append(ExperimentCell(model, task, seed, check_id(experiment, task, model, seed), asked, asked.digest()))
    return tuple(cells)


def check_id(experiment: str, task: str, model: str, seed: int) -> str:
    """Id of a cell's check; one that would be too long ends in a digest of all of it instead."""
    whole = f"{experiment}-{task}-{model}-{seed}"
    if len(whole) <= MAX_CHECK_ID:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:_DIGEST_DIGITS]
    return f"{whole[: MAX_CHECK_ID - _DIGEST_DIGITS - 1]}-{digest}"


def _check_list(values: Sequence[object], field: str, what: str) -> None:
    if not values:
        raise BadOption(f"no {what} is named", field=f"spec.{field}", remedy=f"name at least one {what}")
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise BadOption(
                f"{what} {str(value)[:128]!r} is named twice", field=f"spec.{field}", remedy=f"name each {what} once"
            )
        seen.add(value)
