"""The MMD service as a process, on a real S3 server: numbers, refusals on the wire, and life after a refusal."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from safetensors.numpy import save

from vfmalign.core.artifacts import Preprocessing, features_prefix
from vfmalign.core.feature_sets import FeatureRequest, FeatureSetWriter
from vfmalign.core.tensors import to_tensor
from vfmalign.mmd.compare import compare
from vfmalign.mmd.results import Engine, Options
from vfmalign.mmd.samples import Sample
from vfmalign.v1 import common_pb2, mmd_pb2_grpc
from vfmalign.v1 import mmd_pb2 as pb

Code = grpc.StatusCode
LAYERS = ("stages.2", "stages.3")
ROWS, CHANNELS = 16, 6


@pytest.fixture(scope="module")
def address(store, store_environment, tmp_path_factory):
    """`python -m vfmalign.mmd` on free ports, with little memory."""
    ports_file = tmp_path_factory.mktemp("mmd") / "ports.json"
    environment = {
        **store_environment,
        "VFMALIGN_SERVER__GRPC_PORT": "0",
        "VFMALIGN_SERVER__METRICS_PORT": "0",
        "VFMALIGN_SERVER__HEALTH_PORT": "0",
        "VFMALIGN_SERVER__PORTS_FILE": str(ports_file),
        "VFMALIGN_SERVER__DRAIN_S": "5",
        "VFMALIGN_MMD__DEVICE": "cpu",
        "VFMALIGN_MMD__MEMORY_MIB": "128",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen([sys.executable, "-m", "vfmalign.mmd"], env=environment, stderr=subprocess.PIPE)
    try:
        for _ in range(600):
            if ports_file.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        assert process.poll() is None, process.communicate()[1].decode()
        yield f"127.0.0.1:{json.loads(ports_file.read_text())['grpc']}"
        assert process.poll() is None, "the server died during the tests"
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log.decode()


@pytest.fixture
async def service(address):
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_send_message_length", 2**24)]) as channel:
        yield mmd_pb2_grpc.MmdServiceStub(channel)


def store_set(store, layers, cases=None, groups=None):
    """Stores features as a committed set and returns its id."""
    rows = len(next(iter(layers.values())))
    request = FeatureRequest(
        model="profound_conv_micro",
        model_sha256="0" * 64,
        init_seed=uuid.uuid4().int % 2**62,
        dataset="phantoms",
        dataset_digest="1" * 64,
        split="test",
        layers=tuple(layers),
        preprocessing=Preprocessing(spacing_mm=None, shape_DHW=(8, 8, 8)),
    )
    cases = cases or [f"case-{row:05d}" for row in range(rows)]
    writer = FeatureSetWriter(store, request, cases, groups or [f"group-{case}" for case in cases])
    half = max(rows // 2, 1)
    for start in range(0, rows, half):
        writer.write_part(start, {name: array[start : start + half] for name, array in layers.items()})
    writer.commit({"torch": "2"})
    return request.feature_set_id()


def features(seed, shift=0.0, rows=ROWS):
    rng = np.random.default_rng(seed)
    return {name: (rng.normal(size=(rows, CHANNELS)) + shift).astype(np.float32) for name in LAYERS}


@pytest.fixture(scope="module")
def sets(store):
    """Before, after (shifted) and reference features: arrays and ids."""
    arrays = {"x": features(1), "reference": features(3, rows=20)}
    arrays["y"] = {name: array + np.float32(0.8) for name, array in arrays["x"].items()}
    train = [f"train-{row}" for row in range(20)]
    ids = {name: store_set(store, arrays[name]) for name in ("x", "y")}
    ids["reference"] = store_set(store, arrays["reference"], train)
    return arrays, ids


def stored(feature_set):
    return pb.FeatureSource(feature_set_id=feature_set)


def inline(layers, groups=(), case_ids=()):
    tensors = [pb.InlineLayer(layer=name, features=to_tensor(array)) for name, array in layers.items()]
    return pb.FeatureSource(inline=pb.InlineFeatures(layers=tensors, groups=groups, case_ids=case_ids))


def request_of(ids, **fields):
    fields = {
        **{name: stored(feature_set) for name, feature_set in ids.items()},
        "pairing": pb.PAIRING_PAIRED,
        "test": pb.TestOptions(relabellings=200, seed=7),
        **fields,
    }
    return pb.ComputeRequest(**fields)


def inline_request(x, y, **fields):
    fields = {"pairing": pb.PAIRING_PAIRED, "kernel": pb.Kernel(fixed_sigma=2.0), **fields}
    return pb.ComputeRequest(x=inline(x), y=inline(y), **fields)


async def failure(call):
    """What a call ends in, as it stands on the wire."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    trailers = dict(error.trailing_metadata())
    found = {"code": error.code(), "text": error.details(), "reason": "", "field": "", "retry": False}
    if "grpc-status-details-bin" in trailers:
        for detail in status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details:
            for cls in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                message = cls()
                if not detail.Unpack(message):
                    continue
                if cls is error_details_pb2.ErrorInfo:
                    assert message.domain == "vfmalign"
                    found["reason"] = message.reason
                elif cls is error_details_pb2.BadRequest:
                    found["field"] = message.field_violations[0].field
                else:
                    found["retry"] = True
    return SimpleNamespace(**found)


