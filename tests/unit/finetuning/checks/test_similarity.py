"""Measures beside MMD²: what is refused is absent with the reason, what passes is waited for."""

import numpy as np
import pytest

from vfmalign.analysis.transferability.h_score import h_score
from vfmalign.analysis.transferability.logme import logme
from vfmalign.client.messages.common import Estimate
from vfmalign.client.messages.mmd import ComputeOptions, ComputeResponse, LayerResult, MeasureResult, ShiftResult
from vfmalign.client.samples import StoredFeatureSet
from vfmalign.core.domain.errors import BadOption, CaseOrderMismatch, DataLoss, Exhausted, Unavailable
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest
from vfmalign.finetuning.checks.clients import KERNEL, ComparisonRequest, measure
from vfmalign.finetuning.checks.similarity import (
    MAX_CASES,
    compute_class_measures,
    compute_shift_by_bandwidth,
    value_or_absent,
)

BEFORE, AFTER, REFERENCE = (StoredFeatureSet(name, f"{name}-digest") for name in ("before", "after", "reference"))
REQUEST = ComparisonRequest(
    before=BEFORE,
    after=AFTER,
    reference=REFERENCE,
    options=ComputeOptions(pairing="paired", kernel=KERNEL, layers=("stages.3",), primary_layer="stages.3"),
)
CASES = [f"case-{i}" for i in range(12)]


class Mmd:
    """Answers every measure, and MMD² with a fixed bandwidth by that bandwidth, or raises."""

    def __init__(self, error=None):
        self.error = error
        self.kernels = []

    async def compute(self, before, after, options, *, reference):
        if self.error is not None:
            raise self.error
        assert (before, after, reference, options.test.permutations) == (BEFORE, AFTER, REFERENCE, 0)
        results = [MeasureResult(measure=name, value=Estimate(value=0.5)) for name in options.measures]
        self.kernels.append(options.kernel)
        sigma = options.kernel.fixed_sigma or 1.0
        raw, standardised = (ShiftResult(mmd2=Estimate(value=scale * sigma), sigma=sigma) for scale in (0.1, 0.25))
        layer = LayerResult(
            layer=options.primary_layer, channels=4, raw=raw, standardised=standardised, measures=tuple(results)
        )
        return ComputeResponse(
            layers=(layer,), primary_layer=layer.layer, estimator="unbiased_paired", rows_x=2, rows_y=2, groups=2,
            precision="float64",
        )  # fmt: skip


def too_large():
    error = Exhausted("needs 9 GiB", reason="TOO_LARGE")
    error.retry_after_s = None
    return error


async def test_a_measure_that_is_refused_is_absent_with_the_reason():
    assert (await value_or_absent(measure(Mmd(), REQUEST, "cka"))).value == 0.5
    refused = await value_or_absent(
        measure(Mmd(BadOption("takes at most 8192 rows", field="measures")), REQUEST, "cka")
    )
    assert (refused.value, refused.absent_reason) == (None, "takes at most 8192 rows")
    assert (await value_or_absent(measure(Mmd(too_large()), REQUEST, "energy"))).absent_reason == "needs 9 GiB"


@pytest.mark.parametrize("error", [Exhausted("the queue is full"), Unavailable("draining"), CaseOrderMismatch("row 3")])
async def test_what_passes_and_what_is_wrong_with_the_features_is_raised(error):
    with pytest.raises(type(error)):
        await value_or_absent(measure(Mmd(error), REQUEST, "frechet"))


async def test_the_shift_is_computed_with_half_and_twice_the_bandwidth():
    mmd = Mmd()
    shifts = await compute_shift_by_bandwidth(mmd, REQUEST, 4.0)
    assert {name: shift.value for name, shift in shifts.items()} == {"0.5": 0.5, "2": 2.0}
    assert [(one.bandwidth_rule, one.fixed_sigma) for one in mmd.kernels] == [("fixed", 2.0), ("fixed", 8.0)]
    await value_or_absent(measure(mmd, REQUEST, "cka"))
    assert (mmd.kernels[-1].bandwidth_rule, mmd.kernels[-1].fixed_sigma) == ("reference_median", 0.0)


