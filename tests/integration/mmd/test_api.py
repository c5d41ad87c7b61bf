"""The MMD service over a socket: its numbers are the library's, and a large call holds up no small one."""

import asyncio
import time

import numpy as np
import pytest
from tests.integration.mmd.conftest import (
    CHANNELS,
    LAYERS,
    ROWS,
    Code,
    failure,
    features,
    inline,
    inline_request,
    request_of,
    store_set,
    stored,
    uploaded,
    works,
)
from tests.mmd_options import make_options

from vfmalign.mmd.comparison import memory_budget
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.memory_budget import SampleShape
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.v1 import mmd_pb2 as pb


async def test_stored_sets_give_the_library_numbers(service, sets):
    arrays, ids = sets
    response = await service.Compute(request_of(ids, primary_layer="stages.3", projection=True, interval_level=0.9))
    expected = compare(
        Sample("x", arrays["x"], tuple(f"group-case-{row:05d}" for row in range(ROWS))),
        Sample("y", arrays["y"]),
        Sample("reference", arrays["reference"]),
        make_options("paired", primary_layer="stages.3", permutations=200, seed=7, interval_level=0.9, projection=True),
        ComputeConfig(),
    )
    assert [one.layer for one in response.layers] == ["stages.3", "stages.2"]
    assert response.primary_layer == "stages.3"
    assert response.estimator == pb.ESTIMATOR_UNBIASED_PAIRED
    assert (response.rows_x, response.rows_y, response.groups) == (ROWS, ROWS, ROWS)
    assert response.precision == "float64"
    for got, want in zip(response.layers, expected.layers, strict=True):
        assert (got.channels, got.channels_excluded, got.channels_at_floor) == (CHANNELS, 0, 0)
        top, expected_top = got.top_channels, want.top_channels
        assert top.count == expected_top.count == 1
        share = expected_top.displacement_share.value
        assert top.displacement_share.value == pytest.approx(share, rel=1e-9)
        assert top.shift_without.mmd2.value == pytest.approx(expected_top.shift_without.mmd2.value, abs=1e-13)
        assert top.caution == expected_top.caution
        assert (
            got.excluded_movement.displacement.absent_reason == want.excluded_movement.displacement.absent_reason != ""
        )
        for message, shift in ((got.raw, want.raw), (got.standardised, want.standardised)):
            assert message.mmd2.value == pytest.approx(shift.mmd2.value, abs=1e-13)
            assert message.mmd2.interval.lower == pytest.approx(shift.mmd2.interval.lower, abs=1e-12)
            assert message.mmd2.interval.level == 0.9
            assert message.mmd2.interval.method == "delete-one-group jackknife"
            assert not message.mmd2.interval.degenerate
            assert message.p_value.value == shift.p_value.value
            assert message.p_value_max_t.value == shift.p_value_max_t.value
            assert message.sigma == pytest.approx(shift.sigma, rel=1e-12)
            assert (message.permutations, message.enumerated, message.below_error_bound) == (200, False, False)
            assert message.error_bound == pytest.approx(shift.error_bound, rel=1e-6)
    points = np.array([[point.u, point.v] for point in response.projection.x])
    expected_points = np.array([[point.u, point.v] for point in expected.projection.x])
    np.testing.assert_allclose(points, expected_points, atol=1e-10)
    assert len(response.projection.y) == ROWS
    assert [timing.stage for timing in response.cost.stages] == ["read", "compare"]
    assert response.cost.device == "cpu"


async def test_identical_sets_have_not_moved(service, sets):
    response = await service.Compute(request_of(sets[1], y=stored(sets[1]["x"])))
    for layer in response.layers:
        for shift in (layer.raw, layer.standardised):
            assert abs(shift.mmd2.value) <= 1e-12
            assert shift.p_value.value == 1.0


async def test_absent_values_say_why(service):
    x, y = features(5, rows=5), features(6, rows=5)
    response = await service.Compute(inline_request(x, y, test=pb.TestOptions(permutations=100)))
    raw = response.layers[0].raw
    assert raw.mmd2.HasField("value")
    assert not raw.mmd2.HasField("interval")
    assert "5 groups" in raw.mmd2.absent_reason
    assert not raw.p_value.HasField("value")
    assert "5 groups" in raw.p_value.absent_reason
    assert not response.layers[0].HasField("standardised")


async def test_independent_inline_samples(service):
    x, y = features(5, rows=12), features(6, rows=9)
    response = await service.Compute(inline_request(x, y, pairing=pb.PAIRING_INDEPENDENT))
    assert response.estimator == pb.ESTIMATOR_UNBIASED_INDEPENDENT
    expected = compare(
        Sample("x", x), Sample("y", y), None, make_options("independent", fixed_sigma=2.0), ComputeConfig()
    )
    assert response.layers[0].raw.mmd2.value == pytest.approx(expected.layers[0].raw.mmd2.value, abs=1e-13)
    assert response.groups == 21


