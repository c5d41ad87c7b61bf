"""The other services as this one sees them: records in, records out, protobuf in between.

Translates and calls, decides nothing. Failed calls are raised as errors of the tree (`core.client`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import grpc

from vfmalign.client.messages.common import Estimate, Interval, Progress
from vfmalign.core.domain.artifacts import Record, Split
from vfmalign.core.domain.errors import Internal
from vfmalign.finetuning.analysis.records import Comparison, LayerShift, Projection, Shift
from vfmalign.v1 import common_pb2, features_pb2, features_pb2_grpc, mmd_pb2, mmd_pb2_grpc

COMPUTE_TIMEOUT_S = 3600.0
_SPLITS = {
    "pretrain": common_pb2.SPLIT_PRETRAIN,
    "train": common_pb2.SPLIT_TRAIN,
    "val": common_pb2.SPLIT_VAL,
    "test": common_pb2.SPLIT_TEST,
}
PairedEstimator = Literal["unbiased_paired", "biased"]
_ASKED: dict[PairedEstimator, mmd_pb2.Estimator] = {
    "unbiased_paired": mmd_pb2.ESTIMATOR_UNBIASED_PAIRED,
    "biased": mmd_pb2.ESTIMATOR_BIASED,
}
_ESTIMATORS = {
    mmd_pb2.ESTIMATOR_BIASED: "biased",
    mmd_pb2.ESTIMATOR_UNBIASED_PAIRED: "unbiased_paired",
    mmd_pb2.ESTIMATOR_UNBIASED_INDEPENDENT: "unbiased_independent",
}
Measure = Literal["cka", "frechet", "energy"]
_MEASURES: dict[Measure, mmd_pb2.Measure] = {
    "cka": mmd_pb2.MEASURE_CKA,
    "frechet": mmd_pb2.MEASURE_FRECHET,
    "energy": mmd_pb2.MEASURE_ENERGY,
}
Report = Callable[[Progress], Awaitable[None]]


class Extraction(Record):
    """A feature set that is asked for; `random_seed` takes the model's architecture with random weights."""

    model: str
    model_sha256: str
    dataset: str
    dataset_digest: str
    split: Split
    layers: tuple[str, ...]
    input_transform: str
    random_seed: int | None = None


class FeatureSetRef(Record):
    """A stored feature set, as a check remembers it.

    Attributes:
        manifest_uri, manifest_sha256: its commit.
        device, stage_seconds: what the extraction cost the call that committed it.
    """

    feature_set: str
    manifest_uri: str
    manifest_sha256: str
    rows: int
    groups: int
    checkpoint_sha256: str
    device: str
    stage_seconds: dict[str, float]


class ComparisonRequest(Record):
    """A paired comparison of two stored feature sets; `permutations` of 0 makes no test."""

    before: str
    after: str
    reference: str
    layers: tuple[str, ...]
    primary_layer: str
    permutations: int
    seed: int
    interval_level: float
    projection: bool
    estimator: PairedEstimator = "unbiased_paired"


class FeatureClient:
    """`FeatureService`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = features_pb2_grpc.FeatureServiceStub(channel)

    async def extract(self, extraction: Extraction, report: Report) -> FeatureSetRef:
        """Extracts a split and calls `report` with the progress. A stored feature set is not computed again."""
        request = features_pb2.ExtractDatasetRequest(
            model_id=extraction.model,
            checkpoint_sha256=extraction.model_sha256,
            dataset_id=extraction.dataset,
            dataset_digest=extraction.dataset_digest,
            split=_SPLITS[extraction.split],
            layers=extraction.layers,
            pooling=features_pb2.POOLING_MEAN,
            input_transform=extraction.input_transform,
            initialisation=features_pb2.INITIALISATION_CHECKPOINT,
        )
        if extraction.random_seed is not None:
            request.initialisation = features_pb2.INITIALISATION_RANDOM
            request.initialisation_seed = extraction.random_seed
        async for event in self._stub.ExtractDataset(request):
            if event.WhichOneof("event") == "progress":
                await report(Progress.from_proto(event.progress))
            elif event.WhichOneof("event") == "feature_set":
                return _feature_set(event.feature_set, event.cost)
        raise Internal("the feature service ended its answer without a feature set", subject="FeatureService")


class MmdClient:
    """`MmdService`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = mmd_pb2_grpc.MmdServiceStub(channel)

    async def compare(self, comparison: ComparisonRequest) -> tuple[Comparison, str]:
        """Compares two feature sets; returns the result and the device that computed it."""
        response = await self._stub.Compute(_request(comparison), timeout=COMPUTE_TIMEOUT_S)
        return _comparison(response), response.cost.device

    async def measure(self, comparison: ComparisonRequest, measure: Measure) -> Estimate:
        """A measure of the primary layer beside MMD²."""
        request = _request(comparison)
        request.measures.append(_MEASURES[measure])
        response = await self._stub.Compute(request, timeout=COMPUTE_TIMEOUT_S)
        return _estimate(response.layers[0].measures[0].value)


