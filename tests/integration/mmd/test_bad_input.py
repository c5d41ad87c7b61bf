"""What the MMD service refuses, with which code and field, and that it answers afterwards."""

import json

import numpy as np
import pytest
from safetensors.numpy import save
from tests.integration.mmd.conftest import (
    CHANNELS,
    LAYERS,
    ROWS,
    Code,
    failure,
    features,
    inline_request,
    request_of,
    store_set,
    stored,
    uploaded,
    works,
)

from vfmalign.client.messages.mmd import TestOptions
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.core.storage.keys import features_prefix
from vfmalign.v1 import common_pb2
from vfmalign.v1 import mmd_pb2 as pb


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


def _one_axis(message):
    message.x.inline.layers[1].features.CopyFrom(to_tensor(np.zeros(ROWS, np.float32)))


def _fewer_rows(message):
    message.x.inline.layers[1].features.CopyFrom(to_tensor(np.zeros((ROWS - 1, CHANNELS), np.float32)))


def _other_channels(message):
    message.y.inline.layers[1].features.CopyFrom(to_tensor(np.zeros((ROWS, CHANNELS - 1), np.float32)))


def _split_case(message):
    message.x.inline.case_ids.extend(["case-0", "case-0", *(f"case-{row}" for row in range(2, ROWS))])


def _long_label(message):
    message.x.inline.groups.extend(["g" * 129] * ROWS)


BAD_REQUESTS = [
    (_short, "BAD_TENSOR", "x.inline.layers[0].features.data"),
    (_nan, "BAD_TENSOR", "y.inline.layers[1].features"),
    (_one_axis, "BAD_TENSOR", "x.inline.layers[1].features"),
    (_fewer_rows, "BAD_TENSOR", "x.inline.layers[1].features"),
    (_other_channels, "BAD_TENSOR", "y.inline.layers[1].features"),
    (_split_case, "BAD_OPTION", "x.inline.case_ids"),
    (_no_type, "BAD_TENSOR", "x.inline.layers[0].features.data_type"),
    (_no_source, "BAD_OPTION", "x"),
    (_twice, "BAD_TENSOR", "x.inline.layers[1].layer"),
    (_long_label, "BAD_OPTION", "x.inline.groups[0]"),
    (lambda m: m.ClearField("pairing"), "BAD_OPTION", "pairing"),
    (lambda m: setattr(m, "pairing", 17), "BAD_OPTION", "pairing"),
    (lambda m: setattr(m, "estimator", pb.ESTIMATOR_UNBIASED_INDEPENDENT), "BAD_OPTION", "estimator"),
    (lambda m: setattr(m, "estimator", 9), "BAD_OPTION", "estimator"),
    (lambda m: setattr(m.kernel, "family", 9), "BAD_OPTION", "kernel.family"),
    (lambda m: m.ClearField("kernel"), "BAD_OPTION", "kernel"),
    (lambda m: setattr(m.kernel, "fixed_sigma", -1.0), "BAD_OPTION", "kernel.fixed_sigma"),
    (lambda m: setattr(m, "interval_level", 1.5), "BAD_OPTION", "interval_level"),
    (lambda m: setattr(m.test, "permutations", 100_001), "BAD_OPTION", "test.permutations"),
    (lambda m: m.layers.append("stages.9"), "BAD_OPTION", "layers"),
    (lambda m: m.measures.append(9), "BAD_OPTION", "measures[0]"),
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
    assert error.text.startswith("y.feature_set_id: the case of 2 of 16 rows")
    await works(service, sets)


async def test_unknown_and_changed_sets(service, store, sets):
    error = await failure(service.Compute(request_of(sets[1], y=stored("f" * 32))))
    assert (error.code, error.reason) == (Code.NOT_FOUND, "NOT_FOUND")
    assert "f" * 32 in error.text
    spoiled = store_set(store, features(9))
    part = next(key for key in store.list(features_prefix(spoiled)) if "part-" in key)
    store.put(part, store.get(part)[:-4] + b"\0\0\0\1")
    error = await failure(service.Compute(request_of(sets[1], y=stored(spoiled))))
    assert (error.code, error.reason) == (Code.DATA_LOSS, "DATA_LOSS")
    await works(service, sets)


async def test_a_constant_reference_is_refused(service, store, sets):
    constant = store_set(store, {name: np.ones((6, CHANNELS), np.float32) for name in LAYERS})
    error = await failure(service.Compute(request_of(sets[1], reference=stored(constant))))
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "BAD_OPTION")
    assert "no channel of layer" in error.text
    await works(service, sets)


async def test_what_does_not_fit_is_refused_with_what_would(service, store, sets):
    many = store_set(store, features(11, rows=5000))
    test = pb.TestOptions(permutations=int(TestOptions.get_bounds("permutations").max))
    message = request_of(sets[1], x=stored(many), y=stored(many), reference=None, test=test)
    message.kernel.fixed_sigma = 1.0
    error = await failure(service.Compute(message))
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert "request fewer permutations, choose the estimator `random_fourier`, or allow more memory" in error.text
    assert not error.retry, "the same request would not fit later either"
    await works(service, sets)


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
    error = await refused(uploaded(store, x, uri=store.uri("volumes/phantoms/case/t2w.nii.gz")))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "x.uploaded.object.uri")
    assert "features/, uploads/" in error.text
    assert not error.retry
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
    nan = features(1)
    nan["stages.3"][3, 2] = np.nan
    error = await refused(uploaded(store, nan))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "x.uploaded.object")
    assert "layer `stages.3`: row 3 (from 0) contains NaN or infinity" in error.text
    error = await refused(uploaded(store, x, groups=["g"]))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "x.uploaded.groups")
    big = uploaded(store, {"stages.2": np.zeros((100_000, 200), np.float16)})
    error = await refused(big)
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert "rows over all samples" in error.text
    await works(service, sets)


def _with_name(name):
    """A safetensors file of one tensor, whose name the library may refuse to write."""
    entry = {"dtype": "F32", "shape": [ROWS, 2], "data_offsets": [0, ROWS * 8]}
    header = json.dumps({name: entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(ROWS * 8)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (_with_name("a\ud800"), "printable name"),
        (_with_name("a\n\x1b[31m"), "printable name"),
        (_with_name(""), "printable name"),
        (_with_name("a" * 129), "1 to 128 characters"),
        (save({f"l{layer}": np.zeros((2, 1), np.float32) for layer in range(257)}), "257 tensors, more than 256"),
    ],
    ids=["surrogate", "control", "empty", "long", "many"],
)
async def test_layers_of_an_upload_have_the_bounds_of_inline_ones(service, store, sets, data, text):
    ref = store.put("uploads/layers", data)
    source = pb.FeatureSource(
        uploaded=pb.UploadedFeatures(object=common_pb2.ObjectRef(uri=store.uri(ref.key), sha256=ref.sha256))
    )
    message = pb.ComputeRequest(x=source, y=source, pairing=pb.PAIRING_INDEPENDENT, kernel=pb.Kernel(fixed_sigma=1.0))
    error = await failure(service.Compute(message))
    assert (error.code, error.reason, error.field) == (Code.INVALID_ARGUMENT, "BAD_TENSOR", "x.uploaded.object")
    assert text in error.text
    await works(service, sets)


async def test_an_empty_batch_is_refused(service):
    async def read():
        return [answer async for answer in service.ComputeBatch(pb.ComputeBatchRequest())]

    error = await failure(read())
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "requests")
    assert "send at least one pair" in error.text
