"""Sums of random Fourier features over the rows of two streams, in one pass and bounded memory.

Each bucket of groups has its own sum. The statistic, its permuted values and its leave-one-bucket-out values follow
from these sums.

Legend: N rows of x, M rows of y, I rows of a block, C channels, R frequencies, F = 2R features (cosines, then sines), G
buckets, B permutations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.precision import PrecisionName
from vfmalign.mmd.engine.products import multiply
from vfmalign.mmd.engine.row_streams import RowStream, check_group_count, read_ahead, to_numpy
from vfmalign.mmd.engine.rows import FloatArray, IntArray, central_point
from vfmalign.mmd.single_pass.spectra import Spectrum
from vfmalign.mmd.statistics import permutations
from vfmalign.mmd.statistics.permutations import Permutations


class RandomFeatureMap:
    """Maps rows to random Fourier features. Sums the rows and phases for the control variate.

    Rows are centred first. This keeps phases and their rounding errors small, and does not change estimates.
    """

    def __init__(
        self,
        spectrum: Spectrum,
        precision: PrecisionName,
        x: RowStream,
        engine: ComputeConfig,
        *,
        block_bytes: int,
    ) -> None:
        device = engine.device
        self.spectrum = spectrum
        self.precision = precision
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        self.device = device
        self._omega_CR = torch.from_numpy(np.ascontiguousarray(spectrum.omega_RC.T)).to(device, self.dtype)
        width = torch.finfo(self.dtype).bits // 8
        self.rows_at_once = max(64, block_bytes // (width * (x.channels + 6 * spectrum.count)))
        first_IC = x.read(0, min(x.rows, self.rows_at_once))
        self._centre_C = torch.from_numpy(central_point(to_numpy(first_IC), engine.context)).to(device)
        self.phases_2R = torch.zeros(2, spectrum.count, dtype=torch.float64, device=device)
        self._sums: dict[int, Tensor] = {}
        self._squares = torch.zeros((), dtype=torch.float64, device=device)
        self._communicator, self._context = engine.communicator, engine.context

    def blocks(self, stream: RowStream, sample_index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the features [I, F] and row numbers [I] of each block of this process.

        They are valid until the next block.

        Args:
            stream: stream of the sample's rows.
            sample_index: 0 for x, 1 for y.
        """
        total_C = torch.zeros(stream.channels, dtype=torch.float64, device=self.device)
        starts = range(0, stream.rows, self.rows_at_once)[self._communicator.rank :: self._communicator.world_size]
        phases_IR = torch.empty(self.rows_at_once, self.spectrum.count, dtype=self.dtype, device=self.device)
        features_IF = torch.empty(self.rows_at_once, 2 * self.spectrum.count, dtype=self.dtype, device=self.device)
        reads = (stream.read(start, min(start + self.rows_at_once, stream.rows)) for start in starts)
        for start, read_IC in zip(starts, read_ahead(reads), strict=True):
            block_IC = read_IC.to(self.device)
            block_IC = block_IC.to(torch.promote_types(block_IC.dtype, self.dtype))
            # Subtract in the wider of both types, because float16 would round the differences.
            wide_IC = block_IC.to(torch.promote_types(block_IC.dtype, self.dtype))
            centred_IC = (wide_IC - self._centre_C.to(wide_IC.dtype)).to(self.dtype)
            total_C += centred_IC.sum(dim=0)
            self._squares += torch.dot(centred_IC.view(-1), centred_IC.view(-1))
            rows_I = torch.arange(start, start + len(centred_IC))
            block_phases_IR = multiply(centred_IC, self._omega_CR, self._context, phases_IR[: len(centred_IC)])
            self.phases_2R[sample_index] += block_phases_IR.sum(dim=0)
            block_features_IF = features_IF[: len(centred_IC)]
            torch.cos(block_phases_IR, out=block_features_IF[:, : self.spectrum.count])
            torch.sin(block_phases_IR, out=block_features_IF[:, self.spectrum.count :])
            yield block_features_IF, rows_I
        self._sums[sample_index] = total_C

    def all_reduce(self, *sums: Tensor) -> None:
        """Replaces the given sums, and the sums of this object, with their totals over all processes."""
        self._communicator.all_reduce(*sums, self.phases_2R, *self._sums.values(), self._squares)

    def mean_phase_difference(self, x: RowStream, y: RowStream) -> FloatArray:
        """Returns ω_r·(x̄ − ȳ), [R]. Call this method after both samples were read."""
        return np.asarray((self.phases_2R[0] / x.rows - self.phases_2R[1] / y.rows).cpu().numpy())

    def mean_difference(self, x: RowStream, y: RowStream) -> FloatArray:
        """Returns x̄ − ȳ, [C]. Call this method after both samples were read."""
        return np.asarray((self._sums[0] / x.rows - self._sums[1] / y.rows).cpu().numpy())

    def norm(self, rows: int) -> float:
        """Returns the root mean square of the norms of all rows. Call this method after both samples were read."""
        return math.sqrt(float(self._squares) / rows)


