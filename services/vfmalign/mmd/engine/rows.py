"""Rows that are prepared for matrix products: centred, scaled and rounded to the precision of the products.

Legend: N rows, C channels of the input, K channels that remain, I rows of one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

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
_BLOCK_BYTES = 2**20  # size of a block in float64, so that all steps on it run in the cache

_CENTRE_ROWS = 1024
_CENTRE_CHANNELS = 4096

# Larger squared norms would overflow in later sums and products.
LARGEST_SQUARED_NORM: dict[PrecisionName, float] = dict.fromkeys(PRECISIONS, 1e36) | {"float64": 1e300}


@dataclass(frozen=True)
class Affine:
    """Standardisation of features before a comparison: (x − centre)/sd of the selected channels.

    Attributes:
        centre_C: centre of each channel, float64; None if features are not centred.
        sd_C: scale of each channel, float64; None if features are not scaled.
        channel_mask_C: mask of the channels that remain; None for all channels.
    """

    centre_C: FloatArray | None = None
    sd_C: FloatArray | None = None
    channel_mask_C: NDArray[np.bool_] | None = None

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return sum(part.nbytes for part in (self.centre_C, self.sd_C, self.channel_mask_C) if part is not None)

    def get_channel_mask(self, channels: int) -> NDArray[np.bool_]:
        """Returns the mask of the compared channels, [C]."""
        return np.ones(channels, np.bool_) if self.channel_mask_C is None else self.channel_mask_C

    def apply(self, block_IC: Tensor, buffer_IC: Tensor | None = None) -> Tensor:
        """Returns the standardised features of one block in float64, [I, K], on the device of the block.

        Args:
            block_IC: the rows to standardise.
            buffer_IC: float64 buffer for the result; if None, a buffer is allocated. A buffer saves time: allocating
                memory takes longer than computing a block.
        """

        def on_device(values_C: FloatArray | NDArray[np.bool_]) -> Tensor:
            return torch.from_numpy(values_C).to(block_IC.device)

        result_IC = block_IC.double() if buffer_IC is None else buffer_IC.copy_(block_IC)
        if self.centre_C is not None:
            result_IC = torch.sub(result_IC, on_device(self.centre_C), out=buffer_IC)
        if self.sd_C is not None:
            result_IC = torch.div(result_IC, on_device(self.sd_C), out=buffer_IC)
        if self.channel_mask_C is not None and not self.channel_mask_C.all():
            result_IC = result_IC[:, on_device(self.channel_mask_C)]
        return result_IC.contiguous()


UNCHANGED = Affine()
"""No standardisation."""


@dataclass(frozen=True)
class Rows:
    """Prepared rows with their norms and precision.

    Attributes:
        values_NK: rows in float64 or float32; rows rounded to bfloat16 are stored in float32.
        norms_N: ‖x_i‖² of the rounded rows, summed in float64 and stored in the dtype of the products.
        precision: precision to which the rows are rounded.
    """

    values_NK: Tensor
    norms_N: Tensor
    precision: PrecisionName = "float64"
    _effective_count: list[float] = field(default_factory=list, repr=False)

    @classmethod
    def empty(cls, count: int, channels: int, precision: PrecisionName, device: torch.device) -> Rows:
        """Allocates rows with undefined contents."""
        dtype = torch.float64 if precision == "float64" else torch.float32
        values_NK = torch.empty(count, channels, dtype=dtype, device=device)
        return cls(values_NK, torch.empty(count, dtype=dtype, device=device), precision)

    @classmethod
    def from_features(cls, features_NK: Tensor, precision: PrecisionName) -> Rows:
        """Creates rows by rounding float64 features."""
        count, channels = features_NK.shape
        rows = cls.empty(count, channels, precision, features_NK.device)
        rows.assign(features_NK)
        return rows

    def assign(self, features_NK: Tensor) -> None:
        """Overwrites all rows with rounded float64 features. Works block by block to save memory."""
        step = max(1, _BLOCK_BYTES // (8 * max(1, self.channels)))
        for start in range(0, self.count, step):
            block, features_IK = self[start : start + step], features_NK[start : start + step]
            block.values_NK.copy_(features_IK.bfloat16() if self.precision == "bfloat16" else features_IK)
            block.norms_N.copy_(squared_norms(block.values_NK))

    def copy_(self, other: Rows) -> None:
        """Overwrites all rows with other rows.

        The two sets of rows must have the same number of rows and the same precision.
        """
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
        """Device of the rows."""
        return self.norms_N.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of norms and products."""
        return self.norms_N.dtype

    @property
    def nbytes(self) -> int:
        """Size of the rows and norms in bytes."""
        return self.values_NK.nbytes + self.norms_N.nbytes

    def split(self, first: int) -> tuple[Rows, Rows]:
        """Returns views of the first rows and of the remaining rows."""
        return self[:first], self[first:]

    def __getitem__(self, span: slice) -> Rows:
        """Returns a view of some rows."""
        return Rows(self.values_NK[span], self.norms_N[span], self.precision)

    @property
    def effective_count(self) -> float:
        """Effective number of distinct rows, N²/Σc², where c is the number of times that a distinct row occurs.

        Equal rows have equal rounding errors. Such errors therefore average out only over the distinct rows.
        """
        if not self._effective_count:
            _, counts = np.unique(self.norms_N.cpu().numpy(), return_counts=True)
            self._effective_count.append(float(self.count) ** 2 / float((counts.astype(np.float64) ** 2).sum()))
        return self._effective_count[0]


