"""Calls of a check's stages to the feature and MMD services."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from vfmalign.client.features import AsyncFeaturesClient
from vfmalign.client.messages.common import Estimate, Progress
from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.client.messages.mmd import ComputeResponse, Estimator, Kernel, Measure, TestOptions
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.client.samples import StoredFeatureSet
from vfmalign.core.domain.record import Record

KERNEL = Kernel(family="gaussian", bandwidth_rule="reference_median")
Report = Callable[[Progress], Awaitable[None]]


class FeatureSetRef(Record):
    """`checks/<id>/stages/features_*.json`: a stored feature set.

    Attributes:
        manifest_uri, manifest_sha256: its commit.
        device, stage_seconds: cost of the call that committed it.
    """

    feature_set: str
    manifest_uri: str
    manifest_sha256: str
    rows: int
    groups: int
    checkpoint_sha256: str
    device: str
    stage_seconds: dict[str, float]

    def to_sample(self) -> StoredFeatureSet:
        """Returns the set in the version that this stage has committed."""
        return StoredFeatureSet(self.feature_set, self.manifest_sha256)


class ComparisonRequest(Record):
    """A paired comparison of two stored feature sets.

    Attributes:
        permutations: 0 requests no test.
        sigma: bandwidth; None takes the median distance of the reference.
    """

    before: StoredFeatureSet
    after: StoredFeatureSet
    reference: StoredFeatureSet
    layers: tuple[str, ...]
    primary_layer: str
    permutations: int
    seed: int
    interval_level: float
    projection: bool
    estimator: Estimator = "unbiased_paired"
    sigma: float | None = None


async def extract(features: AsyncFeaturesClient, request: ExtractDatasetRequest, report: Report) -> FeatureSetRef:
    """Extracts a split and reports the progress. A stored feature set is not computed again."""
    result = await features.extract_dataset(request, report)
    feature_set, cost = result.feature_set, result.cost
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


async def compare(mmd: AsyncMmdClient, request: ComparisonRequest) -> tuple[ComputeResponse, str]:
    """Compares two feature sets; returns the result and the device that computed it."""
    response = await _compute(mmd, request)
    return response.without_cost(), response.cost.device


async def measure(mmd: AsyncMmdClient, request: ComparisonRequest, name: Measure) -> Estimate:
    """Computes a measure of the primary layer beside MMD²."""
    response = await _compute(mmd, request, name)
    return response.layers[0].measures[0].value


async def _compute(mmd: AsyncMmdClient, request: ComparisonRequest, *measures: Measure) -> ComputeResponse:
    kernel = KERNEL
    if request.sigma is not None:
        kernel = KERNEL.model_copy(update={"bandwidth_rule": "fixed", "fixed_sigma": request.sigma})
    test = TestOptions(permutations=request.permutations, seed=request.seed) if request.permutations else None
    return await mmd.compute(
        request.before,
        request.after,
        reference=request.reference,
        pairing="paired",
        estimator=request.estimator,
        kernel=kernel,
        layers=request.layers,
        primary_layer=request.primary_layer,
        interval_level=request.interval_level,
        projection=request.projection,
        test=test,
        measures=measures,
    )
