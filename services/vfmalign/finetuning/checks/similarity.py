"""Measures of the primary layer in addition to MMD²: CKA, Fréchet and energy distance, LogME and H-score.

`MmdService` computes CKA and both distances, and also MMD² with half and twice the bandwidth. This module computes
LogME and H-score from the classes of the training cases and their features before fine-tuning. If a measure cannot be
computed, its value is absent and its reason is recorded. The check continues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping

import numpy as np
from pydantic import Field

from vfmalign.analysis.checks.records import FeatureShift
from vfmalign.analysis.checks.shift import FROZEN_SHIFT
from vfmalign.analysis.transferability.h_score import h_score
from vfmalign.analysis.transferability.logme import logme
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import Kernel, Measure, TestOptions
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.client.samples import StoredFeatureSet
from vfmalign.core.domain.errors import Exhausted, InvalidInput
from vfmalign.core.domain.jobs import JobResult
from vfmalign.core.domain.record import Record
from vfmalign.core.storage.feature_sets import read_feature_set, read_manifest
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.artifacts import Outputs, Stage, StageContext, make_stage
from vfmalign.finetuning.checks.clients import ComparisonRequest, FeatureSetRef, compare, measure
from vfmalign.finetuning.checks.stages import COMPARED, Validated, comparison_with
from vfmalign.finetuning.checks.trainings import MAIN

MMD_SERVICE_MEASURES: tuple[Measure, ...] = ("cka", "frechet", "energy")
"""Measures that `MmdService` computes."""
BANDWIDTH_FACTORS: Mapping[str, float] = {"0.5": 0.5, "2": 2.0}
"""Maps names to further multiples of the bandwidth for which MMD² is computed."""
MAX_CASES = 8192
"""Largest number of training cases for LogME and H-score: a running decomposition cannot be interrupted."""


class Measures(Record):
    """`checks/<id>/stages/measures.json`: measures of the primary layer.

    Attributes:
        values: measures other than MMD².
        shift_by_bandwidth: maps a factor of the bandwidth to MMD² on standardised features.
    """

    values: dict[str, Estimate] = Field(default_factory=dict)
    shift_by_bandwidth: dict[str, Estimate] = Field(default_factory=dict)


def measures_stage(spec: CheckSpec) -> Stage:
    """Returns the stage that computes the measures.

    The stage uses the bandwidth of MMD² and the classes named by the job. If the encoder is frozen, only the measures
    of the features before training have a value.
    """
    reads = ("validate", "features_reference") if spec.frozen else (*COMPARED, "features_after", "mmd")
    return make_stage("measures", (*reads, MAIN.stage), _make, Measures)


async def _make(context: StageContext, outputs: Outputs) -> Record:
    valid = outputs.get("validate", Validated)
    await context.set_status("measuring the primary layer beside MMD²")
    reference = outputs.get("features_reference", FeatureSetRef).to_sample()
    labels = outputs.get(MAIN.stage, JobResult).train_labels
    by_class = await asyncio.to_thread(compute_class_measures, context.store, reference, valid.primary_layer, labels)
    if context.check.request.frozen:
        return Measures(
            values=dict.fromkeys(MMD_SERVICE_MEASURES, FROZEN_SHIFT) | by_class,
            shift_by_bandwidth=dict.fromkeys(BANDWIDTH_FACTORS, FROZEN_SHIFT),
        )
    request = comparison_with(context, outputs, outputs.get("features_after", FeatureSetRef))
    request = request.with_options(layers=(valid.primary_layer,), test=TestOptions())
    # One call per measure: the service rejects a call as a whole, and may reject one measure only.
    values = {name: await value_or_absent(measure(context.mmd, request, name)) for name in MMD_SERVICE_MEASURES}
    standardised = outputs.get("mmd", FeatureShift).after.get_layer(valid.primary_layer).standardised
    sigma = None if standardised is None else standardised.sigma
    return Measures(
        values=values | by_class, shift_by_bandwidth=await compute_shift_by_bandwidth(context.mmd, request, sigma)
    )


async def compute_shift_by_bandwidth(
    mmd: AsyncMmdClient, request: ComparisonRequest, sigma: float | None
) -> dict[str, Estimate]:
    """Computes MMD² of the primary layer's standardised features for several multiples of a bandwidth.

    Args:
        mmd: client of the service.
        request: the comparison, restricted to the primary layer.
        sigma: bandwidth of the main comparison; None or 0 if the features could not be standardised.
    """
    if not sigma:
        return dict.fromkeys(BANDWIDTH_FACTORS, absent("the features could not be standardised"))

    async def compute(factor: float) -> Estimate:
        kernel = Kernel(bandwidth_rule="fixed", fixed_sigma=factor * sigma)
        response, _ = await compare(mmd, request.with_options(kernel=kernel))
        standardised = response.get_layer(request.options.primary_layer).standardised
        return absent("the features could not be standardised") if standardised is None else standardised.mmd2

    return {name: await value_or_absent(compute(factor)) for name, factor in BANDWIDTH_FACTORS.items()}


async def value_or_absent(computation: Awaitable[Estimate]) -> Estimate:
    """Returns the value of a computation. If the service rejects the call permanently, returns an absent value.

    Raises:
        VfmalignError: the error is transient, or the features themselves are invalid.
    """
    try:
        return await computation
    except InvalidInput as error:
        return absent(error.message)
    except Exhausted as error:
        if error.retry_after_s is not None:
            raise
        return absent(error.message)


def compute_class_measures(
    store: ObjectStore, feature_set: StoredFeatureSet, layer: str, labels: Mapping[str, int]
) -> dict[str, Estimate]:
    """Computes LogME and H-score of one layer of a stored feature set.

    Args:
        store: object store of the feature set.
        feature_set: features of the training cases before fine-tuning.
        layer: name of the layer.
        labels: maps the id of each training case to its class or grade; empty if the task has no classes of cases.
            Other cases of the set are left out.
    """
    names = {"logme": "LogME", "h_score": "the H-score"}
    if not labels:
        return {key: absent(f"the task gives cases no class, which {name} needs") for key, name in names.items()}
    if len(set(labels.values())) < 2:
        reason = "all training cases are of one class, so that there is nothing to tell apart"
        return dict.fromkeys(names, absent(reason))
    cases = read_manifest(store, feature_set.feature_set_id, feature_set.manifest_sha256).case_ids
    if len(cases) > MAX_CASES:
        reason = f"takes at most {MAX_CASES} training cases, got {len(cases)}"
        return {key: absent(f"{name} {reason}") for key, name in names.items()}
    features = read_feature_set(store, feature_set.feature_set_id, feature_set.manifest_sha256).layers[layer]
    features = features[[case in labels for case in cases]]
    class_N = np.array([labels[case] for case in cases if case in labels])
    values = {"logme": logme(features, class_N), "h_score": h_score(features, class_N)}
    return {
        key: Estimate(value=value, absent_reason=f"{names[key]} is a value alone, without an interval")
        for key, value in values.items()
    }