async def works(service, sets):
    """The service still answers."""
    response = await service.Compute(request_of(sets[1]))
    assert len(response.layers) == 2


async def test_stored_sets_give_the_library_numbers(service, sets):
    arrays, ids = sets
    response = await service.Compute(request_of(ids, primary_layer="stages.3", projection=True, interval_level=0.9))
    expected = compare(
        Sample("x", arrays["x"], tuple(f"group-case-{row:05d}" for row in range(ROWS))),
        Sample("y", arrays["y"]),
        Sample("reference", arrays["reference"]),
        Options("paired", primary_layer="stages.3", relabellings=200, seed=7, interval_level=0.9, projection=True),
        Engine(),
    )
    assert [one.layer for one in response.layers] == ["stages.3", "stages.2"]
    assert response.primary_layer == "stages.3"
    assert response.estimator == pb.ESTIMATOR_UNBIASED_PAIRED
    assert (response.rows_x, response.rows_y, response.groups) == (ROWS, ROWS, ROWS)
    assert response.precision == "float64"
    for got, want in zip(response.layers, expected.layers, strict=True):
        assert (got.channels, got.channels_left_out) == (CHANNELS, 0)
        for message, shift in ((got.raw, want.raw), (got.standardised, want.standardised)):
            assert message.mmd2.value == pytest.approx(shift.mmd2.value, abs=1e-13)
            assert message.mmd2.interval.lower == pytest.approx(shift.mmd2.interval.lower, abs=1e-12)
            assert message.mmd2.interval.level == 0.9
            assert message.mmd2.interval.method == "delete-one-group jackknife"
            assert not message.mmd2.interval.degenerate
            assert message.p_value.value == shift.p_value.value
            assert message.p_value_max_t.value == shift.p_value_max_t.value
            assert message.sigma == pytest.approx(shift.sigma, rel=1e-12)
            assert (message.relabellings, message.enumerated, message.digits_lost) == (200, False, False)
            assert message.error_bound == pytest.approx(shift.error_bound, rel=1e-6)
    points = np.array([[point.u, point.v] for point in response.projection.x])
    np.testing.assert_allclose(points, expected.projection.x_N2, atol=1e-10)
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
    response = await service.Compute(inline_request(x, y, test=pb.TestOptions(relabellings=100)))
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
    expected = compare(Sample("x", x), Sample("y", y), None, Options("independent", fixed_sigma=2.0), Engine())
    assert response.layers[0].raw.mmd2.value == pytest.approx(expected.layers[0].raw.mmd2.value, abs=1e-13)
    assert response.groups == 21


