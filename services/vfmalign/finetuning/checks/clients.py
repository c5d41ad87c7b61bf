"""Calls that the stages of a check make to the feature service and the MMD service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self

from vfmalign.client.features import AsyncFeaturesClient
from vfmalign.client.messages.common import Estimate, Progress
from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.client.messages.mmd import ComputeOptions, ComputeResponse, Kernel, Measure
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.client.samples import StoredFeatureSet
from vfmalign.core.domain.errors import DataLoss, DigestMismatch, NotFound
from vfmalign.core.domain.record import Record
from vfmalign.core.storage.lost_objects import EXTRACT_AGAIN

KERNEL = Kernel(family="gaussian", bandwidth_rule="reference_median")
Report = Callable[[Progress], Awaitable[None]]


class FeatureSetRef(Record):
    """`checks/<id>/stages/features_*.json`: a stored feature set.

    Attributes:
        manifest_uri, manifest_sha256: URI and digest of the feature set's manifest.
        device, stage_seconds: device and times of the call that committed the feature set.
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
        """Returns a sample that refers to the version of the feature set that this stage committed."""
        return StoredFeatureSet(self.feature_set, self.manifest_sha256)


class ComparisonRequest(Record):
    """A comparison of two stored feature sets. A third feature set determines how both sets are standardised."""

    before: StoredFeatureSet
    after: StoredFeatureSet
    reference: StoredFeatureSet
    options: ComputeOptions

    def with_options(self, **changes: object) -> Self:
        """Returns a copy of the request in which some options have other values."""
        return self.model_copy(update={"options": self.options.model_copy(update=changes)})


async def extract(features: AsyncFeaturesClient, request: ExtractDatasetRequest, report: Report) -> FeatureSetRef:
    """Extracts the features of a split and reports the progress. A stored feature set is not computed again."""
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
    """Compares two feature sets. Returns the result and the device that computed it.

    Raises:
        DataLoss: a feature set is lost, or its digest differs from the one that the check recorded.
        VfmalignError: the call failed otherwise.
    """
    try:
        response = await mmd.compute(request.before, request.after, request.options, reference=request.reference)
    except (NotFound, DigestMismatch) as error:
        for one in (request.before, request.after, request.reference):
            if one.feature_set_id in error.subject:
                lost = {"kind": "feature_set", "owner": one.feature_set_id, "subject": error.subject}
                raise DataLoss(error.message, **lost, remedy=EXTRACT_AGAIN) from error
        raise
    return response.without_cost(), response.cost.device


async def measure(mmd: AsyncMmdClient, request: ComparisonRequest, name: Measure) -> Estimate:
    """Computes a measure of the primary layer other than MMD²."""
    response, _ = await compare(mmd, request.with_options(measures=(name,)))
    return response.layers[0].measures[0].value
