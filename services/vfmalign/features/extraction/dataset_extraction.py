"""Extracts the features of a dataset's split into a stored feature set.

Extraction is idempotent. The id of a feature set is the digest of the resolved request. An intact feature set is not
computed again. After an interruption, or if stored objects are lost or damaged, only the missing and damaged parts are
computed. Several machines can share the work. Each machine calls `extract_shard`. When all parts are stored, `reduce`
commits the feature set.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from importlib.metadata import version

from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.core.domain.errors import (
    BadDataset,
    Cancelled,
    CaseOrderMismatch,
    DataLoss,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from vfmalign.core.domain.modality_map import resolve_input
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.deletion import check_not_deleted, delete_below
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import CommittedSet, FeatureRequest, find_damaged_parts, read_committed
from vfmalign.core.storage.keys import features_prefix, manifest_key
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.provenance import Provenance, record_provenance
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.extraction.cache import ModelCache
from vfmalign.features.extraction.extractor import check_layers
from vfmalign.features.extraction.parts import (
    ExtractionOptions,
    ExtractionPlan,
    Hooks,
    Shard,
    estimate_random,
    extract_missing,
    split_rows,
)
from vfmalign.imaging.input_transforms import get_input_transform
from vfmalign.models.encoder import Encoder
from vfmalign.models.registry import get_architecture
from vfmalign.models.running_statistics import list_running

SOFTWARE = ("vfmalign", "torch", "monai", "nibabel", "numpy", "scipy")
_log = logs.get(__name__)


@dataclass(frozen=True)
class ExtractionResult:
    """A committed feature set.

    Attributes:
        feature_set_id: id of the set.
        committed: its manifest.
        checkpoint_sha256: digest of the weights. For random weights, digest of the architecture and seed.
        computed_cases: number of cases that this call computed.
        recomputed_parts: number of lost or damaged committed parts that this call computed again.
    """

    feature_set_id: str
    committed: CommittedSet
    checkpoint_sha256: str
    computed_cases: int = 0
    recomputed_parts: int = 0


@dataclass(frozen=True)
class _StoredSet:
    """State of a set in the store.

    Attributes:
        committed: its manifest, unless it is absent or unusable.
        is_intact: whether nothing has to be computed or written.
        manifest_unusable: whether there is a manifest that has to be replaced.
    """

    committed: CommittedSet | None = None
    is_intact: bool = False
    manifest_unusable: bool = False


def extract_dataset(
    store: ObjectStore, models: ModelCache, request: ExtractDatasetRequest, options: ExtractionOptions, hooks: Hooks
) -> ExtractionResult:
    """Extracts the missing and damaged parts of a feature set and commits it.

    Raises:
        NotFound: the model or the dataset does not exist.
        DigestMismatch: the digest of the model or dataset differs from the expected one.
        DataLoss: the weights or a volume are missing or have changed.
        CaseOrderMismatch: the stored feature set and the dataset have different cases.
        BadOption: a layer, transform or modality is unknown, or no modality is mapped to an input of the model.
        BadDataset: the split is empty.
        BadVolume: a stored volume is unusable.
        Cancelled: `hooks.cancelled` returned True. The next call continues from the stored parts.
        Unavailable: the feature set is being deleted.
    """
    plan = _resolve(store, request)
    feature_set = plan.request.feature_set_id()
    check_not_deleted(store, "features", feature_set)
    checkpoint_sha256 = get_weights_digest(plan.request, plan.card)
    stored = _find_set(store, plan, verify=request.verify)
    if stored.committed and stored.is_intact:
        hooks.report(len(plan.cases), len(plan.cases))
        return ExtractionResult(feature_set, stored.committed, checkpoint_sha256)
    manifest = None
    if stored.committed:
        manifest = stored.committed.manifest
        options = replace(options, part_cases=manifest.parts[0].rows)  # so that intact parts are kept
    with hooks.stages.stage("load_model"):
        encoder = _encoder(store, models, plan, options, hooks)
    writer = _writer(store, plan)
    try:
        computed = extract_missing(store, plan, encoder, writer, options=options, hooks=hooks, manifest=manifest)
    except (DataLoss, Cancelled):  # the volume of an erased patient is not a loss, and its rows must not stay
        _check_dataset_stays(store, plan.request)
        raise
    with hooks.stages.stage("commit"):
        if request.created_by and stored.committed is None and not stored.manifest_unusable:
            provenance = Provenance.of(request.created_by)
            record_provenance(store, features_prefix(feature_set), feature_set, provenance)
        committed = writer.commit(_software(), replaced=stored.committed, replace=stored.manifest_unusable)
        _check_dataset_stays(store, plan.request)
    recomputed = computed.parts if stored.committed or stored.manifest_unusable else 0
    _report_repair(stored, committed, recomputed)
    return ExtractionResult(feature_set, committed, checkpoint_sha256, computed.cases, recomputed)


def extract_shard(
    store: ObjectStore,
    models: ModelCache,
    request: ExtractDatasetRequest,
    options: ExtractionOptions,
    hooks: Hooks,
    *,
    shard: Shard,
) -> int:
    """Extracts the missing parts of one shard of a feature set, without committing the set.

    All shards and `reduce` must use the same `options.part_cases`, which determines the parts.

    Returns:
        The number of cases that this call computed.

    Raises:
        VfmalignError: like `extract_dataset`.
    """
    plan = _resolve(store, request)
    stored = _find_set(store, plan, verify=request.verify)
    if stored.is_intact:
        return 0
    with hooks.stages.stage("load_model"):
        encoder = _encoder(store, models, plan, options, hooks)
    return extract_missing(
        store,
        plan,
        encoder,
        _writer(store, plan),
        options=options,
        hooks=hooks,
        shard=shard,
        manifest=stored.committed.manifest if stored.committed else None,
    ).cases


def is_extracted(store: ObjectStore, request: ExtractDatasetRequest, options: ExtractionOptions) -> bool:
    """Returns whether every part of a feature set is stored, so that `reduce` can commit it.

    Raises:
        VfmalignError: like `extract_dataset`.
    """
    plan = _resolve(store, request)
    if _find_set(store, plan, verify=request.verify).is_intact:
        return True
    writer, starts = _writer(store, plan), {rows.start for rows in split_rows(plan, options)}
    # Verifying the parts reads all of them, so their number is compared first.
    return writer.count_stored_parts() >= len(starts) and starts <= writer.parts_done(options.part_cases)


def reduce(
    store: ObjectStore, request: ExtractDatasetRequest, options: ExtractionOptions, shards: int
) -> ExtractionResult:
    """Commits a feature set from the parts that the shards have stored.

    Raises:
        Unavailable: parts are missing. The error names the shards of the missing parts.
        VfmalignError: like `extract_dataset`.
    """
    plan = _resolve(store, request)
    feature_set, checkpoint_sha256 = plan.request.feature_set_id(), get_weights_digest(plan.request, plan.card)
    stored = _find_set(store, plan, verify=request.verify)
    if stored.committed and stored.is_intact:
        return ExtractionResult(feature_set, stored.committed, checkpoint_sha256)
    writer = _writer(store, plan)
    present = writer.parts_done(options.part_cases, stored.committed.manifest if stored.committed else None)
    numbered = enumerate(split_rows(plan, options))
    if missing := sorted({number % shards for number, rows in numbered if rows.start not in present}):
        raise Unavailable(
            f"parts of the shards {', '.join(map(str, missing))} of {shards} are missing",
            subject=f"feature set {feature_set}",
            remedy="extract these shards, then run reduce again",
        )
    committed = writer.commit(_software(), replaced=stored.committed, replace=stored.manifest_unusable)
    _check_dataset_stays(store, plan.request)
    return ExtractionResult(feature_set, committed, checkpoint_sha256)


def _resolve(store: ObjectStore, request: ExtractDatasetRequest) -> ExtractionPlan:
    """Checks the request against the stored model and dataset, and fills in its defaults."""
    input_transform = request.input_transform or "identity"
    get_input_transform(input_transform)
    card = load_card(store, request.model_id, request.checkpoint_sha256)
    dataset = load_dataset(store, request.dataset_id, digest=request.dataset_digest or None)
    cases = dataset.split(request.split)
    if not cases:
        raise BadDataset(
            f"the split {request.split} has no cases", subject=request.dataset_id, remedy="choose a split with cases"
        )
    estimated = request.initialisation == "random" and bool(
        dataset.train and list_running(get_architecture(card.architecture).build_empty())
    )
    return ExtractionPlan(
        card,
        cases,
        FeatureRequest(
            model_id=card.id,
            model_sha256=card.checkpoint.sha256,
            initialisation=request.initialisation,
            init_seed=request.initialisation_seed if request.initialisation == "random" else 0,
            running_statistics="train" if estimated else "initial",
            dataset_id=dataset.id,
            dataset_digest=dataset.digest(),
            split=request.split,
            layers=_order_layers(card, request.layers),
            pooling="mean",
            input_transform=input_transform,
            preprocessing=resolve_input(card.id, card.preprocessing, request.modality_map, dataset.declaration),
        ),
        train=dataset.train if estimated else (),
        allow_cut_organs=request.allow_cut_organs,
    )


def _order_layers(card: ModelCard, requested: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the layers in the fixed order of feature sets, or all layers of the card if none is requested.

    The ids of sets depend on the order: a request with the same layers in another order must get the same set. The
    primary layer is first, and the others follow in the order of the card.
    """
    ranks = {
        name: rank for rank, name in enumerate(dict.fromkeys((card.primary_layer, *(s.name for s in card.layers))))
    }
    return tuple(sorted(requested or ranks, key=lambda layer: (ranks.get(layer, len(ranks)), layer)))