def _short(message):
    message.x.inline.layers[0].features.data = message.x.inline.layers[0].features.data[:-1]


def _nan(message):
    array = features(1)["stages.2"]
    array[3, 2] = np.nan
    message.y.inline.layers[1].features.CopyFrom(to_tensor_unchecked(array))


def to_tensor_unchecked(array):
    tensor = to_tensor(np.zeros_like(array))
    tensor.data = array.tobytes()
    return tensor


def _no_type(message):
    message.x.inline.layers[0].features.data_type = 0


def _no_source(message):
    message.x.ClearField("source")


def _twice(message):
    message.x.inline.layers[1].layer = message.x.inline.layers[0].layer


def _long_label(message):
    message.x.inline.groups.extend(["g" * 129] * ROWS)


BAD_REQUESTS = [
    (_short, "BAD_TENSOR", "x.inline.layers[0].features.data"),
    (_nan, "BAD_TENSOR", "y.inline.layers[1].features.data"),
    (_no_type, "BAD_TENSOR", "x.inline.layers[0].features.data_type"),
    (_no_source, "BAD_OPTION", "x"),
    (_twice, "BAD_TENSOR", "x.inline.layers[1].layer"),
    (_long_label, "BAD_TENSOR", "x.inline.groups[0]"),
    (lambda m: m.ClearField("pairing"), "BAD_OPTION", "pairing"),
    (lambda m: setattr(m, "pairing", 17), "BAD_OPTION", "pairing"),
    (lambda m: setattr(m, "estimator", pb.ESTIMATOR_UNBIASED_INDEPENDENT), "BAD_OPTION", "estimator"),
    (lambda m: setattr(m, "estimator", 9), "BAD_OPTION", "estimator"),
    (lambda m: setattr(m.kernel, "family", 9), "BAD_OPTION", "kernel.family"),
    (lambda m: m.ClearField("kernel"), "BAD_OPTION", "kernel"),
    (lambda m: setattr(m.kernel, "fixed_sigma", -1.0), "BAD_OPTION", "kernel.fixed_sigma"),
    (lambda m: setattr(m, "interval_level", 1.5), "BAD_OPTION", "interval_level"),
    (lambda m: setattr(m.test, "relabellings", 100_001), "BAD_OPTION", "test.relabellings"),
    (lambda m: m.layers.append("stages.9"), "BAD_OPTION", "layers"),
    (lambda m: m.measures.append(9), "BAD_OPTION", "measures"),
    (lambda m: setattr(m.x, "feature_set_id", "../datasets/x"), "BAD_OPTION", "x.feature_set_id"),
]


@pytest.mark.parametrize(("spoil", "reason", "field"), BAD_REQUESTS)
async def test_bad_requests_are_refused_by_field_and_the_next_one_works(service, sets, spoil, reason, field):
    message = inline_request(features(1), features(2))
    spoil(message)
    error = await failure(service.Compute(message))
    assert (error.code, error.reason, error.field) == (Code.INVALID_ARGUMENT, reason, field)
    assert not error.retry
    await works(service, sets)


async def test_independent_estimator_is_refused_for_stored_pairs(service, sets):
    error = await failure(service.Compute(request_of(sets[1], estimator=pb.ESTIMATOR_UNBIASED_INDEPENDENT)))
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "BAD_OPTION")
    assert "unbiased_paired" in error.text
    await works(service, sets)


async def test_swapped_cases_stop_the_comparison(service, store, sets):
    cases = [f"case-{row:05d}" for row in range(ROWS)]
    cases[4], cases[9] = cases[9], cases[4]
    swapped = store_set(store, sets[0]["y"], cases)
    error = await failure(service.Compute(request_of(sets[1], y=stored(swapped))))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "CASE_ORDER_MISMATCH")
    assert "2 of 16 rows" in error.text
    await works(service, sets)


