"""Extract the features of a dataset's split into a stored feature set.

Idempotent: the digest of the resolved request is the set's id, a set with a manifest is done, and an interrupted one
continues with the missing parts. Several machines can share the work: each calls `extract_shard`, and `reduce` commits
the set once all parts are stored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version

from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.core.domain.errors import BadDataset, NotFound, Unavailable
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.feature_sets import FeatureRequest, FeatureSetWriter, Manifest, read_manifest
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.features.cache import ModelCache
from vfmalign.features.extractor import check_layers
from vfmalign.features.parts import ExtractionOptions, ExtractionPlan, Hooks, Shard, extract_missing, split_rows
from vfmalign.imaging.input_transforms import get_input_transform
from vfmalign.models.cards import check_checkpoint_digest, load_card
from vfmalign.models.encoder import Encoder

SOFTWARE = ("vfmalign", "torch", "monai", "timm", "nibabel", "numpy", "scipy")


@dataclass(frozen=True)
class ExtractionResult:
    """A committed feature set.

    Attributes:
        feature_set_id: id of the set.
        manifest: what it holds.
        checkpoint_sha256: digest of the weights; of the architecture and seed where they are random.
        computed_cases: cases that this call put through the encoder.
    """

    feature_set_id: str
    manifest: Manifest
    checkpoint_sha256: str
    computed_cases: int


def extract_dataset(
    store: ObjectStore, models: ModelCache, request: ExtractDatasetRequest, options: ExtractionOptions, hooks: Hooks
) -> ExtractionResult:
    """Extracts the missing parts of a feature set and commits it.

    Raises:
        NotFound: the model, the dataset or a volume is missing.
        DigestMismatch: the digest of the model, dataset or a volume is not the expected one.
        BadOption: a layer or transform is unknown.
        BadDataset: the split is empty.
        BadVolume: a stored volume cannot be used.
        Cancelled: `hooks.cancelled` returned True; the next call continues with the stored parts.
    """
    plan = _resolve(store, request)
    feature_set = plan.request.feature_set_id()
    checkpoint_sha256 = _weights_digest(plan)
    if manifest := _read_committed(store, feature_set):
        hooks.report(len(plan.cases), len(plan.cases))
        return ExtractionResult(feature_set, manifest, checkpoint_sha256, 0)
    with hooks.stages.stage("load_model"):
        encoder = _encoder(models, plan)
    writer = _writer(store, plan)
    computed = extract_missing(store, plan, encoder, writer, options=options, hooks=hooks)
    with hooks.stages.stage("commit"):
        manifest = writer.commit(software=_software())
    return ExtractionResult(feature_set, manifest, checkpoint_sha256, computed)


def extract_shard(
    store: ObjectStore,
    models: ModelCache,
    request: ExtractDatasetRequest,
    options: ExtractionOptions,
    hooks: Hooks,
    *,
    shard: Shard,
) -> int:
    """Extracts the missing parts of one shard of a feature set, without committing.

    All shards and `reduce` must use the same `options.part_cases`, which determines the parts.

    Returns:
        The number of cases that this call put through the encoder.

    Raises:
        VfmalignError: as `extract_dataset`.
    """
    plan = _resolve(store, request)
    if _read_committed(store, plan.request.feature_set_id()):
        return 0
    with hooks.stages.stage("load_model"):
        encoder = _encoder(models, plan)
    return extract_missing(store, plan, encoder, _writer(store, plan), options=options, hooks=hooks, shard=shard)


def is_extracted(store: ObjectStore, request: ExtractDatasetRequest, options: ExtractionOptions) -> bool:
    """Whether every part of a feature set is stored, so that `reduce` can commit it.

    Raises:
        VfmalignError: as `extract_dataset`.
    """
    plan = _resolve(store, request)
    if _read_committed(store, plan.request.feature_set_id()):
        return True
    writer, starts = _writer(store, plan), {rows.start for rows in split_rows(plan, options)}
    # Verifying the parts reads all of them, so their number is compared first.
    return writer.count_stored_parts() >= len(starts) and starts <= writer.parts_done(options.part_cases)


def reduce(
    store: ObjectStore, request: ExtractDatasetRequest, options: ExtractionOptions, shards: int
) -> ExtractionResult:
    """Commits a feature set from the parts that the shards have stored.

    Raises:
        Unavailable: parts are missing; the error names their shards.
        VfmalignError: as `extract_dataset`.
    """
    plan = _resolve(store, request)
    feature_set, checkpoint_sha256 = plan.request.feature_set_id(), _weights_digest(plan)
    if manifest := _read_committed(store, feature_set):
        return ExtractionResult(feature_set, manifest, checkpoint_sha256, 0)
    writer = _writer(store, plan)
    stored = writer.parts_done(options.part_cases)
    numbered = enumerate(split_rows(plan, options))
    if missing := sorted({number % shards for number, rows in numbered if rows.start not in stored}):
        raise Unavailable(
            f"parts of the shards {', '.join(map(str, missing))} of {shards} are missing",
            subject=f"feature set {feature_set}",
            remedy="extract these shards, then run reduce again",
        )
    return ExtractionResult(feature_set, writer.commit(software=_software()), checkpoint_sha256, 0)


def _resolve(store: ObjectStore, request: ExtractDatasetRequest) -> ExtractionPlan:
    """Checks the request against the stored model and dataset, and resolves everything that it leaves open."""
    input_transform = request.input_transform or "identity"
    get_input_transform(input_transform)
    card = load_card(store, request.model_id)
    check_checkpoint_digest(card, request.checkpoint_sha256)
    dataset = load_dataset(store, request.dataset_id, digest=request.dataset_digest or None)
    cases = dataset.split(request.split)
    if not cases:
        raise BadDataset(
            f"the split {request.split} has no cases", subject=request.dataset_id, remedy="choose a split with cases"
        )
    return ExtractionPlan(
        card,
        cases,
        FeatureRequest(
            model=card.id,
            model_sha256=card.checkpoint.sha256,
            initialisation=request.initialisation,
            init_seed=request.initialisation_seed if request.initialisation == "random" else 0,
            dataset=dataset.id,
            dataset_digest=dataset.digest(),
            split=request.split,
            layers=request.layers or tuple(layer.name for layer in card.layers),
            pooling="mean",
            input_transform=input_transform,
            preprocessing=card.preprocessing,
        ),
    )


def _weights_digest(plan: ExtractionPlan) -> str:
    if plan.request.initialisation == "checkpoint":
        return plan.card.checkpoint.sha256
    origin = {"architecture": plan.card.architecture, "seed": plan.request.init_seed}
    return hashlib.sha256(canonical_json(origin)).hexdigest()


def _writer(store: ObjectStore, plan: ExtractionPlan) -> FeatureSetWriter:
    return FeatureSetWriter(store, plan.request, [case.id for case in plan.cases], [case.group for case in plan.cases])


def _software() -> dict[str, str]:
    return {name: version(name) for name in SOFTWARE}


def _read_committed(store: ObjectStore, feature_set: str) -> Manifest | None:
    try:
        return read_manifest(store, feature_set)
    except NotFound:
        return None


def _encoder(models: ModelCache, plan: ExtractionPlan) -> Encoder:
    if plan.request.initialisation == "random":
        encoder = models.get_random(plan.card.architecture, plan.request.init_seed)
    else:
        encoder = models.get_by_card(plan.card)
    check_layers(encoder, plan.request.layers)
    return encoder
