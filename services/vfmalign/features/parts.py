"""Parts of a feature set: studies read and prepared in threads, through the encoder, into the store.

Knows what is missing of a set and how a part is made; knows nothing of requests or of when a set is committed.

Legend: N cases, C channels, D H W depth, height, width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.domain.artifacts import Case, ModelCard
from vfmalign.core.domain.errors import Cancelled
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.storage.feature_sets import FeatureRequest, FeatureSetWriter
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.features.extractor import extract
from vfmalign.features.threads import pool_of
from vfmalign.imaging.preprocessing import needed_kinds, prepare_study
from vfmalign.imaging.volumes import load_case
from vfmalign.models.encoder import Encoder

Features = dict[str, Tensor]


@dataclass(frozen=True)
class ExtractionOptions:
    """How the work is done; nothing here changes a result beyond float32 rounding.

    Attributes:
        batch_size: studies per forward pass on an accelerator (on a CPU, see `Encoder.studies_at_once`).
        part_cases: rows per stored part: what a killed extraction loses at most.
        readers: threads that read, decode and prepare studies beside the encoder.
    """

    batch_size: int
    part_cases: int
    readers: int


@dataclass(frozen=True)
class Hooks:
    """How an extraction speaks with its surroundings.

    Attributes:
        compute: runs a function on the thread that owns the device, and waits for it.
        stages: collects what the work cost.
        report: called with the cases done so far and the cases in all, when the work begins and after every part.
        cancelled: asked between batches.
    """

    compute: Callable[[Callable[[], Features]], Features]
    stages: Stages
    report: Callable[[int, int], None]
    cancelled: Callable[[], bool]


@dataclass(frozen=True)
class Plan:
    """A checked request: the model's card, the cases in row order and all that determines the features."""

    card: ModelCard
    cases: tuple[Case, ...]
    request: FeatureRequest


@dataclass(frozen=True)
class Shard:
    """One machine's share of a set: of the parts, numbered from 0, those with number % `count` = `index`."""

    index: int = 0
    count: int = 1


WHOLE = Shard()


def extract_missing(
    store: ObjectStore,
    plan: Plan,
    encoder: Encoder,
    writer: FeatureSetWriter,
    *,
    options: ExtractionOptions,
    hooks: Hooks,
    shard: Shard = WHOLE,
) -> int:
    """Computes and writes the shard's parts that are not stored yet; returns the number of cases computed."""
    parts = parts_of(plan, options)[shard.index :: shard.count]
    total = sum(len(rows) for rows in parts)
    stored = writer.parts_done(options.part_cases)
    missing = [rows for rows in parts if rows.start not in stored]
    computed = sum(len(rows) for rows in missing)
    done = total - computed
    hooks.report(done, total)
    cases = [plan.cases[row] for rows in missing for row in rows]
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    batch_size = encoder.studies_at_once if on_cpu else options.batch_size
    with closing(_prepared(store, plan, cases, options, hooks.stages)) as inputs:
        for rows in missing:
            batches = []
            for first in range(rows.start, rows.stop, batch_size):
                if hooks.cancelled():
                    raise Cancelled("the caller stopped the extraction", subject=plan.request.feature_set_id())
                with hooks.stages.stage("wait_input"):
                    size = min(batch_size, rows.stop - first)
                    input_NCDHW = torch.stack([next(inputs) for _ in range(size)])
                batches.append(_forward(hooks, encoder, input_NCDHW, plan.request.layers))
            with hooks.stages.stage("write"):
                writer.write_part(rows.start, _joined(batches, plan.request.layers))
            done += len(rows)
            hooks.report(done, total)
    return computed


def parts_of(plan: Plan, options: ExtractionOptions) -> list[range]:
    """The rows of each part."""
    rows = range(len(plan.cases))
    return [rows[start : start + options.part_cases] for start in range(0, len(rows), options.part_cases)]


def _forward(hooks: Hooks, encoder: Encoder, input_NCDHW: Tensor, layers: Sequence[str]) -> Features:
    metrics.batch_size.observe(len(input_NCDHW))

    def run() -> Features:
        with hooks.stages.stage("forward"):
            return extract(encoder, input_NCDHW, layers, "mean")

    return hooks.compute(run)


def _joined(batches: Sequence[Features], layers: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    return {layer: torch.cat([batch[layer] for batch in batches]).numpy() for layer in layers}


def _prepared(
    store: ObjectStore, plan: Plan, cases: Sequence[Case], options: ExtractionOptions, stages: Stages
) -> Generator[Tensor, None, None]:
    """Prepared inputs in order, read ahead by one batch and one study per reader; closing it stops the readers."""
    kinds = needed_kinds(plan.card.preprocessing)
    ahead = options.batch_size + options.readers

    def prepare(case: Case) -> Tensor:
        with stages.stage("read"):
            volumes = load_case(store, case, kinds)
        with stages.stage("prepare"):
            return prepare_study(
                volumes, plan.card.preprocessing, plan.request.input_transform, subject=f"case {case.id}"
            ).input_CDHW

    # One of torch's threads each: readers that share theirs spend half of their time in waiting for each other.
    with pool_of(options.readers, 1, "read") as pool:
        waiting: deque[Future[Tensor]] = deque()
        for case in cases:
            waiting.append(pool.submit(prepare, case))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