async def test_unknown_and_changed_sets(service, store, sets):
    error = await failure(service.Compute(request_of(sets[1], y=stored("f" * 32))))
    assert (error.code, error.reason) == (Code.NOT_FOUND, "NOT_FOUND")
    assert "f" * 32 in error.text
    spoiled = store_set(store, features(9))
    part = next(key for key in store.list(features_prefix(spoiled)) if "part-" in key)
    store.put(part, store.get(part)[:-4] + b"\0\0\0\1")
    error = await failure(service.Compute(request_of(sets[1], y=stored(spoiled))))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "DIGEST_MISMATCH")
    await works(service, sets)


async def test_a_constant_reference_is_refused(service, store, sets):
    constant = store_set(store, {name: np.ones((6, CHANNELS), np.float32) for name in LAYERS})
    error = await failure(service.Compute(request_of(sets[1], reference=stored(constant))))
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "BAD_OPTION")
    assert "no channel of layer" in error.text
    await works(service, sets)


async def test_stored_sets_larger_than_the_memory_are_compared_part_by_part(service, store):
    rng = np.random.default_rng(11)
    x, y = ({name: rng.normal(size=(1000, 4000)).astype(np.float32) for name in LAYERS} for _ in range(2))
    asked = {"kernel": pb.Kernel(fixed_sigma=90.0), "test": pb.TestOptions(relabellings=50)}
    message = request_of({}, x=stored(store_set(store, x)), y=stored(store_set(store, y)), reference=None, **asked)
    response = await service.Compute(message)
    options = Options("paired", fixed_sigma=90.0, relabellings=50)
    expected = compare(Sample("x", x), Sample("y", y), None, options, Engine())
    for layer, wanted in zip(response.layers, expected.layers, strict=True):
        assert layer.raw.mmd2.value == pytest.approx(wanted.raw.mmd2.value, rel=1e-6)
        assert layer.raw.p_value.value == pytest.approx(wanted.raw.p_value.value)
    message.projection = True
    error = await failure(service.Compute(message))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "projection")
    message.projection = False
    message.measures.append(pb.MEASURE_ENERGY)
    error = await failure(service.Compute(message))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "measures")


async def test_what_does_not_fit_is_refused_with_what_would(service, store, sets):
    many = store_set(store, features(11, rows=5000))
    test = pb.TestOptions(relabellings=100_000)
    message = request_of(sets[1], x=stored(many), y=stored(many), reference=None, test=test)
    message.kernel.fixed_sigma = 1.0
    error = await failure(service.Compute(message))
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert "ask for fewer relabellings" in error.text
    assert not error.retry, "the same request would not fit later either"
    await works(service, sets)


def uploaded(store, layers, groups=(), case_ids=(), **changes):
    data = save(layers)
    ref = store.put(f"uploads/{uuid.uuid4().hex}.safetensors", data)
    fields = {"uri": store.uri(ref.key), "sha256": ref.sha256, **changes}
    features = pb.UploadedFeatures(object=common_pb2.ObjectRef(**fields), groups=groups, case_ids=case_ids)
    return pb.FeatureSource(uploaded=features)


async def test_uploaded_arrays_give_the_numbers_of_inline_ones(service, store):
    x, y = features(1), features(2)
    groups = [f"g{row // 2}" for row in range(ROWS)]
    test = pb.TestOptions(relabellings=50)
    sent = inline_request(x, y, test=test)
    sent.x.inline.groups.extend(groups)
    expected = await service.Compute(sent)
    stored_request = inline_request(x, y, test=test)
    stored_request.x.CopyFrom(uploaded(store, x, groups))
    stored_request.y.CopyFrom(uploaded(store, y))
    response = await service.Compute(stored_request)
    assert list(response.layers) == list(expected.layers)
    assert response.groups == ROWS // 2


