"""Rows as the engine takes them: centred, scaled and in the precision of the products. Knows nothing of kernels.

Legend: N rows, C channels as given, K channels kept, I rows of one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.lru_cache import NO_CACHE, IdentityKey, SizedLruCache
from vfmalign.mmd.engine.precision import PRECISIONS, PrecisionName
from vfmalign.mmd.engine.row_streams import FeatureArray, to_tensor

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_BLOCK_BYTES = 2**20  # in float64, so that what is done to a block is done in the cache

# Squares of larger features overflow; float32 ends long before float64.
LARGEST_SQUARED_NORM: dict[PrecisionName, float] = dict.fromkeys(PRECISIONS, 1e36) | {"float64": 1e300}


@dataclass(frozen=True)
class Affine:
    """What is done to features before they are compared: (x − centre)/sd over the channels that are kept.

    Attributes:
        centre_C: float64, or None where features stay where they are.
        sd_C: float64, or None where they are not scaled.
        channel_mask_C: bool, or None where all channels are kept.
    """

    centre_C: FloatArray | None = None
    sd_C: FloatArray | None = None
    channel_mask_C: NDArray[np.bool_] | None = None

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(part.nbytes for part in (self.centre_C, self.sd_C, self.channel_mask_C) if part is not None)

    def apply(self, block_IC: Tensor, room_IC: Tensor | None = None) -> Tensor:
        """Float64 features of some rows, [I, K], on their device; made in `room_IC` where it is given.

        Fresh memory for every block takes longer than what is done to it.
        """

        def at_hand(values_C: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values_C).to(block_IC.device)

        moved_IC = block_IC.double() if room_IC is None else room_IC.copy_(block_IC)
        if self.centre_C is not None:
            moved_IC = torch.sub(moved_IC, at_hand(self.centre_C), out=room_IC)
        if self.sd_C is not None:
            moved_IC = torch.div(moved_IC, at_hand(self.sd_C), out=room_IC)
        if self.channel_mask_C is not None and not self.channel_mask_C.all():
            moved_IC = moved_IC[:, at_hand(self.channel_mask_C)]
        return moved_IC.contiguous()


UNCHANGED = Affine()
"""Features as they are."""


@dataclass(frozen=True)
class Rows:
    """Rows ready for products.

    Attributes:
        values_NK: rows in float64 or float32; those rounded to bfloat16 are stored in float32.
        norms_N: ‖x_i‖² of the rows as rounded, summed in float64; float64, or float32 as products are.
    """

    values_NK: Tensor
    norms_N: Tensor
    precision: PrecisionName = "float64"
    _distinct: list[float] = field(default_factory=list, repr=False)

    @classmethod
    def empty(cls, count: int, channels: int, precision: PrecisionName, device: torch.device) -> Rows:
        """Room for rows."""
        dtype = torch.float64 if precision == "float64" else torch.float32
        values_NK = torch.empty(count, channels, dtype=dtype, device=device)
        return cls(values_NK, torch.empty(count, dtype=dtype, device=device), precision)

    @classmethod
    def of(cls, features_NK: Tensor, precision: PrecisionName) -> Rows:
        """Float64 features, rounded."""
        count, channels = features_NK.shape
        rows = cls.empty(count, channels, precision, features_NK.device)
        rows.put(features_NK)
        return rows

    def put(self, features_NK: Tensor) -> None:
        """Overwrites all rows by float64 features, rounded; block by block, so that little memory is needed."""
        step = max(1, _BLOCK_BYTES // (8 * max(1, self.channels)))
        for start in range(0, self.count, step):
            block, features_IK = self[start : start + step], features_NK[start : start + step]
            block.values_NK.copy_(features_IK.bfloat16() if self.precision == "bfloat16" else features_IK)
            block.norms_N.copy_(squared_norms(block.values_NK))

    def copy_(self, other: Rows) -> None:
        """Overwrites all rows by as many others of the same precision."""
        self.values_NK.copy_(other.values_NK)
        self.norms_N.copy_(other.norms_N)

    @property
    def count(self) -> int:
        """N."""
        return int(self.values_NK.shape[0])

    @property
    def channels(self) -> int:
        """K."""
        return int(self.values_NK.shape[1])

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.norms_N.device

    @property
    def dtype(self) -> torch.dtype:
        """Of norms and products."""
        return self.norms_N.dtype

    @property
    def nbytes(self) -> int:
        """Memory they take."""
        return self.values_NK.nbytes + self.norms_N.nbytes

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
    cache: SizedLruCache = NO_CACHE,
    context: WorkContext = UNLIMITED,
) -> Rows:
    """Rows of all parts, one after another, made block by block: no float64 copy of all features ever exists.

    Args:
        parts: features [N, C] in float16 to float64 as given, each with the order its rows shall have (None: as is).
        affine: centre and scale, applied in float64 before anything is rounded.
        precision: of the values.
        device: where products are formed.
        cache: stores each part, for comparisons of other pairs with the same features and the same `affine`.
        context: checked before every block of rows.
    """
    channels = int(parts[0][0].shape[1])
    rows = sum(int(features_NC.shape[0]) for features_NC, _ in parts)
    width = channels if affine.channel_mask_C is None else int(affine.channel_mask_C.sum())
    pooled = Rows.empty(rows, width, precision, device)
    at = 0
    for features_NC, order_N in parts:
        into = slice(at, at + int(features_NC.shape[0]))
        at = into.stop
        if cache.max_bytes and len(parts) > 1:
            order = None if order_N is None else order_N.tobytes()
            key = ("rows", IdentityKey(features_NC), order, IdentityKey(affine), precision, str(device))
            parts_of_one = [(features_NC, order_N)]
            make = partial(prepare, parts_of_one, affine, precision, device, context=context)
            pooled[into].copy_(cache.get_or_create(key, make, lambda part: part.nbytes))
        else:
            _fill(pooled[into], features_NC, order_N, affine, context)
    return pooled


def _fill(
    part: Rows,
    features_NC: FeatureArray,
    order_N: IntArray | None,
    affine: Affine,
    context: WorkContext,
) -> None:
    """Writes the rows of one part, block by block."""
    rows, channels = (int(size) for size in features_NC.shape)
    step = max(1, _BLOCK_BYTES // (8 * channels))
    room_IC = torch.empty(min(step, rows), channels, dtype=torch.float64)
    for start in range(0, rows, step):
        context.checkpoint()
        span = slice(start, start + step)
        block_IC = to_tensor(features_NC[span] if order_N is None else features_NC[order_N[span]])
        part[span].put(affine.apply(block_IC, room_IC[: len(block_IC)]).to(part.device))


def squared_norms(values_IK: Tensor) -> Tensor:
    """‖x_i‖², summed in float64 without a float64 copy of the rows."""
    norms_I: Tensor = torch.linalg.vector_norm(values_IK, dim=1, dtype=torch.float64)
    return norms_I.square_()


def mean(features_NC: FeatureArray, context: WorkContext = UNLIMITED) -> FloatArray:
    """Mean of each channel, summed in float64, [C]; `context` is checked before every block of rows."""
    rows, channels = features_NC.shape
    sums_C = np.zeros(channels)
    step = max(1, _BLOCK_BYTES // (8 * channels))
    for start in range(0, rows, step):
        context.checkpoint()
        sums_C += features_NC[start : start + step].sum(axis=0, dtype=np.float64)
    return np.asarray(sums_C / rows)


def standard_deviation(features_NC: FeatureArray, mean_C: FloatArray) -> FloatArray:
    """SD of each channel with N − 1, in two passes and float64, [C]."""
    rows, channels = features_NC.shape
    squares_C = np.zeros(channels)
    step = max(1, _BLOCK_BYTES // (8 * channels))
    for start in range(0, rows, step):
        squares_C += np.square(features_NC[start : start + step].astype(np.float64) - mean_C).sum(axis=0)
    return np.asarray(np.sqrt(squares_C / (rows - 1)))