async def test_stored_sets_larger_than_the_memory_are_compared_layer_by_layer(service, store):
    rng = np.random.default_rng(11)
    x, y = ({name: rng.normal(size=(1000, 4000)).astype(np.float32) for name in LAYERS} for _ in range(2))
    asked = {"kernel": pb.Kernel(fixed_sigma=90.0), "test": pb.TestOptions(permutations=50)}
    message = request_of({}, x=stored(store_set(store, x)), y=stored(store_set(store, y)), reference=None, **asked)
    response = await service.Compute(message)
    options = make_options("paired", fixed_sigma=90.0, permutations=50)
    shape, engine = SampleShape(1000, dict.fromkeys(LAYERS, 4000), 1000, 4), ComputeConfig(memory_bytes=128 * 2**20)
    assert not memory_budget.fits([shape, shape], options, engine), "all layers of both fit together"
    expected = compare(Sample("x", x), Sample("y", y), None, options, ComputeConfig())
    for layer, wanted in zip(response.layers, expected.layers, strict=True):
        assert layer.raw.mmd2.value == pytest.approx(wanted.raw.mmd2.value, abs=wanted.raw.error_bound)
        assert wanted.raw.error_bound < 1e-7
        assert layer.raw.p_value.value == pytest.approx(wanted.raw.p_value.value)
    message.projection = True
    assert len((await service.Compute(message)).projection.x) == 1000
    message.projection = False
    message.measures.append(pb.MEASURE_ENERGY)
    error = await failure(service.Compute(message))
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_LARGE"), "it needs all rows in float64 as well"


async def test_uploaded_arrays_give_the_numbers_of_inline_ones(service, store):
    x, y = features(1), features(2)
    groups = [f"g{row // 2}" for row in range(ROWS)]
    test = pb.TestOptions(permutations=50)
    sent = inline_request(x, y, test=test)
    sent.x.inline.groups.extend(groups)
    expected = await service.Compute(sent)
    stored_request = inline_request(x, y, test=test)
    stored_request.x.CopyFrom(uploaded(store, x, groups))
    stored_request.y.CopyFrom(uploaded(store, y))
    response = await service.Compute(stored_request)
    assert list(response.layers) == list(expected.layers)
    assert response.groups == ROWS // 2


@pytest.mark.parametrize("family", [name for name, number in pb.KernelFamily.items() if number])
async def test_every_kernel_answers(service, family):
    kernel = pb.Kernel(family=family, fixed_sigma=0.0 if family.endswith(("POLYNOMIAL", "_LINEAR")) else 2.0)
    x, y = features(1), features(2, shift=1.0)
    response = await service.Compute(inline_request(x, y, kernel=kernel, test=pb.TestOptions(permutations=50)))
    name = family.removeprefix("KERNEL_FAMILY_").lower()
    options = make_options("paired", kernel=name, fixed_sigma=kernel.fixed_sigma, permutations=50)
    expected = compare(Sample("x", x), Sample("y", y), None, options, ComputeConfig())
    assert response.layers[0].raw.mmd2.value == pytest.approx(expected.layers[0].raw.mmd2.value, rel=1e-12)
    assert response.backend == "torch"


@pytest.mark.parametrize("estimator", [name for name, number in pb.Estimator.items() if number])
async def test_every_estimator_answers(service, estimator):
    pairing = pb.PAIRING_PAIRED if estimator == "ESTIMATOR_UNBIASED_PAIRED" else pb.PAIRING_INDEPENDENT
    frequencies = 256 if estimator == "ESTIMATOR_RANDOM_FOURIER" else 0
    x, y = features(1, rows=64), features(2, rows=64)
    message = inline_request(x, y, pairing=pairing, estimator=estimator, frequencies=frequencies)
    response = await service.Compute(message)
    assert response.estimator == pb.Estimator.Value(estimator)
    assert response.layers[0].raw.mmd2.HasField("value")
    assert (response.layers[0].raw.approximation_error > 0.0) == (estimator == "ESTIMATOR_RANDOM_FOURIER")


async def test_measures_beside_mmd_are_the_library_numbers(service, sets):
    arrays, ids = sets
    asked = [pb.MEASURE_FRECHET, pb.MEASURE_CKA, pb.MEASURE_ENERGY]
    response = await service.Compute(request_of(ids, measures=asked))
    given = (Sample(name, arrays[name]) for name in ("x", "y", "reference"))
    expected = compare(*given, make_options("paired", measures=("frechet", "cka", "energy")), ComputeConfig())
    for got, want in zip(response.layers, expected.layers, strict=True):
        assert [one.measure for one in got.measures] == asked
        for message, value in zip(got.measures, want.measures, strict=True):
            assert message.value.value == pytest.approx(value.value.value, rel=1e-9)
            assert "without an interval" in message.value.absent_reason
            assert message.dimension == CHANNELS
    few = inline_request(features(1, rows=3), features(2, rows=3), measures=[pb.MEASURE_CKA])
    absent = (await service.Compute(few)).layers[0].measures[0]
    assert not absent.value.HasField("value")
    assert "at least 4 rows" in absent.value.absent_reason
    wide = {"a": np.zeros((8193, 1), np.float32)}
    error = await failure(service.Compute(inline_request(wide, wide, measures=[pb.MEASURE_ENERGY])))
    assert (error.code, error.reason, error.field) == (Code.INVALID_ARGUMENT, "BAD_OPTION", "measures")
    assert "8192 rows" in error.text


