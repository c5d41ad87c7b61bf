"""Tensors on the wire, and all the ways in which a client can get them wrong."""

from __future__ import annotations

import numpy as np
import pytest

from vfmalign.core.domain.errors import BadTensor
from vfmalign.core.rpc.tensors import to_array, to_tensor
from vfmalign.v1 import common_pb2

F32 = common_pb2.DATA_TYPE_FLOAT32


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("shape", [(1,), (3, 4), (2, 1, 3, 1, 2, 1)])
def test_values_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    message = to_tensor(array)
    back = to_array(common_pb2.Tensor.FromString(message.SerializeToString()))
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype.newbyteorder("=")
    assert back.flags.c_contiguous


def test_an_array_is_a_view_on_the_bytes_of_its_message() -> None:
    back = to_array(to_tensor(np.arange(6, dtype=np.float32).reshape(2, 3)))
    base = back
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, bytes)
    assert not back.flags.writeable


def test_the_bytes_are_row_major_and_little_endian() -> None:
    message = to_tensor(np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32).T)
    assert message.data == np.array([1, 3, 2, 4], dtype="<f4").tobytes()
    assert list(message.shape) == [2, 2]


@pytest.mark.parametrize(
    ("tensor", "field", "problem"),
    [
        (common_pb2.Tensor(shape=[1], data=b"\0" * 4), "x.data_type", "no element type"),
        (common_pb2.Tensor(data_type=99, shape=[1], data=b"\0" * 4), "x.data_type", "unknown element type 99"),
        (common_pb2.Tensor(data_type=F32, data=b"\0" * 4), "x.shape", "1 to 6 axes"),
        (common_pb2.Tensor(data_type=F32, shape=[1] * 7, data=b"\0" * 4), "x.shape", "1 to 6 axes"),
        (common_pb2.Tensor(data_type=F32, shape=[0], data=b""), "x.shape", "below 1"),
        (common_pb2.Tensor(data_type=F32, shape=[-1, -1], data=b"\0" * 4), "x.shape", "below 1"),
        (common_pb2.Tensor(data_type=F32, shape=[2, 2], data=b"\0" * 15), "x.data", "15 bytes.*needs 16"),
        (common_pb2.Tensor(data_type=F32, shape=[2**62, 2**62], data=b"\0" * 4), "x.data", "4 bytes"),
    ],
)
def test_a_wrong_tensor_is_refused_with_its_field(tensor: common_pb2.Tensor, field: str, problem: str) -> None:
    with pytest.raises(BadTensor, match=problem) as caught:
        to_array(tensor, field="x")
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(3, dtype=np.int32), "int32 cannot be sent"),
        (np.zeros((), dtype=np.float32), "send 1 to 6 axes"),
        (np.zeros((0, 3), dtype=np.float32), r"an array of the shape \(0, 3\) is empty; send at least one element"),
        (np.full(2, np.nan), "2 elements are NaN or infinite"),
    ],
)
def test_what_cannot_travel_is_not_sent(array: np.ndarray, words: str) -> None:
    with pytest.raises(BadTensor, match=words):
        to_tensor(array)
