"""A dataset's split through an encoder into a stored feature set: the data plane of ExtractDataset.

Knows the store, datasets, models and feature sets; knows nothing of gRPC. Idempotent: the request's digest names the
set, a set whose manifest exists is done, and one that was interrupted continues with the parts it lacks. Reading and
decoding run in threads beside the encoder.

Legend: N cases, C channels, D H W depth, height, width.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core import metrics
from vfmalign.core.artifacts import Case, ModelCard, Split, canonical_json
from vfmalign.core.datasets import load_dataset
from vfmalign.core.errors import BadDataset, Cancelled, NotFound
from vfmalign.core.feature_sets import FeatureRequest, FeatureSetWriter, Manifest, read_manifest
from vfmalign.core.metrics import Stages
from vfmalign.core.store import ObjectStore
from vfmalign.features.cache import ModelCache
from vfmalign.features.extractor import check_layers, extract
from vfmalign.imaging.loading import load_case
from vfmalign.imaging.prepare import needed_kinds, prepare_study
from vfmalign.imaging.transforms import input_transform as find_input_transform
from vfmalign.models.cards import expect_checkpoint, load_card
from vfmalign.models.encoder import Encoder

Features = dict[str, Tensor]

SOFTWARE = ("vfmalign", "torch", "monai", "timm", "nibabel", "numpy", "scipy")


@dataclass(frozen=True)
class BulkRequest:
    """What ExtractDataset asks for.

    Attributes:
        model: id of a published model.
        model_sha256: digest its weights must have; empty accepts the card's.
        dataset: id of a dataset.
        dataset_digest: digest it must have; empty accepts the stored one.
        split: whose cases become the rows, in the dataset's order.
        layers: empty means every layer of the card.
        input_transform: a name in `imaging.transforms.INPUT_TRANSFORMS`.
        initialisation: `random` takes the model's architecture with random weights from `init_seed`.
        init_seed: ignored with `checkpoint`.
    """

    model: str
    dataset: str
    split: Split
    model_sha256: str = ""
    dataset_digest: str = ""
    layers: tuple[str, ...] = ()
    input_transform: str = "identity"
    initialisation: Literal["checkpoint", "random"] = "checkpoint"
    init_seed: int = 0


@dataclass(frozen=True)
class BulkOptions:
    """How the work is done; nothing here changes a result beyond float32 rounding.

    Attributes:
        batch_size: studies per forward pass on an accelerator (on the CPU each goes alone).
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
class BulkResult:
    """A committed feature set.

    Attributes:
        feature_set: its id.
        manifest: what it holds.
        checkpoint_sha256: digest of the weights; of the architecture and seed where they are random.
        computed_cases: cases that this call put through the encoder.
    """

    feature_set: str
    manifest: Manifest
    checkpoint_sha256: str
    computed_cases: int


@dataclass(frozen=True)
class _Plan:
    card: ModelCard
    cases: tuple[Case, ...]
    request: FeatureRequest


def extract_dataset(
    store: ObjectStore, models: ModelCache, request: BulkRequest, options: BulkOptions, hooks: Hooks
) -> BulkResult:
    """Extracts what is missing of a feature set, and commits it.

    Raises:
        NotFound: the model, the dataset or a volume is missing.
        DigestMismatch: model, dataset or volume are not those that the request or the dataset names.
        BadOption: a layer or transform is unknown.
        BadDataset: the split is empty.
        BadVolume: a stored volume cannot be used.
        Cancelled: `cancelled` said so; the parts written so far stay and serve the next call.
    """
    plan = _plan(store, request)
    feature_set = plan.request.feature_set_id()
    checkpoint_sha256 = _weights_digest(plan)
    if manifest := _committed(store, feature_set):
        hooks.report(len(plan.cases), len(plan.cases))
        return BulkResult(feature_set, manifest, checkpoint_sha256, 0)
    with hooks.stages.stage("load_model"):
        encoder = _encoder(models, plan)
    writer = FeatureSetWriter(
        store, plan.request, [case.id for case in plan.cases], [case.group for case in plan.cases]
    )
    computed = _extract_missing(store, plan, encoder, writer, options=options, hooks=hooks)
    with hooks.stages.stage("commit"):
        manifest = writer.commit(software={name: version(name) for name in SOFTWARE})
    return BulkResult(feature_set, manifest, checkpoint_sha256, computed)