async def test_a_shift_without_a_bandwidth_is_absent_with_the_reason():
    for sigma in (None, 0.0):
        shifts = await compute_shift_by_bandwidth(Mmd(), REQUEST, sigma)
        assert {one.absent_reason for one in shifts.values()} == {"the features could not be standardised"}
    shifts = await compute_shift_by_bandwidth(Mmd(too_large()), REQUEST, 1.0)
    assert {one.absent_reason for one in shifts.values()} == {"needs 9 GiB"}


@pytest.fixture
def feature_set(store):
    """Features of twelve cases in two layers, stored in two parts."""
    request = FeatureRequest(
        model_id="m", model_sha256="a" * 64, dataset_id="d", dataset_digest="b" * 64, split="train",
        layers=("stages.2", "stages.3"),
        preprocessing=Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_dhw=(16, 64, 64)),
    )  # fmt: skip
    writer = FeatureSetWriter(store, request, CASES, CASES)
    rng = np.random.default_rng(0)
    layers = {"stages.2": rng.normal(size=(12, 3)).astype("f4"), "stages.3": rng.normal(size=(12, 5)).astype("f4")}
    for start in (0, 6):
        writer.write_part(start, {name: rows[start : start + 6] for name, rows in layers.items()})
    committed = writer.commit({})
    return StoredFeatureSet(request.feature_set_id(), committed.sha256), layers


def test_class_measures_take_the_layer_and_each_case_s_own_class(store, feature_set):
    name, layers = feature_set
    truth = {case: i % 3 == 0 for i, case in enumerate(CASES)}
    shuffled = dict(sorted(truth.items(), reverse=True))
    found = compute_class_measures(store, name, "stages.3", shuffled)
    class_N = np.array([truth[case] for case in CASES])
    assert found["logme"].value == logme(layers["stages.3"], class_N)
    assert found["h_score"].value == h_score(layers["stages.3"], class_N)
    assert all("without an interval" in one.absent_reason for one in found.values())
    other = compute_class_measures(store, name, "stages.2", truth)
    assert all(found[key].value != other[key].value for key in found)


def test_class_measures_leave_out_cases_that_no_network_was_trained_on(store, feature_set):
    name, layers = feature_set
    subset = {case: i % 3 == 0 for i, case in enumerate(CASES) if i < 8}
    found = compute_class_measures(store, name, "stages.3", subset)
    assert found["logme"].value == logme(layers["stages.3"][:8], np.array(list(subset.values())))


def test_class_measures_of_a_replaced_set_are_an_error_rather_than_another_number(store, feature_set):
    name, _ = feature_set
    classes = {case: i % 3 == 0 for i, case in enumerate(CASES)}
    with pytest.raises(DataLoss) as caught:
        compute_class_measures(store, StoredFeatureSet(name.feature_set_id, "0" * 64), "stages.3", classes)
    assert (caught.value.kind, caught.value.owner) == ("feature_set", name.feature_set_id)


def test_class_measures_are_absent_where_there_is_nothing_to_tell_apart(store, feature_set, monkeypatch):
    name, _ = feature_set
    absent = compute_class_measures(store, name, "stages.3", {})
    assert absent["logme"].absent_reason == "the task gives cases no class, which LogME needs"
    assert absent["h_score"].absent_reason == "the task gives cases no class, which the H-score needs"
    one_class = compute_class_measures(store, name, "stages.3", dict.fromkeys(CASES, True))
    assert all("one class" in one.absent_reason for one in one_class.values())
    assert MAX_CASES >= 1000
    monkeypatch.setattr("vfmalign.finetuning.checks.similarity.MAX_CASES", 11)
    found = compute_class_measures(store, name, "stages.3", {case: i % 2 == 0 for i, case in enumerate(CASES)})
    assert all("at most 11 training cases, got 12" in one.absent_reason for one in found.values())