def prepare(
    parts: Sequence[tuple[FeatureArray, IntArray | None]],
    affine: Affine,
    precision: PrecisionName,
    device: torch.device,
    *,
    cache: SizedLruCache = NO_CACHE,
    context: WorkContext = UNLIMITED,
) -> Rows:
    """Standardises and rounds all parts. Works block by block, which avoids a float64 copy of all features.

    Args:
        parts: pairs. Each pair contains features [N, C] (float16 to float64) and the order of their rows (None to keep
            the order).
        affine: centre and scale, applied in float64 before rounding.
        precision: precision to which values are rounded.
        device: device that will compute the products.
        cache: cache of prepared parts, for other comparisons of the same features and `affine`.
        context: checked before every block of rows.
    """
    channels = int(parts[0][0].shape[1])
    rows = sum(int(features_NC.shape[0]) for features_NC, _ in parts)
    width = channels if affine.channel_mask_C is None else int(affine.channel_mask_C.sum())
    pooled = Rows.empty(rows, width, precision, device)
    start = 0
    for features_NC, order_N in parts:
        span = slice(start, start + int(features_NC.shape[0]))
        start = span.stop
        if pooled[span].nbytes <= cache.max_bytes and len(parts) > 1:
            order = None if order_N is None else order_N.tobytes()
            key = ("rows", IdentityKey(features_NC), order, IdentityKey(affine), precision, str(device))
            create = partial(prepare, [(features_NC, order_N)], affine, precision, device, context=context)
            pooled[span].copy_(cache.get_or_create(key, create, lambda rows: rows.nbytes))
        else:
            _fill(pooled[span], features_NC, order_N, affine, context)
    return pooled


def _fill(
    part: Rows,
    features_NC: FeatureArray,
    order_N: IntArray | None,
    affine: Affine,
    context: WorkContext,
) -> None:
    """Prepares the rows of one part, block by block."""
    rows, channels = (int(size) for size in features_NC.shape)
    step = max(1, _BLOCK_BYTES // (8 * channels))
    buffer_IC = torch.empty(min(step, rows), channels, dtype=torch.float64)
    for start in range(0, rows, step):
        context.checkpoint()
        span = slice(start, start + step)
        block_IC = to_tensor(features_NC[span] if order_N is None else features_NC[order_N[span]])
        part[span].assign(affine.apply(block_IC, buffer_IC[: len(block_IC)]).to(part.device))


def squared_norms(values_IK: Tensor) -> Tensor:
    """Returns ‖x_i‖² of each row. Sums in float64, but does not copy the rows to float64."""
    norms_I: Tensor = torch.linalg.vector_norm(values_IK, dim=1, dtype=torch.float64)
    return norms_I.square_()


def central_point(features_NC: FeatureArray, context: WorkContext = UNLIMITED) -> FloatArray:
    """Returns the median of each channel over at most 1,024 rows, in float64, [C].

    Checks `context` before every few thousand channels.

    The centre does not affect distances, but it affects their rounding errors. The mean would be a bad centre, because
    a single outlier could move the mean far from all rows. All centred rows would then be large and lose digits.
    """
    step = -(-int(features_NC.shape[0]) // _CENTRE_ROWS)
    channels = int(features_NC.shape[1])
    centre_C = np.empty(channels)
    for start in range(0, channels, _CENTRE_CHANNELS):
        context.checkpoint()
        span = slice(start, start + _CENTRE_CHANNELS)
        centre_C[span] = np.median(features_NC[::step, span].astype(np.float64), axis=0)
    return centre_C


def mean(features_NC: FeatureArray, context: WorkContext = UNLIMITED) -> FloatArray:
    """Returns the mean of each channel in float64, [C]. Checks `context` before every block of rows."""
    rows, channels = features_NC.shape
    sums_C = np.zeros(channels)
    step = max(1, _BLOCK_BYTES // (8 * channels))
    for start in range(0, rows, step):
        context.checkpoint()
        sums_C += features_NC[start : start + step].sum(axis=0, dtype=np.float64)
    return np.asarray(sums_C / rows)


def standard_deviation(features_NC: FeatureArray, mean_C: FloatArray, context: WorkContext = UNLIMITED) -> FloatArray:
    """Returns each channel's SD (divisor N − 1) in float64, [C]. Checks `context` before every block of rows."""
    rows, channels = features_NC.shape
    squares_C = np.zeros(channels)
    step = max(1, _BLOCK_BYTES // (8 * channels))
    for start in range(0, rows, step):
        context.checkpoint()
        squares_C += np.square(features_NC[start : start + step].astype(np.float64) - mean_C).sum(axis=0)
    return np.asarray(np.sqrt(squares_C / (rows - 1)))
