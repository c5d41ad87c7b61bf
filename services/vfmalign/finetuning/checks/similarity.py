"""Measures of the primary layer beside MMD²: CKA, Fréchet and energy distance, and LogME.

`MmdService` computes the first three; LogME is computed here from the features before and the classes of the training
cases. A measure that cannot be computed is absent with the reason, and the check continues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import Measure
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.client.samples import StoredFeatureSet
from vfmalign.core.domain.errors import Exhausted, InvalidInput
from vfmalign.core.domain.jobs import JobResult
from vfmalign.core.domain.record import Record
from vfmalign.core.storage.feature_sets import read_feature_set, read_manifest
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.analysis.logme import logme
from vfmalign.finetuning.checks.artifacts import Outputs, Stage, StageContext, make_stage
from vfmalign.finetuning.checks.clients import ComparisonRequest, FeatureSetRef, measure
from vfmalign.finetuning.checks.stages import Validated, comparison_with

MMD_SERVICE_MEASURES: tuple[Measure, ...] = ("cka", "frechet", "energy")
"""Measures that `MmdService` computes."""
MAX_CASES = 8192
"""Largest number of training cases for LogME: a running decomposition cannot be interrupted."""


class Measures(Record):
    """`checks/<id>/stages/measures.json`: measures of the primary layer, by name."""

    values: dict[str, Estimate] = Field(default_factory=dict)


def measures_stage() -> Stage:
    """Returns the stage that computes the measures, once the features after exist."""
    return make_stage("measures", ("features_after",), _make, Measures)


async def _make(context: StageContext, outputs: Outputs) -> Record:
    valid = outputs.get("validate", Validated)
    await context.set_status("measuring the primary layer beside MMD²")
    request = comparison_with(context, outputs, outputs.get("features_after", FeatureSetRef))
    request = request.model_copy(update={"layers": (valid.primary_layer,), "permutations": 0})
    # One call each: the service rejects a call as a whole, and one measure may be rejected alone.
    values = {name: await measure_or_absent(context.mmd, request, name) for name in MMD_SERVICE_MEASURES}
    labels = outputs.get("job_pretrained", JobResult).train_labels
    evidence = await asyncio.to_thread(compute_logme, context.store, request.reference, valid.primary_layer, labels)
    return Measures(values=values | {"logme": evidence})


async def measure_or_absent(mmd: AsyncMmdClient, request: ComparisonRequest, name: Measure) -> Estimate:
    """Computes a measure, or returns an absent one where the service rejects it for good.

    Raises:
        VfmalignError: a transient error, or the features themselves are wrong.
    """
    try:
        return await measure(mmd, request, name)
    except InvalidInput as error:
        return absent(error.message)
    except Exhausted as error:
        if error.retry_after_s is not None:
            raise
        return absent(error.message)


def compute_logme(
    store: ObjectStore, feature_set: StoredFeatureSet, layer: str, labels: Mapping[str, bool]
) -> Estimate:
    """Computes LogME of one layer of a stored feature set.

    Args:
        store: holds the feature set.
        feature_set: features before, of the training cases.
        layer: name of the layer.
        labels: class of every case of the set, by id; empty for tasks without classes of cases.
    """
    if not labels:
        return absent("the task gives cases no class, which LogME needs")
    if len(set(labels.values())) < 2:
        return absent("all training cases are of one class, so that there is nothing to tell apart")
    cases = read_manifest(store, feature_set.feature_set_id, feature_set.manifest_sha256).case_ids
    if len(cases) > MAX_CASES:
        return absent(f"LogME takes at most {MAX_CASES} training cases, got {len(cases)}")
    features = read_feature_set(store, feature_set.feature_set_id, feature_set.manifest_sha256).layers[layer]
    value = logme(features, np.array([labels[case] for case in cases]))
    return Estimate(value=value, absent_reason="LogME is a value alone, without an interval")
