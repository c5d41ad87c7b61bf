"""Arrays of uploaded objects are views on what was read, and what is no safetensors file is told apart."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from vfmalign.mmd.service import feature_reader

ARRAYS = {
    "half": np.arange(12, dtype=np.float16).reshape(3, 4),
    "single": np.arange(10, dtype=np.float32).reshape(2, 5),
    "double": np.arange(3, dtype=np.float64),
    "none": np.zeros((0, 7), np.float32),
}


def file_of(header, content=b"\0" * 40):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return memoryview(len(text).to_bytes(8, "little") + text + content)


def one(**changes):
    return {"a": {"dtype": "F32", "shape": [2, 5], "data_offsets": [0, 40]} | changes}


def test_arrays_are_those_that_were_saved_and_lie_where_they_were_read():
    data = memoryview(bytearray(save(ARRAYS, {"by": "a client"})))
    found = feature_reader._arrays(data)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert not array.size or np.shares_memory(found[name], np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    "data",
    [
        memoryview(b""),
        memoryview(b"\xff" * 40),
        file_of(b"no json"),
        file_of(b"[" * 200_000),
        file_of([1, 2]),
        file_of({"a": 3}),
        file_of({"a": {}}),
        file_of(one(dtype="BF16")),
        file_of(one(shape=[2, 6])),
        file_of(one(shape=[-2, -5])),
        file_of(one(shape=[2.0, 5])),
        file_of(one(shape=["2", 5])),
        file_of(one(shape=5)),
        file_of(one(data_offsets=[4, 44])),
        file_of(one(data_offsets=[-40, 0])),
        file_of(one(data_offsets=[0])),
        file_of(one(data_offsets=None)),
        file_of(one(), b"\0" * 39),
    ],
)
def test_what_is_no_safetensors_file_is_told_apart(data):
    with pytest.raises(feature_reader._MALFORMED):
        feature_reader._arrays(data)
