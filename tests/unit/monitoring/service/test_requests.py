"""What is read of a request before its observations are recorded."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from safetensors.numpy import save

from vfmalign.core.domain.errors import BadOption, BadTensor, DataLoss, InvalidInput
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.monitoring.service import observations
from vfmalign.monitoring.service.observations import IncomingObservation, read_inline
from vfmalign.monitoring.service.windows import _stack
from vfmalign.v1 import common_pb2, monitoring_pb2

LAYERS = {"a": 4, "b": 2}
STUDY = {"observation_id": "o", "group": "patient-7"}


def observe(*layers, **study):
    return monitoring_pb2.Observation(study={**STUDY, **study}, layers=layers)


def stored(store, data, layer="a", key="features/study/a.safetensors"):
    """A reference to bytes that are stored first."""
    store.objects[key] = data
    ref = common_pb2.ObjectRef(uri=store.uri(key), sha256=StoredObject.of(key, data).sha256)
    return {"layer": layer, "stored": ref}


def inline(layer, *values, dtype=np.float32):
    return {"layer": layer, "tensor": to_tensor(np.array(values, dtype), allow_non_finite=True)}


def test_layers_are_read_inline_and_from_the_store(store):
    vector = np.arange(4, dtype=np.float32)
    (one,) = read_inline(store, [observe(inline("a", *vector), inline("c", 1))], LAYERS, "")
    (other,) = read_inline(store, [observe(stored(store, save({"a": vector})))], LAYERS, "")
    assert one.digest == other.digest, "however it is sent"
    assert set(one.layers) == {"a"}


def test_more_than_a_request_may_read_is_refused_before_the_first_object_is_read(store, monkeypatch):
    ref = stored(store, b"")
    many = [observe(ref)] * (observations.MAX_STORED_LAYERS + 1)
    with pytest.raises(BadOption, match="1,001 stored layers"):
        read_inline(store, many, LAYERS, "")
    with pytest.raises(BadOption, match="send fewer observations"):
        read_inline(store, [observe(ref)] * 200, {"a": 65_536}, "")
    unwatched = observe(*[{**ref, "layer": f"x{index}"} for index in range(256)], inline("a", 1, 2, 3, 4))
    assert len(read_inline(store, [unwatched] * 10, LAYERS, "")) == 10
    assert store.calls == []


def test_a_file_that_is_larger_than_its_vector_is_not_read(store):
    large = save({"a": np.zeros(4, np.float32), "z": np.zeros(2**20, np.float32)})

    class Sized(type(store)):
        def get(self, key, sha256=None, max_bytes=None):
            if len(self.objects[key]) > max_bytes:
                raise InvalidInput("too large", subject=key, reason="TOO_LARGE")
            return super().get(key, sha256, max_bytes)

    sized = Sized()
    with pytest.raises(InvalidInput, match="too large"):
        read_inline(sized, [observe(stored(sized, large))], LAYERS, "")


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 100, save({"b": np.zeros(4, np.float32)}), save({"a": np.zeros(4, np.int64)})],
    ids=["empty", "no file", "another layer", "integers"],
)
def test_other_files_are_refused_by_the_place_of_the_observation(store, data):
    with pytest.raises(InvalidInput) as caught:
        read_inline(store, [observe(inline("a", 1, 2, 3, 4)), observe(stored(store, data))], LAYERS, "")
    assert caught.value.field == "inline.observations[1].layers[0].stored"


def test_a_lost_file_names_the_place_and_not_the_patient(store):
    ref = stored(store, b"gone")
    store.objects.clear()
    with pytest.raises(DataLoss) as caught:
        read_inline(store, [observe(ref)], LAYERS, "")
    assert "patient-7" not in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "error", "text"),
    [
        ([], BadOption, "which raises the alarm"),
        ([{"layer": "a"}], BadOption, "no features"),
        ([inline("a", 1, 2, 3, 4)] * 2, BadOption, "twice"),
        ([inline("a", 1, 2, 3)], BadTensor, "expected a vector of 4 channels"),
        ([inline("a", 1, 2, 3, 4), inline("b", 1)], BadTensor, "expected a vector of 2 channels"),
        ([{"layer": "a", "tensor": {"data_type": 9, "shape": [4], "data": b""}}], BadTensor, "unknown element type"),
    ],
)
def test_what_does_not_fit_the_monitor_is_refused(store, layers, error, text):
    with pytest.raises(error, match=text) as caught:
        read_inline(store, [observe(*layers)], LAYERS, "")
    assert "patient-7" not in str(caught.value)


def test_times_that_are_none_are_refused(store):
    layers = [inline("a", 1, 2, 3, 4)]
    for seconds, nanos in ((2**62, 0), (-(2**62), 0), (253402300800, 0), (-62135596801, 0), (0, 2**31 - 1)):
        with pytest.raises(BadOption, match="the time is invalid"):
            read_inline(store, [observe(*layers, acquire_time=Timestamp(seconds=seconds, nanos=nanos))], LAYERS, "")
    with pytest.raises(BadOption, match="the time is empty"):  # what a Date of JavaScript becomes
        read_inline(store, [observe(*layers, acquire_time=Timestamp())], LAYERS, "")
    (one,) = read_inline(store, [observe(*layers, acquire_time=Timestamp(seconds=-62135596800))], LAYERS, "")
    assert one.acquired_at.year == 1


@pytest.mark.parametrize("value", ["", "\u202ea", "a\u200b"])
def test_a_stratum_is_printable(store, value):
    with pytest.raises(BadOption, match="not printable") as caught:
        read_inline(store, [observe(inline("a", 1, 2, 3, 4), strata={"scanner": value})], LAYERS, "scanner")
    assert caught.value.field == "inline.observations[0].study.strata"


def test_the_digest_covers_everything_that_was_observed():
    vector = np.arange(4, dtype=np.float32)

    def digest(patient="p", stratum="s", layers=None):
        return IncomingObservation.of("o", patient, stratum, None, layers or {"a": vector}).digest

    others = [
        digest("ps", ""), digest("", "ps"), digest(layers={"a": vector + 1}), digest(layers={"b": vector}),
        digest(layers={"a": vector, "b": vector}),
    ]  # fmt: skip
    assert len({digest(), *others}) == 6
    assert digest() == digest(layers={"a": vector.astype(np.float64)})


def test_a_number_beyond_float32_leaves_its_row_out_of_a_window_and_not_the_window():
    rows = _stack([np.full(3, 1e300), np.ones(3), np.array([1, np.nan, 1]), np.full(3, 2.0, np.float16)])
    np.testing.assert_array_equal(rows, [[1, 1, 1], [2, 2, 2]])
    assert _stack([np.full(3, -1e300)]).shape == (0, 1)


def test_the_digest_of_a_preprocessing_ignores_what_a_site_calls_its_modalities():
    first = Preprocessing(modalities=("t2w", "dwi"), shape_dhw=(8, 8, 8))
    same = Preprocessing(modalities=("t2w", "dwi"), shape_dhw=(8, 8, 8))
    assert first.content_digest() == same.content_digest()
    for other in (
        first.model_copy(update={"shape_dhw": (8, 8, 9)}),
        first.model_copy(update={"spacing_mm": (1.0, 1.0, 2.0)}),
        first.model_copy(update={"modalities": ("dwi", "t2w")}),
    ):
        assert other.content_digest() != first.content_digest()
