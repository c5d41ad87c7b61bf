"""Rows as the engine takes them: centred, scaled and in the precision of the products. Knows nothing of kernels.

Legend: N rows, C channels as given, K channels kept, I rows of one block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.mmd.kept import NOTHING_KEPT, Kept, Same
from vfmalign.mmd.precision import PrecisionName
from vfmalign.mmd.streams import FeatureArray, as_tensor

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_BLOCK_BYTES = 2**20  # in float64, so that what is done to a block is done in the cache

DTYPES: dict[PrecisionName, torch.dtype] = {
    "bfloat16": torch.float32,
    "float32": torch.float32,
    "float64": torch.float64,
}


# Squares of larger features overflow; float32 ends long before float64.
LARGEST_SQUARED_NORM: dict[PrecisionName, float] = {"bfloat16": 1e36, "float32": 1e36, "float64": 1e300}


@dataclass(frozen=True)
class Affine:
    """What is done to features before they are compared: (x − centre)/sd over the channels that are kept.

    Attributes:
        centre_C: float64, or None where features stay where they are.
        sd_C: float64, or None where they are not scaled.
        kept_C: bool, or None where all channels are kept.
    """

    centre_C: FloatArray | None = None  # noqa: N815
    sd_C: FloatArray | None = None  # noqa: N815
    kept_C: NDArray[np.bool_] | None = None  # noqa: N815

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(part.nbytes for part in (self.centre_C, self.sd_C, self.kept_C) if part is not None)

    def apply(self, block_IC: Tensor) -> Tensor:
        """Float64 features of some rows, [I, K], on their device."""

        def at_hand(values_C: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values_C).to(block_IC.device)

        moved_IC = block_IC.double() if self.centre_C is None else block_IC - at_hand(self.centre_C)
        if self.sd_C is not None:
            moved_IC = moved_IC / at_hand(self.sd_C)
        if self.kept_C is not None and not self.kept_C.all():
            moved_IC = moved_IC[:, at_hand(self.kept_C)]
        return moved_IC.contiguous()


UNCHANGED = Affine()
"""Features as they are."""


@dataclass(frozen=True)
class Rows:
    """Rows ready for products.

    Attributes:
        values_NK: in float64, float32, or float32 rounded to bfloat16, whose products are exact in float32.
        norms_N: ‖x_i‖² of the values as rounded, summed in float64, in the precision of the values.
    """

    values_NK: Tensor  # noqa: N815
    norms_N: Tensor  # noqa: N815
    precision: PrecisionName = "float64"
    _distinct: list[float] = field(default_factory=list, repr=False)

    @property
    def count(self) -> int:
        """N."""
        return int(self.values_NK.shape[0])

    @property
    def channels(self) -> int:
        """K."""
        return int(self.values_NK.shape[1])

    def split(self, first: int) -> tuple[Rows, Rows]:
        """The first rows and the others, as views."""
        return self[:first], self[first:]

    def __getitem__(self, span: slice) -> Rows:
        """Some of the rows, as a view."""
        return Rows(self.values_NK[span], self.norms_N[span], self.precision)

    @property
    def distinct(self) -> float:
        """N²/Σc² over rows that are repeated c times: how many rows there are to average rounding errors over."""
        if not self._distinct:
            _, counts = np.unique(self.norms_N.cpu().numpy(), return_counts=True)
            self._distinct.append(float(self.count) ** 2 / float((counts.astype(np.float64) ** 2).sum()))
        return self._distinct[0]


def prepare(
    parts: Sequence[tuple[FeatureArray, IntArray | None]],
    affine: Affine,
    precision: PrecisionName,
    device: torch.device,
    *,
    kept: Kept = NOTHING_KEPT,
    between_blocks: Callable[[], None] = lambda: None,
) -> Rows:
    """Rows of all parts, one after another, made block by block: no float64 copy of all features ever exists.

    Args:
        parts: features [N, C] in float16 to float64 as given, each with the order its rows shall have (None: as is).
        affine: centre and scale, applied in float64 before anything is rounded.
        precision: of the values.
        device: where products are formed.
        kept: remembers each part, for comparisons of other pairs with the same features and the same `affine`.
        between_blocks: called before every block of rows; may raise to stop.
    """
    channels = int(parts[0][0].shape[1])
    rows = sum(int(features_NC.shape[0]) for features_NC, _ in parts)
    width = channels if affine.kept_C is None else int(affine.kept_C.sum())
    values_NK = torch.empty(rows, width, dtype=DTYPES[precision], device=device)
    norms_N = torch.empty(rows, dtype=DTYPES[precision], device=device)
    pooled = Rows(values_NK, norms_N, precision)
    at = 0
    for features_NC, order_N in parts:
        into = slice(at, at + int(features_NC.shape[0]))
        at = into.stop
        if kept.budget_bytes and len(parts) > 1:
            order = None if order_N is None else order_N.tobytes()
            key = ("rows", Same(features_NC), order, Same(affine), precision, str(device))
            parts_of_one = [(features_NC, order_N)]
            make = partial(prepare, parts_of_one, affine, precision, device, between_blocks=between_blocks)
            part = kept.get(key, make, _bytes)
            values_NK[into], norms_N[into] = part.values_NK, part.norms_N
        else:
            _fill(pooled[into], features_NC, order_N, affine, between_blocks)
    return pooled


def _fill(
    part: Rows,
    features_NC: FeatureArray,
    order_N: IntArray | None,
    affine: Affine,
    between_blocks: Callable[[], None],
) -> None:
    """Writes the rows of one part, block by block."""
    values_NK, norms_N = part.values_NK, part.norms_N
    step = max(1, _BLOCK_BYTES // (8 * int(features_NC.shape[1])))
    for start in range(0, features_NC.shape[0], step):
        between_blocks()
        span = slice(start, start + step)
        block_IC = features_NC[span] if order_N is None else features_NC[order_N[span]]
        block_IK = affine.apply(as_tensor(block_IC)).to(values_NK.device)
        if part.precision == "bfloat16":
            block_IK = block_IK.bfloat16()
        values_NK[span].copy_(block_IK)
        norms_N[span] = squared_norms(values_NK[span]).to(norms_N.dtype)


def squared_norms(values_IK: Tensor) -> Tensor:
    """‖x_i‖², summed in float64 without a float64 copy of the rows."""
    norms_I: Tensor = torch.linalg.vector_norm(values_IK, dim=1, dtype=torch.float64)
    return norms_I.square_()


def _bytes(rows: Rows) -> int:
    return rows.values_NK.nbytes + rows.norms_N.nbytes


def mean(features_NC: FeatureArray) -> FloatArray:
    """Mean of each channel, summed in float64, [C]."""
    return np.asarray(features_NC.mean(axis=0, dtype=np.float64), dtype=np.float64)


def standard_deviation(features_NC: FeatureArray, mean_C: FloatArray) -> FloatArray:
    """SD of each channel with N − 1, in two passes and float64, [C]."""
    rows, channels = features_NC.shape
    squares_C = np.zeros(channels)
    step = max(1, _BLOCK_BYTES // (8 * channels))
    for start in range(0, rows, step):
        squares_C += np.square(features_NC[start : start + step].astype(np.float64) - mean_C).sum(axis=0)
    return np.asarray(np.sqrt(squares_C / (rows - 1)))
