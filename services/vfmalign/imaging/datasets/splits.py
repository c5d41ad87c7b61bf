"""Patients to splits: disjoint, seeded, never two cases of one patient in two splits.

Knows groups and shares. Knows nothing of files, volumes or storage.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from vfmalign.core.domain.artifacts import SPLITS, Split
from vfmalign.core.domain.errors import BadDataset

DEFAULT_SHARES: dict[Split, float] = {"train": 0.6, "val": 0.2, "test": 0.2}


def split_groups(groups: Collection[str], shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Deals groups out to splits by their shares, at least one to each split whose share is not zero.

    Args:
        groups: ids of the patients.
        shares: by split; they sum to 1.
        seed: the same seed and groups give the same splits.

    Raises:
        BadDataset: shares that are negative or do not sum to 1, or fewer groups than splits.
    """
    whole = math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6)
    if not whole or any(not 0.0 <= share <= 1.0 for share in shares.values()):
        raise BadDataset("the shares of the splits must lie between 0 and 1 and sum to 1", field="splits")
    wanted = [name for name in SPLITS if shares.get(name, 0.0) > 0.0]
    names = sorted(set(groups))
    if len(names) < len(wanted):
        raise BadDataset(
            f"{len(names)} patients cannot fill {len(wanted)} disjoint splits",
            field="splits",
            remedy="import more patients, or set the share of a split to 0",
        )
    counts = _counts(len(names), [shares[name] for name in wanted])
    order = np.random.default_rng(seed).permutation(len(names))
    labels = [name for name, count in zip(wanted, counts, strict=True) for _ in range(count)]
    return {names[int(i)]: label for i, label in zip(order, labels, strict=True)}


def _counts(total: int, shares: list[float]) -> list[int]:
    """Whole numbers near `total * share` that sum to `total`, each at least 1 (largest remainder)."""
    exact = [share * total for share in shares]
    counts = [max(1, int(value)) for value in exact]
    while sum(counts) != total:
        step = 1 if sum(counts) < total else -1
        movable = [i for i, count in enumerate(counts) if step > 0 or count > 1]
        furthest = max(movable, key=lambda i: step * (exact[i] - counts[i]))
        counts[furthest] += step
    return counts