def _plan(store: ObjectStore, request: BulkRequest) -> _Plan:
    """Checks the request against what is stored, and makes everything that determines the features explicit."""
    find_input_transform(request.input_transform)
    card = load_card(store, request.model)
    expect_checkpoint(card, request.model_sha256)
    dataset = load_dataset(store, request.dataset, digest=request.dataset_digest or None)
    cases = dataset.split(request.split)
    if not cases:
        raise BadDataset(
            f"the split {request.split} has no cases", subject=request.dataset, remedy="choose a split that has some"
        )
    return _Plan(
        card,
        cases,
        FeatureRequest(
            model=card.id,
            model_sha256=card.checkpoint.sha256,
            initialisation=request.initialisation,
            init_seed=request.init_seed if request.initialisation == "random" else 0,
            dataset=dataset.id,
            dataset_digest=dataset.digest(),
            split=request.split,
            layers=request.layers or tuple(layer.name for layer in card.layers),
            pooling="mean",
            input_transform=request.input_transform,
            preprocessing=card.preprocessing,
        ),
    )


def _weights_digest(plan: _Plan) -> str:
    if plan.request.initialisation == "checkpoint":
        return plan.card.checkpoint.sha256
    origin = {"architecture": plan.card.architecture, "seed": plan.request.init_seed}
    return hashlib.sha256(canonical_json(origin)).hexdigest()


def _committed(store: ObjectStore, feature_set: str) -> Manifest | None:
    try:
        return read_manifest(store, feature_set)
    except NotFound:
        return None


def _encoder(models: ModelCache, plan: _Plan) -> Encoder:
    if plan.request.initialisation == "random":
        encoder = models.random(plan.card.architecture, plan.request.init_seed)
    else:
        encoder = models.of_card(plan.card)
    check_layers(encoder, plan.request.layers)
    return encoder


def _extract_missing(
    store: ObjectStore,
    plan: _Plan,
    encoder: Encoder,
    writer: FeatureSetWriter,
    *,
    options: BulkOptions,
    hooks: Hooks,
) -> int:
    """Computes and writes the parts that are not stored yet; returns the number of cases computed."""
    total = len(plan.cases)
    parts = [range(start, min(start + options.part_cases, total)) for start in range(0, total, options.part_cases)]
    stored = writer.parts_done(options.part_cases)
    missing = [rows for rows in parts if rows.start not in stored]
    computed = sum(len(rows) for rows in missing)
    done = total - computed
    hooks.report(done, total)
    cases = [plan.cases[row] for rows in missing for row in rows]
    with closing(_prepared(store, plan, cases, options, hooks.stages)) as inputs:
        for rows in missing:
            batches = []
            for first in range(rows.start, rows.stop, options.batch_size):
                if hooks.cancelled():
                    raise Cancelled("the caller stopped the extraction", subject=plan.request.feature_set_id())
                with hooks.stages.stage("wait_input"):
                    size = min(options.batch_size, rows.stop - first)
                    input_NCDHW = torch.stack([next(inputs) for _ in range(size)])
                batches.append(_forward(hooks, encoder, input_NCDHW, plan.request.layers))
            with hooks.stages.stage("write"):
                writer.write_part(rows.start, _joined(batches, plan.request.layers))
            done += len(rows)
            hooks.report(done, total)
    return computed


def _forward(hooks: Hooks, encoder: Encoder, input_NCDHW: Tensor, layers: Sequence[str]) -> Features:
    metrics.batch_size.observe(len(input_NCDHW))

    def run() -> Features:
        with hooks.stages.stage("forward"):
            return extract(encoder, input_NCDHW, layers, "mean")

    return hooks.compute(run)


def _joined(batches: Sequence[Features], layers: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    return {layer: torch.cat([batch[layer] for batch in batches]).numpy() for layer in layers}


def _prepared(
    store: ObjectStore, plan: _Plan, cases: Sequence[Case], options: BulkOptions, stages: Stages
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

    pool = ThreadPoolExecutor(options.readers, thread_name_prefix="read")
    try:
        waiting: deque[Future[Tensor]] = deque()
        for case in cases:
            waiting.append(pool.submit(prepare, case))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