@pytest.mark.parametrize(("precision", "least"), [("PRECISION_FAST", 0), ("PRECISION_HIGH", 1), ("PRECISION_EXACT", 2)])
async def test_a_precision_is_a_floor(service, precision, least):
    response = await service.Compute(inline_request(features(1), features(2), precision=precision))
    precisions = ["bfloat16", "float32", "float64"]
    assert precisions.index(response.precision) >= least
    assert precisions.index(response.layers[0].raw.precision) >= least


async def test_an_aggregated_test_and_a_wild_bootstrap_answer(service):
    x, y = features(1, rows=24), features(2, shift=1.5, rows=24)
    kernel = pb.Kernel(bandwidth_rule=pb.BANDWIDTH_RULE_POOLED_MEDIAN)
    test = pb.TestOptions(permutations=99, aggregated=True)
    asked = inline_request(x, y, pairing=pb.PAIRING_INDEPENDENT, kernel=kernel, test=test)
    raw = (await service.Compute(asked)).layers[0].raw
    assert raw.aggregated_p_value.value == pytest.approx(0.01)
    asked.test.aggregated = False
    asked.test.method = pb.TEST_METHOD_WILD_BOOTSTRAP
    raw = (await service.Compute(asked)).layers[0].raw
    assert raw.p_value.value == pytest.approx(0.01)
    assert raw.aggregated_p_value.absent_reason
    assert not raw.aggregated_p_value.HasField("value")


async def test_small_requests_are_answered_while_a_large_one_runs(service, sets):
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(12_000, 64)).astype(np.float32)}
    slow = service.Compute(inline_request(x, x, test=pb.TestOptions(permutations=300)))
    await asyncio.sleep(0.5)
    answers = [await service.Compute(request_of(sets[1])) for _ in range(3)]
    assert not slow.done(), "three requests were answered before the one that came first"
    assert answers[0].layers[0] == answers[2].layers[0]
    bad = await failure(service.Compute(inline_request(features(1), features(2, rows=ROWS + 1))))
    assert bad.reason == "BAD_TENSOR"
    assert not slow.done(), "a small request that fails is its caller's alone"
    slow.cancel()
    await works(service, sets)


async def test_a_cancelled_call_frees_the_queue(service, sets):
    rows = 12_000
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(rows, 64)).astype(np.float32)}
    slow = inline_request(x, x, pairing=pb.PAIRING_PAIRED, test=pb.TestOptions(permutations=300))
    call = service.Compute(slow)
    await asyncio.sleep(1.0)
    assert not call.done()
    call.cancel()
    started = time.monotonic()
    await works(service, sets)
    short = await failure(service.Compute(slow, timeout=1.0))
    assert short.code == Code.DEADLINE_EXCEEDED
    await works(service, sets)
    assert time.monotonic() - started < 60


async def test_batch_goes_on_past_a_bad_pair(service, sets):
    good, bad = request_of(sets[1]), request_of(sets[1], x=stored("e" * 32))
    batch = pb.ComputeBatchRequest(requests=[good, bad, good])
    answers = [answer async for answer in service.ComputeBatch(batch)]
    assert [answer.index for answer in answers] == [0, 1, 2]
    assert [answer.WhichOneof("outcome") for answer in answers] == ["response", "error", "response"]
    assert answers[1].error.code == Code.NOT_FOUND.value[0]
    assert answers[1].error.reason == "NOT_FOUND"
    assert "e" * 32 in answers[1].error.message
    assert answers[0].response.layers[0].raw == answers[2].response.layers[0].raw
    assert answers[0].response.layers[0].standardised == answers[2].response.layers[0].standardised


async def test_a_field_out_of_its_bounds_fails_the_whole_batch(service, sets):
    batch = pb.ComputeBatchRequest(requests=[request_of(sets[1]), request_of(sets[1], interval_level=1.5)])

    async def read():
        return [answer async for answer in service.ComputeBatch(batch)]

    error = await failure(read())
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "requests[1].interval_level")


async def test_x_as_its_own_reference_brings_a_caution(service, sets):
    assert (await service.Compute(request_of(sets[1]))).reference_caution == ""
    response = await service.Compute(request_of(sets[1], reference=stored(sets[1]["x"])))
    assert response.reference_caution.startswith(
        "The reference shares cases with the samples (16 with `x`, 16 with `y`)"
    )
    x, y = (inline(features(seed), case_ids=[f"{seed}-{row}" for row in range(ROWS)]) for seed in (1, 2))
    request = pb.ComputeRequest(x=x, y=y, reference=x, pairing=pb.PAIRING_INDEPENDENT)
    assert "(16 with `x`, 0 with `y`)" in (await service.Compute(request)).reference_caution


async def test_one_row_each_has_no_value_but_a_reason(service):
    request = inline_request(features(1, rows=1), features(2, rows=1), pairing=pb.PAIRING_INDEPENDENT)
    value = (await service.Compute(request)).layers[0].raw.mmd2
    assert not value.HasField("value")
    assert "at least 2 rows" in value.absent_reason
