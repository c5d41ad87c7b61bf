"""Extracts the parts of a feature set: reads and prepares studies in threads, runs the encoder, and stores the rows.

Legend: N: cases. C: channels. D, H, W: depth, height and width.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.domain.datasets import Case
from vfmalign.core.domain.errors import Cancelled
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.patches import Shape
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest, Manifest
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features import metrics
from vfmalign.features.extraction.extractor import PreparedInput, extract, extract_patches, list_patches
from vfmalign.features.extraction.threads import open_thread_pool
from vfmalign.imaging.preprocessing import needed_kinds, prepare_study
from vfmalign.imaging.volumes import load_case
from vfmalign.models.encoder import Encoder
from vfmalign.models.running_statistics import estimate_statistics, split_batches

Features = dict[str, Tensor]
P = ParamSpec("P")


@dataclass(frozen=True)
class ExtractionOptions:
    """Settings that do not affect the features beyond float32 rounding.

    Attributes:
        batch_size: number of studies per forward pass on an accelerator (on a CPU, see `Encoder.studies_at_once`).
        part_cases: rows per stored part. A killed process loses at most one part.
        readers: number of threads that read, decode and prepare studies.
    """

    batch_size: int
    part_cases: int
    readers: int


@dataclass(frozen=True)
class Hooks:
    """Callbacks of an extraction.

    Attributes:
        compute: runs a function on the thread that owns the device and returns its result.
        stages: collects the time of each stage.
        report: called at the start and after every part, with the number of finished cases and the number of all cases.
        cancelled: called between batches. If `cancelled` returns True, the extraction stops.
    """

    compute: Callable[[Callable[[], Features]], Features]
    stages: Stages
    report: Callable[[int, int], None]
    cancelled: Callable[[], bool]


@dataclass(frozen=True)
class ExtractionPlan:
    """A resolved request: the model's card, the cases in row order, and everything that determines the features.

    Attributes:
        train: cases of `train`, if the request estimates running statistics from these cases; else empty.
        allow_cut_organs: whether a mask that normalises the input may lie outside the field of view.
    """

    card: ModelCard
    cases: tuple[Case, ...]
    request: FeatureRequest
    train: tuple[Case, ...] = ()
    allow_cut_organs: bool = False


@dataclass(frozen=True)
class Shard:
    """Parts of a feature set that one machine extracts: part `index` and every `count`-th part after it."""

    index: int = 0
    count: int = 1


WHOLE = Shard()


@dataclass(frozen=True)
class Computed:
    """Work of an extraction: the number of computed parts, and the number of cases in these parts."""

    parts: int = 0
    cases: int = 0


def extract_missing(
    store: ObjectStore,
    plan: ExtractionPlan,
    encoder: Encoder,
    writer: FeatureSetWriter,
    *,
    options: ExtractionOptions,
    hooks: Hooks,
    shard: Shard = WHOLE,
    manifest: Manifest | None = None,
) -> Computed:
    """Computes and stores the missing parts of a shard. Keeps the intact parts that `manifest` lists."""
    parts = split_rows(plan, options)[shard.index :: shard.count]
    total = sum(len(rows) for rows in parts)
    stored = writer.parts_done(options.part_cases, manifest)
    missing = [rows for rows in parts if rows.start not in stored]
    computed = sum(len(rows) for rows in missing)
    done = total - computed
    hooks.report(done, total)
    cases = [plan.cases[row] for rows in missing for row in rows]
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    batch_size = encoder.studies_at_once if on_cpu else options.batch_size
    with closing(_prepare_inputs(store, plan, cases, options, hooks.stages)) as inputs:
        for rows in missing:
            batches = []
            for first in range(rows.start, rows.stop, batch_size):
                _check_cancelled(plan, hooks)
                with hooks.stages.stage("wait_input"):
                    studies = [next(inputs) for _ in range(min(batch_size, rows.stop - first))]
                batches += _forward(hooks, encoder, studies, plan.request)
            with hooks.stages.stage("write"):
                writer.write_part(rows.start, _concatenate(batches, plan.request.layers))
            done += len(rows)
            hooks.report(done, total)
    return Computed(len(missing), computed)


def estimate_random(
    store: ObjectStore, plan: ExtractionPlan, encoder: Encoder, *, options: ExtractionOptions, hooks: Hooks
) -> Encoder:
    """Returns a copy of an encoder with random weights whose running statistics are estimated from `plan.train`."""
    encoder, patch_DHW, done = copy.deepcopy(encoder), plan.request.preprocessing.patch_shape_dhw, 0
    device = next(encoder.parameters()).device
    with (
        estimate_statistics(encoder) as observe,
        closing(_prepare_inputs(store, plan, plan.train, options, hooks.stages)) as inputs,
    ):
        for size in split_batches(len(plan.train)):
            _check_cancelled(plan, hooks)
            studies = [next(inputs) for _ in range(size)]
            if patch_DHW is not None:
                studies = [_choose_patch(study, patch_DHW, done + place) for place, study in enumerate(studies)]
            input_NCDHW, slices_N2 = _stack(studies)
            done += size

            def run(input_NCDHW: Tensor = input_NCDHW, slices_N2: Tensor = slices_N2) -> Features:
                observe(input_NCDHW.to(device), slices_N2.to(device))
                return {}

            hooks.compute(run)
    return encoder


def _choose_patch(study: PreparedInput, patch_DHW: Shape, number: int) -> PreparedInput:
    """The patch of a training case from which statistics are estimated, as in a training."""
    patches = list_patches(study, patch_DHW)
    patch_CDHW, slices, _ = patches[number % len(patches)]
    return replace(study, input_CDHW=patch_CDHW, slices=slices)


def _check_cancelled(plan: ExtractionPlan, hooks: Hooks) -> None:
    if hooks.cancelled():
        raise Cancelled("the extraction was cancelled", subject=plan.request.feature_set_id())


def _stack(studies: Sequence[PreparedInput]) -> tuple[Tensor, Tensor]:
    return torch.stack([study.input_CDHW for study in studies]), torch.tensor([study.slices for study in studies])


def split_rows(plan: ExtractionPlan, options: ExtractionOptions) -> list[range]:
    """Returns the rows of each part."""
    rows = range(len(plan.cases))
    return [rows[start : start + options.part_cases] for start in range(0, len(rows), options.part_cases)]


def _forward(
    hooks: Hooks, encoder: Encoder, studies: Sequence[PreparedInput], request: FeatureRequest
) -> list[Features]:
    metrics.batch_size.observe(len(studies))
    layers, patch_DHW, size = request.layers, request.preprocessing.patch_shape_dhw, len(studies)
    if patch_DHW is not None:
        return [
            hooks.compute(partial(_measure, hooks, extract_patches, encoder, study, layers, patch_DHW, size))
            for study in studies
        ]
    input_NCDHW, slices_N2 = _stack(studies)
    return [hooks.compute(partial(_measure, hooks, extract, encoder, input_NCDHW, layers, "mean", slices_N2))]


def _measure(hooks: Hooks, extraction: Callable[P, Features], *args: P.args, **kwargs: P.kwargs) -> Features:
    with hooks.stages.stage("forward"):
        return extraction(*args, **kwargs)


def _concatenate(batches: Sequence[Features], layers: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    return {layer: torch.cat([batch[layer] for batch in batches]).numpy() for layer in layers}


def _prepare_inputs(
    store: ObjectStore, plan: ExtractionPlan, cases: Sequence[Case], options: ExtractionOptions, stages: Stages
) -> Generator[PreparedInput, None, None]:
    """Yields prepared inputs in order of the cases. Closing the generator stops the readers.

    Readers are at most one batch and one study per reader ahead of the encoder, which bounds the memory.
    """
    kinds = needed_kinds(plan.request.preprocessing)
    ahead = options.batch_size + options.readers

    def prepare(case: Case) -> PreparedInput:
        with stages.stage("read"):
            volumes = load_case(store, case, kinds)
        with stages.stage("prepare"):
            study = prepare_study(
                volumes,
                plan.request.preprocessing,
                plan.request.input_transform,
                subject=f"case {case.id}",
                allow_cut=plan.allow_cut_organs,
            )
            return PreparedInput(study.input_CDHW, study.slices, study.image)

    # One torch thread per reader: readers that share torch's pool spend half of their time waiting for each other.
    with open_thread_pool(options.readers, 1, "read") as pool:
        pending: deque[Future[PreparedInput]] = deque()
        for case in cases:
            pending.append(pool.submit(prepare, case))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
