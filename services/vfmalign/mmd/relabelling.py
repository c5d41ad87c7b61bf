"""Relabellings of groups: swaps of pairs and permutations of independent samples. Knows nothing of kernels or rows.

Random ones come from a counter-based generator (Philox; Salmon et al., SC 2011) in one fixed order on the CPU: they
depend on the seed and the number of groups alone, never on tile size, device or layer, and the first B of a longer run
are the same.

Legend: G groups, B relabellings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST_GROUPS = 8
ENUMERATED_GROUPS = 12
_KEYS_AT_ONCE = 2**22

SignArray = NDArray[np.int8]


@dataclass(frozen=True)
class Relabellings:
    """Weights of groups in each relabelling, and how p-values count them.

    Attributes:
        weights_GB: ±1 per group for swaps; 1 where a group is labelled x and 0 where y for permutations.
        count: relabellings they stand for.
        enumerated: whether they are all there are, the identity included.
        multiplicity: how many of `count` each column stands for: s and −s swap into the same statistic.
        absent_reason: why there is no test; empty where there is one.
    """

    weights_GB: SignArray  # noqa: N815
    count: int
    enumerated: bool
    multiplicity: int = 1
    absent_reason: str = ""


def none(groups: int, reason: str) -> Relabellings:
    """No relabellings, and why."""
    return Relabellings(np.zeros((groups, 0), np.int8), 0, False, absent_reason=reason)


def swaps(groups: int, relabellings: int, seed: int) -> Relabellings:
    """Swaps of x and y within groups: all 2^G of them up to 12 groups, else `relabellings` random ones.

    Where all are enumerated, group 0 is never swapped and each column counts twice.
    """
    if groups <= ENUMERATED_GROUPS:
        codes_B = np.arange(2 ** (groups - 1), dtype=np.int64)
        bits_GB = (codes_B[None, :] << 1 >> np.arange(groups)[:, None]) & 1
        return Relabellings((1 - 2 * bits_GB).astype(np.int8), 2**groups, True, multiplicity=2)
    words = -(-groups // 64)
    raw_BW = _philox(seed).random_raw(relabellings * words).reshape(relabellings, words)
    bits_BG = np.unpackbits(raw_BW.astype("<u8").view(np.uint8), axis=1, bitorder="little", count=groups)
    return Relabellings(np.ascontiguousarray((1 - 2 * bits_BG.astype(np.int8)).T), relabellings, False)


def permutations(groups_x: int, groups_y: int, relabellings: int, seed: int) -> Relabellings:
    """Random choices of `groups_x` of all groups to be labelled x; unlike swaps they are never enumerated."""
    groups = groups_x + groups_y
    generator = _philox(seed)
    weights_BG = np.zeros((relabellings, groups), np.int8)
    step = max(1, _KEYS_AT_ONCE // groups)
    for start in range(0, relabellings, step):
        size = min(step, relabellings - start)
        keys_BG = generator.random_raw(size * groups).reshape(size, groups)
        chosen = np.argsort(keys_BG, axis=1, kind="stable")[:, :groups_x]
        np.put_along_axis(weights_BG[start : start + size], chosen, 1, axis=1)
    return Relabellings(np.ascontiguousarray(weights_BG.T), relabellings, False)


def weighted(values_VG: NDArray[np.float64], relabellings: Relabellings) -> NDArray[np.float64]:
    """Sums of values over groups, weighted by each relabelling, [V, B]; weights become float64 a few at a time."""
    weights_GB = relabellings.weights_GB
    step = max(1, _KEYS_AT_ONCE // max(weights_GB.shape[0], 1))
    starts = range(0, weights_GB.shape[1], step)
    parts = [values_VG @ weights_GB[:, start : start + step].astype(np.float64) for start in starts]
    return np.concatenate(parts, axis=1) if parts else np.zeros((values_VG.shape[0], 0))


def _philox(seed: int) -> np.random.Philox:
    """The generator, keyed by the seed alone."""
    return np.random.Philox(key=seed)