def _request(comparison: ComparisonRequest) -> mmd_pb2.ComputeRequest:
    request = mmd_pb2.ComputeRequest(
        x=mmd_pb2.FeatureSource(feature_set_id=comparison.before),
        y=mmd_pb2.FeatureSource(feature_set_id=comparison.after),
        reference=mmd_pb2.FeatureSource(feature_set_id=comparison.reference),
        pairing=mmd_pb2.PAIRING_PAIRED,
        estimator=_ASKED[comparison.estimator],
        kernel=mmd_pb2.Kernel(
            family=mmd_pb2.KERNEL_FAMILY_GAUSSIAN, bandwidth_rule=mmd_pb2.BANDWIDTH_RULE_REFERENCE_MEDIAN
        ),
        layers=comparison.layers,
        primary_layer=comparison.primary_layer,
        interval_level=comparison.interval_level,
        projection=comparison.projection,
    )
    if comparison.permutations:
        request.test.permutations = comparison.permutations
        request.test.seed = comparison.seed
    return request


def _feature_set(feature_set: features_pb2.FeatureSet, cost: common_pb2.Cost) -> FeatureSetRef:
    return FeatureSetRef(
        feature_set=feature_set.feature_set_id,
        manifest_uri=feature_set.manifest.uri,
        manifest_sha256=feature_set.manifest.sha256,
        rows=feature_set.rows,
        groups=feature_set.groups,
        checkpoint_sha256=feature_set.checkpoint_sha256,
        device=cost.device,
        stage_seconds={timing.stage: timing.seconds for timing in cost.stages},
    )


def _comparison(response: mmd_pb2.ComputeResponse) -> Comparison:
    return Comparison(
        primary_layer=response.primary_layer,
        estimator=_ESTIMATORS.get(response.estimator, "unknown"),
        rows=response.rows_x,
        groups=response.groups,
        precision=response.precision,
        layers=tuple(_layer(layer) for layer in response.layers),
        projection=_projection(response.projection) if response.HasField("projection") else None,
    )


def _layer(layer: mmd_pb2.LayerResult) -> LayerShift:
    return LayerShift(
        layer=layer.layer,
        channels=layer.channels,
        channels_excluded=layer.channels_excluded,
        raw=_shift(layer.raw),
        standardised=_shift(layer.standardised) if layer.HasField("standardised") else None,
    )


def _shift(shift: mmd_pb2.ShiftResult) -> Shift:
    return Shift(
        mmd2=_estimate(shift.mmd2),
        sigma=shift.sigma,
        p_value=_estimate(shift.p_value),
        p_value_max_t=_estimate(shift.p_value_max_t),
        permutations=shift.permutations,
        enumerated=shift.enumerated,
        error_bound=shift.error_bound,
        below_error_bound=shift.below_error_bound,
    )


def _estimate(estimate: common_pb2.Estimate) -> Estimate:
    interval = None
    if estimate.HasField("interval"):
        interval = Interval(
            lower=estimate.interval.lower,
            upper=estimate.interval.upper,
            level=estimate.interval.level,
            method=estimate.interval.method,
            degenerate=estimate.interval.degenerate,
        )
    return Estimate(
        value=estimate.value if estimate.HasField("value") else None,
        interval=interval,
        absent_reason=estimate.absent_reason,
    )


def _projection(projection: mmd_pb2.Projection) -> Projection:
    return Projection(
        before=tuple((point.u, point.v) for point in projection.x),
        after=tuple((point.u, point.v) for point in projection.y),
        explained_variance=tuple(projection.explained_variance),
    )
