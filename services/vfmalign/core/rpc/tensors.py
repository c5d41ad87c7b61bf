"""Between protobuf tensors and numpy arrays, with everything checked that a client could get wrong.

Knows the wire format of `vfmalign.v1.Tensor`: row-major little-endian elements. Knows nothing of what they mean.
"""

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
    """The array behind a message: contiguous, float16, float32 or float64 in this machine's byte order.

    The array is a read-only view on the message's bytes, copied once more only on machines of another byte order.
    Elements need not be aligned. Values are not checked: whoever computes with them refuses NaN and infinity.

    Args:
        tensor: the message.
        field: its path in the request, for errors.

    Raises:
        BadTensor: its type, shape or byte count is wrong.
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
            f"the shape {_shown(shape)} has an axis below 1 or not 1 to {MAX_AXES} axes",
            field=f"{field}.shape",
            remedy="give the size of every axis, outermost first",
        )
    data = tensor.data  # once: each access copies the bytes out of the message
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise BadTensor(
            f"{len(data)} bytes, but shape {_shown(shape)} of {dtype.name} needs {expected}",
            field=f"{field}.data",
            remedy="send row-major little-endian elements, exactly as many as the shape says",
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def to_tensor(array: NDArray[Any], field: str = "tensor") -> common_pb2.Tensor:
    """The message of an array.

    Raises:
        BadTensor: its type cannot travel, it has no or too many axes, or an element is NaN or infinite.
    """
    number = _NUMBERS.get(array.dtype.newbyteorder("<"))
    if number is None:
        raise BadTensor(
            f"{array.dtype} cannot be sent", field=field, remedy="convert it to float16, float32 or float64"
        )
    if not 1 <= array.ndim <= MAX_AXES or array.size == 0:
        raise BadTensor(f"the shape {_shown(array.shape)} cannot be sent", field=field, remedy="send 1 to 6 axes")
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
