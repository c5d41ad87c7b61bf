"""Measures beside MMD²: what is refused is absent with the reason, what passes is waited for."""

import numpy as np
import pytest

from vfmalign.client.messages.common import Estimate
from vfmalign.client.messages.mmd import ComputeResponse, LayerResult, MeasureResult, ShiftResult
from vfmalign.client.samples import StoredFeatureSet
from vfmalign.core.domain.errors import BadOption, CaseOrderMismatch, DataLoss, Exhausted, Unavailable
from vfmalign.core.domain.models import PreprocessingSpec
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest
from vfmalign.finetuning.analysis.logme import logme
from vfmalign.finetuning.checks.clients import ComparisonRequest
from vfmalign.finetuning.checks.similarity import MAX_CASES, compute_logme, measure_or_absent

BEFORE, AFTER, REFERENCE = (StoredFeatureSet(name, f"{name}-digest") for name in ("before", "after", "reference"))
REQUEST = ComparisonRequest(
    before=BEFORE, after=AFTER, reference=REFERENCE, layers=("stages.3",), primary_layer="stages.3",
    permutations=0, seed=1,
    interval_level=0.95, projection=False,
)  # fmt: skip
CASES = [f"case-{i}" for i in range(12)]


class Mmd:
    """Answers every measure, or raises."""

    def __init__(self, error=None):
        self.error = error

    async def compute(self, before, after, *, primary_layer, measures, **options):
        if self.error is not None:
            raise self.error
        assert (before, after, options["reference"], options["test"]) == (BEFORE, AFTER, REFERENCE, None)
        results = [MeasureResult(measure=name, value=Estimate(value=0.5)) for name in measures]
        shift = ShiftResult(mmd2=Estimate(value=0.1), sigma=1.0)
        layer = LayerResult(layer=primary_layer, channels=4, raw=shift, measures=tuple(results))
        return ComputeResponse(
            layers=(layer,), primary_layer=primary_layer, estimator="unbiased_paired", rows_x=2, rows_y=2, groups=2,
            precision="float64",
        )  # fmt: skip


def too_large():
    error = Exhausted("needs 9 GiB", reason="TOO_LARGE")
    error.retry_after_s = None
    return error


async def test_a_measure_that_is_refused_is_absent_with_the_reason():
    assert (await measure_or_absent(Mmd(), REQUEST, "cka")).value == 0.5
    refused = await measure_or_absent(Mmd(BadOption("takes at most 8192 rows", field="measures")), REQUEST, "cka")
    assert (refused.value, refused.absent_reason) == (None, "takes at most 8192 rows")
    assert (await measure_or_absent(Mmd(too_large()), REQUEST, "energy")).absent_reason == "needs 9 GiB"


@pytest.mark.parametrize("error", [Exhausted("the queue is full"), Unavailable("draining"), CaseOrderMismatch("row 3")])
async def test_what_passes_and_what_is_wrong_with_the_features_is_raised(error):
    with pytest.raises(type(error)):
        await measure_or_absent(Mmd(error), REQUEST, "frechet")


@pytest.fixture
def feature_set(store):
    """Features of twelve cases in two layers, stored in two parts."""
    request = FeatureRequest(
        model="m", model_sha256="a" * 64, dataset="d", dataset_digest="b" * 64, split="train",
        layers=("stages.2", "stages.3"),
        preprocessing=PreprocessingSpec(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_DHW=(16, 64, 64)),
    )  # fmt: skip
    writer = FeatureSetWriter(store, request, CASES, CASES)
    rng = np.random.default_rng(0)
    layers = {"stages.2": rng.normal(size=(12, 3)).astype("f4"), "stages.3": rng.normal(size=(12, 5)).astype("f4")}
    for start in (0, 6):
        writer.write_part(start, {name: rows[start : start + 6] for name, rows in layers.items()})
    committed = writer.commit({})
    return StoredFeatureSet(request.feature_set_id(), committed.sha256), layers


def test_logme_takes_the_layer_and_each_case_s_own_class(store, feature_set):
    name, layers = feature_set
    truth = {case: i % 3 == 0 for i, case in enumerate(CASES)}
    shuffled = dict(sorted(truth.items(), reverse=True))
    found = compute_logme(store, name, "stages.3", shuffled)
    assert found.value == logme(layers["stages.3"], np.array([truth[case] for case in CASES]))
    assert "without an interval" in found.absent_reason
    assert found.value != compute_logme(store, name, "stages.2", truth).value


def test_logme_of_a_replaced_set_is_an_error_rather_than_another_number(store, feature_set):
    name, _ = feature_set
    classes = {case: i % 3 == 0 for i, case in enumerate(CASES)}
    with pytest.raises(DataLoss) as caught:
        compute_logme(store, StoredFeatureSet(name.feature_set_id, "0" * 64), "stages.3", classes)
    assert (caught.value.kind, caught.value.owner) == ("feature_set", name.feature_set_id)


def test_logme_is_absent_where_there_is_nothing_to_tell_apart(store, feature_set, monkeypatch):
    name, _ = feature_set
    assert "no class" in compute_logme(store, name, "stages.3", {}).absent_reason
    assert "one class" in compute_logme(store, name, "stages.3", dict.fromkeys(CASES, True)).absent_reason
    assert MAX_CASES >= 1000
    monkeypatch.setattr("vfmalign.finetuning.checks.similarity.MAX_CASES", 11)
    found = compute_logme(store, name, "stages.3", {case: i % 2 == 0 for i, case in enumerate(CASES)})
    assert "at most 11 training cases, got 12" in found.absent_reason
