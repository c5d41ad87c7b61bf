"""Conversion between `vfmalign.v1.Tensor` (row-major little-endian elements) and numpy arrays, with validation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.errors import BadTensor
from vfmalign.v1 import common_pb2

MAX_AXES = 6
_DTYPES: dict[common_pb2.DataType, np.dtype[Any]] = {
    common_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    common_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    common_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}


def to_array(tensor: common_pb2.Tensor, field: str = "tensor") -> NDArray[Any]:
    """Converts a message to a contiguous float16, float32 or float64 array in this machine's byte order.

    The array is a read-only view of the message's bytes, except on big-endian machines, and may be unaligned. Values
    are not checked. Code that computes with the array must reject NaN and infinity.

    Args:
        tensor: the message.
        field: path of the message in the request, for error messages.

    Raises:
        BadTensor: the type, shape or byte count of the tensor is wrong.
    """
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        raise BadTensor(
            "no element type is given" if tensor.data_type == 0 else f"unknown element type {tensor.data_type}",
            field=f"{field}.data_type",
            remedy="use DATA_TYPE_FLOAT16, DATA_TYPE_FLOAT32 or DATA_TYPE_FLOAT64",
        )
    shape = tuple(tensor.shape)
    if not 1 <= len(shape) <= MAX_AXES or min(shape) < 1:
        raise BadTensor(
            f"the shape {_shown(shape)} does not have 1 to {MAX_AXES} axes, or has an axis below 1",
            field=f"{field}.shape",
            remedy="give the size of every axis, outermost first",
        )
    data = tensor.data  # read once: each access copies the bytes out of the message
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise BadTensor(
            f"{len(data):,} bytes, but shape {_shown(shape)} of {dtype.name} needs {expected:,}",
            field=f"{field}.data",
            remedy="send row-major little-endian elements, exactly as many as the shape says",
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def to_tensor(array: NDArray[Any], field: str = "tensor", *, allow_non_finite: bool = False) -> common_pb2.Tensor:
    """Converts an array to a message. A call may send non-finite elements only if it defines how to handle them.

    Raises:
        BadTensor: the array is empty, its type or number of axes is not supported, or it contains disallowed NaN or
            infinite elements.
    """
    number = _NUMBERS.get(array.dtype.newbyteorder("<"))
    if number is None:
        raise BadTensor(
            f"{array.dtype} cannot be sent", field=field, remedy="convert it to float16, float32 or float64"
        )
    if not 1 <= array.ndim <= MAX_AXES:
        raise BadTensor(
            f"the shape {_shown(array.shape)} cannot be sent", field=field, remedy=f"send 1 to {MAX_AXES} axes"
        )
    if array.size == 0:
        raise BadTensor(
            f"an array of the shape {_shown(array.shape)} is empty", field=field, remedy="send at least one element"
        )
    if not allow_non_finite:
        _refuse_non_finite(array, field)
    data = np.ascontiguousarray(array, dtype=_DTYPES[number]).tobytes()
    return common_pb2.Tensor(data_type=number, shape=array.shape, data=data)


def _refuse_non_finite(array: NDArray[Any], field: str) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise BadTensor(
            f"{int(array.size - np.count_nonzero(finite))} elements are NaN or infinite, the first at {index}",
            field=field,
            remedy="send finite numbers",
        )


def _shown(shape: tuple[int, ...]) -> str:
    return (
        "("
        + ", ".join(str(size) for size in shape[: MAX_AXES + 1])
        + (", …" if len(shape) > MAX_AXES + 1 else "")
        + ")"
    )