async def test_what_is_wrong_with_an_uploaded_array_is_said(service, store, sets):
    x = features(1)

    async def refused(source):
        message = inline_request(x, features(2))
        message.x.CopyFrom(source)
        return await failure(service.Compute(message))

    error = await refused(uploaded(store, x, sha256="0" * 64))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "DIGEST_MISMATCH")
    error = await refused(uploaded(store, x, sha256="short"))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "x.uploaded.object.sha256")
    error = await refused(uploaded(store, x, uri="s3://other-bucket/x"))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "x.uploaded.object.uri")
    error = await refused(uploaded(store, x, uri=store.uri("uploads/none")))
    assert error.code == Code.NOT_FOUND
    error = await refused(uploaded(store, {"stages.2": np.zeros((ROWS, 2), np.int32)}))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "x.uploaded.object")
    error = await refused(uploaded(store, {"stages.2": np.zeros(ROWS, np.float32)}))
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "BAD_TENSOR")
    ref = store.put("uploads/text", b"no tensors here, only words that are longer than a header")
    text = pb.UploadedFeatures(object=common_pb2.ObjectRef(uri=store.uri(ref.key), sha256=ref.sha256))
    error = await refused(pb.FeatureSource(uploaded=text))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "x.uploaded.object")
    big = uploaded(store, {"stages.2": np.zeros((100_000, 200), np.float16)})
    error = await refused(big)
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert "rows over all samples would fit" in error.text
    await works(service, sets)


@pytest.mark.parametrize("family", [name for name, number in pb.KernelFamily.items() if number])
async def test_every_kernel_answers(service, family):
    kernel = pb.Kernel(family=family, fixed_sigma=0.0 if family.endswith(("POLYNOMIAL", "_LINEAR")) else 2.0)
    x, y = features(1), features(2, shift=1.0)
    response = await service.Compute(inline_request(x, y, kernel=kernel, test=pb.TestOptions(relabellings=50)))
    name = family.removeprefix("KERNEL_FAMILY_").lower()
    options = Options("paired", kernel=name, fixed_sigma=kernel.fixed_sigma or None, relabellings=50)
    expected = compare(Sample("x", x), Sample("y", y), None, options, Engine())
    assert response.layers[0].raw.mmd2.value == pytest.approx(expected.layers[0].raw.mmd2.value, rel=1e-12)
    assert response.backend == "torch"


@pytest.mark.parametrize("estimator", [name for name, number in pb.Estimator.items() if number])
async def test_every_estimator_answers(service, estimator):
    pairing = pb.PAIRING_PAIRED if estimator == "ESTIMATOR_UNBIASED_PAIRED" else pb.PAIRING_INDEPENDENT
    message = inline_request(
        features(1, rows=64), features(2, rows=64), pairing=pairing, estimator=estimator, frequencies=64
    )
    response = await service.Compute(message)
    assert response.estimator == pb.Estimator.Value(estimator)
    assert response.layers[0].raw.mmd2.HasField("value")
    assert (response.layers[0].raw.approximation_error > 0.0) == (estimator == "ESTIMATOR_RANDOM_FOURIER")


async def test_measures_beside_mmd_are_the_library_numbers(service, sets):
    arrays, ids = sets
    asked = [pb.MEASURE_FRECHET, pb.MEASURE_CKA, pb.MEASURE_ENERGY]
    response = await service.Compute(request_of(ids, measures=asked))
    given = (Sample(name, arrays[name]) for name in ("x", "y", "reference"))
    expected = compare(*given, Options("paired", measures=("frechet", "cka", "energy")), Engine())
    for got, want in zip(response.layers, expected.layers, strict=True):
        assert [one.measure for one in got.measures] == asked
        for message, value in zip(got.measures, want.measures.values(), strict=True):
            assert message.value.value == pytest.approx(value.value, rel=1e-9)
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
    test = pb.TestOptions(relabellings=99, aggregated=True)
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
    slow = service.Compute(inline_request(x, x, test=pb.TestOptions(relabellings=300)))
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
    slow = inline_request(x, x, pairing=pb.PAIRING_PAIRED, test=pb.TestOptions(relabellings=300))
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


async def test_an_empty_batch_is_refused(service):
    async def read():
        return [answer async for answer in service.ComputeBatch(pb.ComputeBatchRequest())]

    error = await failure(read())
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "requests")