@dataclass(frozen=True)
class Buckets:
    """Partition of a sample's rows into buckets. A bucket contains whole groups or, without groups, contiguous rows.

    Attributes:
        rows: number of rows of the sample.
        count: number of buckets.
        bucket_of_N: bucket index of each row; None if buckets are row ranges.
        has_large_groups: whether a group has several rows.
    """

    rows: int
    count: int
    bucket_of_N: IntArray | None
    has_large_groups: bool = False

    def get_buckets(self, rows_I: Tensor) -> Tensor:
        """Returns the bucket index of each of these rows."""
        if self.bucket_of_N is not None:
            return torch.from_numpy(self.bucket_of_N)[rows_I]
        return rows_I * self.count // self.rows

    def sizes(self) -> FloatArray:
        """Returns the number of rows of each bucket, [G]."""
        if self.bucket_of_N is not None:
            return np.bincount(self.bucket_of_N, minlength=self.count).astype(np.float64)
        edges = -(-np.arange(self.count + 1) * self.rows // self.count)
        return np.diff(edges).astype(np.float64)

    def pairs_across(self) -> float:
        """Returns the number of ordered pairs of rows from different buckets. Such rows belong to different groups."""
        return float(self.rows**2 - np.square(self.sizes()).sum())


def make_buckets(rows: int, groups: Sequence[str] | None, max_buckets: int, name: str) -> Buckets:
    """Partitions one sample into at most `max_buckets` buckets of whole groups.

    Raises:
        BadTensor: the number of groups differs from the number of rows.
    """
    if not groups:
        return Buckets(rows, max(1, min(rows, max_buckets)), None)
    check_group_count(groups, rows, name)
    labels, group_of_N = np.unique(np.asarray(groups), return_inverse=True)
    count = max(1, min(len(labels), max_buckets))
    return Buckets(rows, count, (group_of_N * count // len(labels)).astype(np.int64), len(labels) < rows)


def make_proportional_buckets(
    rows_x: int, rows_y: int, groups_x: Sequence[str] | None, groups_y: Sequence[str] | None, max_buckets: int
) -> tuple[Buckets, Buckets]:
    """Partitions two samples into buckets. All buckets of the partition have about the same number of groups."""
    counts = [len(set(groups)) if groups else rows for groups, rows in ((groups_x, rows_x), (groups_y, rows_y))]
    per_bucket = max(1, -(-sum(counts) // max(max_buckets, 1)))
    max_x, max_y = (-(-count // per_bucket) for count in counts)
    return make_buckets(rows_x, groups_x, max_x, "x"), make_buckets(rows_y, groups_y, max_y, "y")


def _add_by_bucket(sums_GF: Tensor, values_IF: Tensor, bucket_I: Tensor, offset: int = 0) -> None:
    """Adds each row to the float64 sum of its bucket.

    Sums long runs of rows in the same bucket first, because `index_add_` is much slower than a sum.
    """
    starts = [0, *(torch.nonzero(torch.diff(bucket_I))[:, 0] + 1).tolist(), len(bucket_I)]
    if len(starts) <= 64:
        for begin, end in pairwise(starts):
            sums_GF[offset + int(bucket_I[begin])] += values_IF[begin:end].sum(dim=0)
    else:
        sums_GF.index_add_(0, bucket_I.to(sums_GF.device) + offset, values_IF.double())


def _squared_modulus(sums_F: Tensor) -> Tensor:
    """Returns the squared cosine plus the squared sine at each frequency, [..., F] → [..., R]."""
    cosines, sines = sums_F.square().chunk(2, dim=-1)
    return cosines + sines


def _across_R(sums_GF: Tensor) -> Tensor:
    """Returns Σ φ(a)·φ(b) at each frequency, over ordered pairs of rows from different buckets."""
    return _squared_modulus(sums_GF.sum(dim=0)) - _squared_modulus(sums_GF).sum(dim=0)


def _mean(terms_R: FloatArray) -> FloatArray:
    """Returns the mean over frequencies, [..., R] → [...]."""
    return np.asarray(terms_R.mean(axis=-1), dtype=np.float64)


class PairSums:
    """Sums of φ(x_i) − φ(y_i) for each bucket of pairs. Swapping a bucket's pairs flips the sign of its sum."""

    def __init__(self, buckets: Buckets, feature_map: RandomFeatureMap) -> None:
        self._buckets, self._feature_map = buckets, feature_map
        self.groups, self.device = buckets.count, feature_map.device
        frequencies, device = feature_map.spectrum.count, feature_map.device
        self._sums_GF = torch.zeros(buckets.count, 2 * frequencies, dtype=torch.float64, device=device)
        self._diagonal_R = torch.zeros(frequencies, dtype=torch.float64, device=device)
        self._diagonal_G = torch.zeros(buckets.count, 1, dtype=torch.float64, device=device)

    def fill(self, x: RowStream, y: RowStream, context: WorkContext) -> None:
        """Reads both samples once and sums their features."""
        for (features_IF, rows_I), (other_IF, _) in zip(
            self._feature_map.blocks(x, 0), self._feature_map.blocks(y, 1), strict=True
        ):
            context.checkpoint()
            difference_IF = features_IF.sub_(other_IF)
            bucket_I = self._buckets.get_buckets(rows_I)
            _add_by_bucket(self._sums_GF, difference_IF, bucket_I)
            diagonal_IR = _squared_modulus(difference_IF)
            self._diagonal_R += diagonal_IR.sum(dim=0)
            _add_by_bucket(self._diagonal_G, diagonal_IR.mean(dim=1, keepdim=True), bucket_I)
        self._feature_map.all_reduce(self._sums_GF, self._diagonal_R, self._diagonal_G)

    def terms_R(self) -> FloatArray:
        """Returns one estimate per frequency. The mean of these estimates is the estimate of MMD²."""
        return self._estimate(_squared_modulus(self._sums_GF.sum(dim=0)), self._diagonal_R, float(self._buckets.rows))

    def uncorrected(self) -> float:
        """Returns the mean over frequencies, which is the estimate without the control variate."""
        return float(self.terms_R().mean())

    @property
    def has_large_groups(self) -> bool:
        """Whether any group has several rows."""
        return self._buckets.has_large_groups

    def across_buckets(self) -> float:
        """Returns `uncorrected` over row pairs from different buckets. This avoids the bias of pairs within a group."""
        across_R = _across_R(self._sums_GF) / self._buckets.pairs_across()
        return float(across_R.mean())

    def permutations(self, count: int, seed: int, context: WorkContext) -> Permutations:
        """Draws swaps of whole buckets."""
        return permutations.draw_swaps(self.groups, count, seed, context)

    def permuted_B(self, weights_GB: Tensor, context: WorkContext = UNLIMITED) -> FloatArray:
        """Returns `uncorrected` for each permutation. The argument contains the permutations' weights in float64."""
        return self._estimate(
            _squared_modulus(multiply(weights_GB.T, self._sums_GF, context)).mean(dim=-1),
            self._diagonal_R.mean(),
            float(self._buckets.rows),
        )

    def left_out(self) -> tuple[FloatArray, ...]:
        """Returns the values of `uncorrected` without each bucket in turn."""
        without_GF = self._sums_GF.sum(dim=0) - self._sums_GF
        rows_G = torch.from_numpy(self._buckets.rows - self._buckets.sizes()).to(without_GF.device)
        diagonal_G = self._diagonal_G.sum() - self._diagonal_G[:, 0]
        return (self._estimate(_squared_modulus(without_GF).mean(dim=-1), diagonal_G, rows_G),)

    def _estimate(self, total: Tensor, diagonal: Tensor, rows: Tensor | float) -> FloatArray:
        """Computes JMLR 2012, eq. (4), from Σ_ij h and Σ_i h_ii."""
        value = (total - diagonal) / (rows * (rows - 1.0))
        return np.asarray(value.cpu().numpy(), dtype=np.float64)


class SampleSums:
    """Sums of φ for each bucket of both samples. A permutation chooses the buckets that belong to x."""

    def __init__(self, x: Buckets, y: Buckets, feature_map: RandomFeatureMap) -> None:
        self._x, self._y, self._feature_map = x, y, feature_map
        self.groups, self.device = x.count + y.count, feature_map.device
        frequencies, device = feature_map.spectrum.count, feature_map.device
        self._sums_GF = torch.zeros(self.groups, 2 * frequencies, dtype=torch.float64, device=device)
        self._rows_G = torch.from_numpy(np.concatenate([x.sizes(), y.sizes()])).to(device)

    def fill(self, x: RowStream, y: RowStream, context: WorkContext) -> None:
        """Reads both samples once and sums their features."""
        for sample_index, (stream, buckets, offset) in enumerate(((x, self._x, 0), (y, self._y, self._x.count))):
            for features_IF, rows_I in self._feature_map.blocks(stream, sample_index):
                context.checkpoint()
                _add_by_bucket(self._sums_GF, features_IF, buckets.get_buckets(rows_I), offset)
        self._feature_map.all_reduce(self._sums_GF)

    def terms_R(self) -> FloatArray:
        """Returns one estimate per frequency. The mean of these estimates is the estimate of MMD²."""
        x_F, y_F = self._sums_GF[: self._x.count].sum(dim=0), self._sums_GF[self._x.count :].sum(dim=0)
        return self._estimate(x_F, y_F, float(self._x.rows), float(self._y.rows))

    def uncorrected(self) -> float:
        """Returns the mean over frequencies, which is the estimate without the control variate."""
        return float(self.terms_R().mean())

    @property
    def has_large_groups(self) -> bool:
        """Whether any group of x or y has several rows."""
        return self._x.has_large_groups or self._y.has_large_groups

    def across_buckets(self) -> float:
        """Returns `uncorrected` over row pairs from different buckets. This avoids the bias of pairs within a group."""
        x_GF, y_GF = self._sums_GF[: self._x.count], self._sums_GF[self._x.count :]
        within_R = _across_R(x_GF) / self._x.pairs_across() + _across_R(y_GF) / self._y.pairs_across()
        xy_F = (x_GF.sum(dim=0) / self._x.rows) * (y_GF.sum(dim=0) / self._y.rows)
        return float((within_R - 2.0 * sum(xy_F.chunk(2))).mean())

    def permutations(self, count: int, seed: int, context: WorkContext) -> Permutations:
        """Draws permutations of the buckets."""
        if min(self._x.count, self._y.count) < 2:
            return permutations.no_permutations(
                self.groups, "a sample of one bucket cannot be permuted; each sample needs two"
            )
        return permutations.draw_permutations(self._x.count, self._y.count, count, seed, context)

    def permuted_B(self, weights_GB: Tensor, context: WorkContext = UNLIMITED) -> FloatArray:
        """Returns `uncorrected` for each permutation. The argument contains the permutations' weights in float64."""
        x_BF = multiply(weights_GB.T, self._sums_GF, context)
        rows_B = (weights_GB.T @ self._rows_G)[:, None]
        total = float(self._x.rows + self._y.rows)
        return _mean(self._estimate(x_BF, self._sums_GF.sum(dim=0) - x_BF, rows_B, total - rows_B))

    def left_out(self) -> tuple[FloatArray, ...]:
        """Returns the values of `uncorrected` without each bucket of x in turn, then without each bucket of y."""
        x_GF, y_GF = self._sums_GF[: self._x.count], self._sums_GF[self._x.count :]
        x_F, y_F = x_GF.sum(dim=0), y_GF.sum(dim=0)
        rows_x, rows_y = self._rows_G[: self._x.count, None], self._rows_G[self._x.count :, None]
        n, m = float(self._x.rows), float(self._y.rows)
        without_x = self._estimate(x_F - x_GF, y_F, n - rows_x, m)
        without_y = self._estimate(x_F, y_F - y_GF, n, m - rows_y)
        return _mean(without_x), _mean(without_y)

    def _estimate(self, x_F: Tensor, y_F: Tensor, n: Tensor | float, m: Tensor | float) -> FloatArray:
        """Computes terms of JMLR 2012, eq. (3): (n|φ̄|² − 1)/(n − 1) = |φ̄|² − (1 − |φ̄|²)/(n − 1)."""
        mean_x, mean_y = x_F / n, y_F / m
        value = _squared_modulus(mean_x - mean_y)
        value = value - (1.0 - _squared_modulus(mean_x)) / (n - 1.0) - (1.0 - _squared_modulus(mean_y)) / (m - 1.0)
        return np.asarray(value.cpu().numpy(), dtype=np.float64)
