"""Permutations of groups: swaps for paired samples, and reassignments for independent samples.

Random permutations come from a counter-based generator (Philox; Salmon et al., SC 2011) and are drawn on the CPU in a
fixed order. The permutations depend only on the seed and the number of groups, not on tile size, device or layer. If
you draw more permutations with the same seed, the first permutations stay the same.

Legend: G groups, B permutations.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.ordered_pool import wait_for_all

MIN_GROUPS = 8
MAX_ENUMERATED_GROUPS = 12
_KEYS_AT_ONCE = 2**20
_SIGNS_AT_ONCE = 2**24

SignArray = NDArray[np.int8]


@dataclass(frozen=True)
class Permutations:
    """Weight of each group in each permutation, and how a p-value counts the permutations.

    Attributes:
        weights_GB: weight of each group. A swap has weights ±1. A reassignment has weight 1 for groups labelled x and 0
            for groups labelled y.
        count: number of permutations that all columns together represent.
        enumerated: whether the columns represent all possible permutations, including the identity.
        multiplicity: number of permutations that one column represents; 2 if s and −s yield the same statistic.
        absent_reason: why there is no test; empty if there is a test.
    """

    weights_GB: SignArray
    count: int
    enumerated: bool
    multiplicity: int = 1
    absent_reason: str = ""


def no_permutations(groups: int, reason: str) -> Permutations:
    """Returns an empty set of permutations, with the reason why there are no permutations."""
    return Permutations(np.zeros((groups, 0), np.int8), 0, False, absent_reason=reason)


def draw_swaps(groups: int, permutations: int, seed: int, context: WorkContext = UNLIMITED) -> Permutations:
    """Draws swaps of x and y by group.

    For up to 12 groups: all 2^G swaps; for more groups: `permutations` random swaps.

    If all swaps are enumerated, group 0 is never swapped, and each column counts twice. Checks `context` before every
    few permutations.
    """
    if groups <= MAX_ENUMERATED_GROUPS:
        codes_B = np.arange(2 ** (groups - 1), dtype=np.int64)
        bits_GB = (codes_B[None, :] << 1 >> np.arange(groups)[:, None]) & 1
        return Permutations((1 - 2 * bits_GB).astype(np.int8), 2**groups, True, multiplicity=2)
    integers_per_draw = -(-groups // 64)
    generator, weights_GB = _philox(seed), np.empty((groups, permutations), np.int8)
    step = max(1, _SIGNS_AT_ONCE // groups)
    for start in range(0, permutations, step):
        context.checkpoint()
        size = min(step, permutations - start)
        raw_BW = generator.random_raw(size * integers_per_draw).reshape(size, integers_per_draw)
        bits_BG = np.unpackbits(raw_BW.astype("<u8").view(np.uint8), axis=1, bitorder="little", count=groups)
        weights_GB[:, start : start + size] = (1 - 2 * bits_BG.astype(np.int8)).T
    return Permutations(weights_GB, permutations, False)


def draw_permutations(
    groups_x: int, groups_y: int, permutations: int, seed: int, context: WorkContext = UNLIMITED
) -> Permutations:
    """Draws random reassignments, which label `groups_x` groups as x. Unlike swaps, reassignments are never enumerated.

    Each group gets a random key of 32 bits. The groups with the smallest keys are labelled x. While threads draw keys,
    the function checks `context` every few milliseconds. An error of `context` stops the threads.
    """
    groups = groups_x + groups_y
    weights_GB = np.empty((groups, permutations), np.int8)
    step = max(1, _KEYS_AT_ONCE // groups)

    def draw(start: int) -> None:
        size = min(step, permutations - start)
        weights_GB[:, start : start + size] = _smallest(_keys(groups, seed, start, size), groups_x).T

    starts = range(0, permutations, step)
    if len(starts) <= 1:
        draw(0)
    else:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            drawing = [threads.submit(draw, start) for start in starts]
            try:
                wait_for_all(drawing, context)
            finally:
                threads.shutdown(cancel_futures=True)
    return Permutations(weights_GB, permutations, False)


def _keys(groups: int, seed: int, start: int, size: int) -> NDArray[np.uint32]:
    """Draws the keys of a range of permutations, [B, G].

    Permutation b starts at block b·⌈G/8⌉ of the generator, with 8 keys per block. Threads can therefore draw any range.
    """
    blocks = -(-groups // 8)
    generator = _philox(seed)
    generator.advance(start * blocks)
    raw_BW = generator.random_raw(size * blocks * 4).astype("<u8", copy=False).reshape(size, blocks * 4)
    return raw_BW.view("<u4")[:, :groups]


def _smallest(keys_BG: NDArray[np.uint32], count: int) -> NDArray[np.bool_]:
    """Returns a mask of the `count` smallest keys of each row. Among equal keys, the first one counts as smaller."""
    last_B = np.partition(keys_BG, count - 1, axis=1)[:, count - 1]
    chosen_BG = keys_BG <= last_B[:, None]
    for row in np.flatnonzero(chosen_BG.sum(axis=1) > count):  # equal keys at the threshold, about once in 10⁵ rows
        chosen_BG[row] = False
        chosen_BG[row, np.argsort(keys_BG[row], kind="stable")[:count]] = True
    return chosen_BG


def weighted_sums(
    values_VG: NDArray[np.float64], permutations: Permutations, context: WorkContext = UNLIMITED
) -> NDArray[np.float64]:
    """Returns the sums of the groups' values, weighted by each permutation, [V, B].

    Converts few weights at a time to float64. Checks `context` before every few groups.
    """
    groups, count = permutations.weights_GB.shape
    sums_VB = np.zeros((values_VG.shape[0], count))
    step = max(1, _KEYS_AT_ONCE // max(8 * count, 1))
    for start in range(0, groups, step):
        context.checkpoint()
        span = slice(start, start + step)
        sums_VB += values_VG[:, span] @ permutations.weights_GB[span].astype(np.float64)
    return sums_VB


def _philox(seed: int) -> np.random.Philox:
    """Returns a random generator with the seed as its key."""
    return np.random.Philox(key=seed)