def get_weights_digest(request: FeatureRequest, card: ModelCard) -> str:
    """Returns the digest of a feature set's weights. For random weights, digests the architecture and the seed."""
    if request.initialisation == "checkpoint":
        return request.model_sha256
    origin = {"architecture": card.architecture, "seed": request.init_seed}
    return hashlib.sha256(canonical_json(origin)).hexdigest()


def _writer(store: ObjectStore, plan: ExtractionPlan) -> FeatureSetWriter:
    return FeatureSetWriter(store, plan.request, [case.id for case in plan.cases], [case.group for case in plan.cases])


def _check_dataset_stays(store: ObjectStore, request: FeatureRequest) -> None:
    """Deletes the new set if its dataset was deleted or changed meanwhile, because a patient may have been erased."""
    try:
        load_dataset(store, request.dataset_id, digest=request.dataset_digest)
    except (NotFound, PreconditionFailed):
        delete_below(store, (manifest_key(request.feature_set_id()), features_prefix(request.feature_set_id())))
        raise


def _software() -> dict[str, str]:
    return {name: version(name) for name in SOFTWARE}


def _find_set(store: ObjectStore, plan: ExtractionPlan, *, verify: bool) -> _StoredSet:
    """Finds a committed set, and checks that its manifest and all parts exist; `verify` also reads the parts."""
    try:
        committed = read_committed(store, plan.request.feature_set_id())
    except NotFound:
        return _StoredSet()
    except DataLoss as error:
        _log.warning("feature_set_damaged", feature_set=plan.request.feature_set_id(), error=error)
        return _StoredSet(manifest_unusable=True)
    manifest = committed.manifest
    if [(case.id, case.group) for case in plan.cases] != list(zip(manifest.case_ids, manifest.groups, strict=True)):
        # Not repaired: parts contain rows without case ids, so none of them can be trusted.
        raise CaseOrderMismatch(
            "the stored feature set and the dataset have different cases, or a different order of cases",
            subject=store.uri(committed.key),
            remedy="delete all objects under the prefix of the set, then extract the set again",
        )
    damaged = find_damaged_parts(store, manifest, read=verify)
    for index in damaged:
        _log.warning("feature_set_damaged", object=store.uri(manifest.parts[index].key), error="missing or changed")
    return _StoredSet(committed, is_intact=not damaged)


def _report_repair(stored: _StoredSet, committed: CommittedSet, parts: int) -> None:
    manifest_replaced = stored.manifest_unusable or (stored.committed is not None and stored.committed != committed)
    metrics.artifacts_recomputed.labels("feature_set_part").inc(parts)
    metrics.artifacts_recomputed.labels("feature_set_manifest").inc(int(manifest_replaced))
    if parts or manifest_replaced:
        feature_set = committed.manifest.request.feature_set_id()
        _log.warning("feature_set_repaired", feature_set=feature_set, parts=parts, manifest_replaced=manifest_replaced)


def _encoder(
    store: ObjectStore, models: ModelCache, plan: ExtractionPlan, options: ExtractionOptions, hooks: Hooks
) -> Encoder:
    if plan.request.initialisation == "random":
        encoder = models.get_random(plan.card.architecture, plan.request.init_seed)
        if plan.train:
            encoder = estimate_random(store, plan, encoder, options=options, hooks=hooks)
    else:
        encoder = models.get_by_card(plan.card)
    check_layers(encoder, plan.request.layers)
    return encoder
