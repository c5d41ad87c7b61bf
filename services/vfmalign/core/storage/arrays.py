"""Reads feature matrices from `.npy` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.formats.untrusted import open_regular_file

NPY = ".npy"
MAX_NPY_BYTES = 2**36


def read_npy(path: Path, field: str) -> NDArray[Any]:
    """Reads a feature matrix from a `.npy` file without unpickling.

    Args:
        path: path of the file. Errors do not contain the path.
        field: name of the file in errors.

    Returns:
        An array of shape (rows, channels), as float16, float32 or float64 in this machine's byte order. Integers are
            converted to float64.

    Raises:
        BadOption: the file does not exist.
        BadTensor: the file does not contain a non-empty array of numbers with two axes.
    """
    try:
        with open_regular_file(path, MAX_NPY_BYTES) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise BadOption("there is no such file", field=field, remedy="check the path") from None
    except MemoryError:
        raise BadTensor(
            "the array does not fit into this machine's memory", field=field, remedy="pass fewer rows"
        ) from None
    except (OSError, ValueError, EOFError, SyntaxError):
        raise BadTensor(
            "the file is not an array that can be read without unpickling",
            field=field,
            remedy="save it with numpy.save",
        ) from None
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise BadTensor(
            f"expected numbers with 2 axes, got {array.dtype} with {array.ndim} axes",
            field=field,
            remedy="save an array of shape (rows, channels)",
        )
    if array.size == 0:
        raise BadTensor(
            f"the array of {array.shape[0]} rows and {array.shape[1]} channels is empty",
            field=field,
            remedy="save at least one row and one channel",
        )
    is_float = array.dtype.kind == "f" and array.dtype.itemsize <= np.dtype(np.float64).itemsize
    matrix: NDArray[Any] = array.astype(array.dtype.newbyteorder("=") if is_float else np.float64, copy=False)
    return matrix
