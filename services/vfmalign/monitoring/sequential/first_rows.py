"""Permutation test that compares the first rows of a stream with the reference.

Suppose that a stream differs from the reference from its first row on. Its rows are soon ranked mostly among other rows
of the stream. The sequential evidence then shows little drift. This test compares the first N rows together with the
calibration rows. Its statistic is

    S(w) = Σ w_i · w_j · k(x_i, x_j),    w_i = z_i − (mean of z over the rows of the stratum of i),

where z_i is 1 for a row of the stream and 0 for a calibration row. S is the squared length of a sum over strata. The
term of a stratum is n·m/(n + m) times the difference of its mean embeddings. A difference between strata cancels out.
If all strata change in the same way, the changes add up. Without strata, S is MMD² times a constant. The labels z are
permuted within strata. The test is therefore exact if the rows of a stratum are exchangeable with its calibration rows.
The other evidence has the same condition. The order of the scanners in the stream does not matter.

Legend: the axes of arrays are N rows, D channels and B permutations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vfmalign.monitoring.sequential.draws import Draws, Purpose, choose_subset
from vfmalign.monitoring.sequential.row_scores import RowScorer
from vfmalign.monitoring.sequential.strata import Stratum

MAX_CALIBRATION_ROWS = 1000
"""Maximum number of calibration rows to compare. The time of the test grows with the square of the number of rows."""
_PERMUTATIONS_AT_ONCE = 2000
_SMALLEST_P_VALUES = 4
"""The test rejects if fewer permutations than this are as extreme as the observation. Sets their total number."""

Array = NDArray[np.float64]


def get_first_p_value(scorer: RowScorer, strata: Mapping[str, Stratum], draws: Draws, level: float) -> float:
    """Returns the p-value for all rows of the stream up to now (at most 20,000).

    Args:
        scorer: scorer of the reference.
        strata: strata by name.
        draws: random numbers of the epoch.
        level: level at which the test rejects. The level determines the number of permutations.
    """
    z_ND, is_stream_N, stratum_N = _collect_rows(strata, draws)
    sizes_S = np.bincount(stratum_N, minlength=len(strata))
    mean_N = (np.bincount(stratum_N, is_stream_N, len(strata)) / np.maximum(sizes_S, 1))[stratum_N]
    kernel_NN = scorer.get_kernel(z_ND, z_ND)
    observed = float(_get_statistics(kernel_NN, is_stream_N[:, None] - mean_N[:, None])[0])
    permutations = math.ceil(_SMALLEST_P_VALUES / level) - 1
    as_extreme = 0
    for start in range(0, permutations, _PERMUTATIONS_AT_ONCE):
        count = min(_PERMUTATIONS_AT_ONCE, permutations - start)
        weights_NB = _permute(is_stream_N, stratum_N, count, draws, start) - mean_N[:, None]
        # Statistics that differ only in their last bits count as equal.
        as_extreme += int((_get_statistics(kernel_NN, weights_NB) >= observed * (1.0 - 1e-9)).sum())
    return (1 + as_extreme) / (1 + permutations)


def _collect_rows(strata: Mapping[str, Stratum], draws: Draws) -> tuple[Array, Array, NDArray[np.intp]]:
    """Returns standardised rows [N, D], labels (1 for rows of the stream), and the index of each row's stratum."""
    blocks = [one.blocks for one in strata.values()]
    is_stream_N = np.concatenate([np.arange(len(one.stored_rows[0])) >= one.calibration for one in blocks if one])
    stratum_N = np.concatenate([np.full(len(one.stored_rows[0]), place) for place, one in enumerate(blocks) if one])
    calibration = np.flatnonzero(~is_stream_N)
    uniforms = draws.draw_uniforms(Purpose.FIRST, 0, len(calibration))
    kept = np.sort(
        np.concatenate([calibration[choose_subset(uniforms, MAX_CALIBRATION_ROWS)], np.flatnonzero(is_stream_N)])
    )
    z_ND = np.concatenate([one.stored_rows[0] for one in blocks if one])
    return z_ND[kept], is_stream_N[kept].astype(np.float64), stratum_N[kept]


def _permute(is_stream_N: Array, stratum_N: NDArray[np.intp], count: int, draws: Draws, start: int) -> Array:
    """Returns labels [N, B], permuted within strata."""
    labels_NB = np.zeros((len(is_stream_N), count))
    uniforms_NB = draws.draw_uniforms(Purpose.FIRST, 1 + start, labels_NB.size).reshape(labels_NB.shape)
    for stratum in np.unique(stratum_N):
        places = np.flatnonzero(stratum_N == stratum)
        chosen = int(is_stream_N[places].sum())
        if chosen:
            order = np.argsort(uniforms_NB[places], axis=0)[:chosen]
            np.put_along_axis(labels_NB, places[order], 1.0, axis=0)
    return labels_NB


def _get_statistics(kernel_NN: Array, weights_NB: Array) -> Array:
    statistics: Array = np.einsum("nb,nb->b", kernel_NN @ weights_NB, weights_NB)
    return statistics
