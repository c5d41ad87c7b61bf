"""What a check measures of its primary layer beside MMD²: CKA, Fréchet and energy distance, and LogME.

Knows where each comes from: the first three from `MmdService`, LogME from the features before and the classes of the
training cases. A measure that cannot be had is absent with the reason and fails no check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.core.domain.artifacts import JobResult, Record
from vfmalign.core.domain.errors import Exhausted, InvalidInput
from vfmalign.core.storage.feature_sets import read_feature_set, read_manifest
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.analysis.logme import logme
from vfmalign.finetuning.checks.clients import ComparisonRequest, FeatureSetRef, Measure, MmdClient
from vfmalign.finetuning.checks.stages import Outputs, Stage, StageContext, Validated, comparison_with, make_stage

ASKED: tuple[Measure, ...] = ("cka", "frechet", "energy")
"""Those that `MmdService` takes."""
MAX_CASES = 8192
"""Training cases of LogME; more are not taken, for nothing can stop a decomposition while it lasts."""


class Measures(Record):
    """`checks/<id>/stages/measures.json`: of the primary layer, by name."""

    values: dict[str, Estimate] = Field(default_factory=dict)


def measures_stage() -> Stage:
    """The stage that takes them, once there are features after."""
    return make_stage("measures", ("features_after",), _make, Measures)


async def _make(context: StageContext, outputs: Outputs) -> Record:
    valid = outputs.get("validate", Validated)
    await context.set_status("measuring the primary layer beside MMD²")
    request = comparison_with(context, outputs, outputs.get("features_after", FeatureSetRef).feature_set)
    request = request.model_copy(update={"layers": (valid.primary_layer,), "permutations": 0})
    # One by one: what refuses one of them says nothing of the others.
    values = {name: await ask(context.mmd, request, name) for name in ASKED}
    labels = outputs.get("job_pretrained", JobResult).train_labels
    evidence = await asyncio.to_thread(evidence_of, context.store, request.reference, valid.primary_layer, labels)
    return Measures(values=values | {"logme": evidence})


async def ask(mmd: MmdClient, request: ComparisonRequest, measure: Measure) -> Estimate:
    """A measure of `MmdService`, absent where it is refused for good.

    Raises:
        VfmalignError: anything that passes, and what is wrong with the features themselves.
    """
    try:
        return await mmd.measure(request, measure)
    except InvalidInput as error:
        return absent(error.message)
    except Exhausted as error:
        if error.retry_after_s is not None:
            raise
        return absent(error.message)


def evidence_of(store: ObjectStore, feature_set: str, layer: str, labels: Mapping[str, bool]) -> Estimate:
    """LogME of one layer of a stored feature set.

    Args:
        store: where the set is.
        feature_set: features before, of the training cases.
        layer: the one to look at.
        labels: class of every case of the set, by id; empty for tasks without classes of cases.
    """
    if not labels:
        return absent("the task gives cases no class, which LogME needs")
    if len(set(labels.values())) < 2:
        return absent("all training cases are of one class, so that there is nothing to tell apart")
    cases = read_manifest(store, feature_set).case_ids
    if len(cases) > MAX_CASES:
        return absent(f"LogME takes at most {MAX_CASES} training cases, got {len(cases)}")
    features = read_feature_set(store, feature_set).layers[layer]
    value = logme(features, np.array([labels[case] for case in cases]))
    return Estimate(value=value, absent_reason="LogME is a value alone, without an interval")
