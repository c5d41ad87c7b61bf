"""Feature matrices as numpy arrays, read from `.npy` files.

Knows the format and what a matrix of features is. Knows nothing of messages, of storage or of what features mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.errors import BadOption, BadTensor

NPY = ".npy"


def read_npy(path: Path, field: str) -> NDArray[Any]:
    """A matrix of features from a `.npy` file, which is never unpickled.

    Args:
        path: the file; no error repeats it.
        field: what errors call it.

    Returns:
        Shape (rows, channels), float16, float32 or float64 in this machine's byte order; integers become float64.

    Raises:
        BadOption: there is no such file.
        BadTensor: the file is no array of numbers with two axes.
    """
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise BadOption("there is no such file", field=field, remedy="check the path") from None
    except MemoryError:
        raise BadTensor(
            "the array does not fit into this machine's memory", field=field, remedy="give a part of its rows"
        ) from None
    except (OSError, ValueError, EOFError, SyntaxError):
        raise BadTensor(
            "the file is no array that can be read without unpickling", field=field, remedy="save it with numpy.save"
        ) from None
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise BadTensor(
            f"an array of {array.dtype} with {array.ndim} axes is no feature matrix",
            field=field,
            remedy="give numbers of shape (rows, channels)",
        )
    of_float = array.dtype.kind == "f" and array.dtype.itemsize <= np.dtype(np.float64).itemsize
    matrix: NDArray[Any] = array.astype(array.dtype.newbyteorder("=") if of_float else np.float64, copy=False)
    return matrix
