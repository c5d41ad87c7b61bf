"""Seeded splits of a dataset by patient, so that no patient appears in two splits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from vfmalign.core.domain.datasets import SPLITS, Split
from vfmalign.core.domain.errors import BadDataset

DEFAULT_SHARES: dict[Split, float] = {"train": 0.6, "val": 0.2, "test": 0.2}


def split_groups(groups: Collection[str], shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Assigns groups to splits according to the given shares. Each split with a nonzero share gets at least one group.

    Args:
        groups: ids of the patients.
        shares: share of each split; they sum to 1.
        seed: the same seed and groups always give the same splits.

    Raises:
        BadDataset: the shares are negative or do not sum to 1, or there are fewer groups than splits.
    """
    remedy = "give the share of every split, such as train=0.6, val=0.2 and test=0.2"
    if any(not 0.0 <= share <= 1.0 for share in shares.values()):
        raise BadDataset("a share is not between 0 and 1", field="share", remedy=remedy)
    if not math.isclose(total := sum(shares.values()), 1.0, abs_tol=1e-6):
        raise BadDataset(f"the shares sum to {total:.6g}, not to 1", field="share", remedy=remedy)
    split_names = [name for name in SPLITS if shares.get(name, 0.0) > 0.0]
    ordered_groups = sorted(set(groups))
    if len(ordered_groups) < len(split_names):
        raise BadDataset(
            f"{len(ordered_groups)} patients cannot fill {len(split_names)} disjoint splits",
            field="share",
            remedy="import more patients, or set the share of a split to 0",
        )
    counts = _apportion(len(ordered_groups), [shares[name] for name in split_names])
    order = np.random.default_rng(seed).permutation(len(ordered_groups))
    labels = [name for name, count in zip(split_names, counts, strict=True) for _ in range(count)]
    return {ordered_groups[int(i)]: label for i, label in zip(order, labels, strict=True)}


def _apportion(total: int, shares: list[float]) -> list[int]:
    """Whole numbers close to `total * share` that sum to `total`, each at least 1 (largest remainder)."""
    exact = [share * total for share in shares]
    counts = [max(1, int(value)) for value in exact]
    while sum(counts) != total:
        step = 1 if sum(counts) < total else -1
        movable = [i for i, count in enumerate(counts) if step > 0 or count > 1]
        most_deviating = max(movable, key=lambda i: step * (exact[i] - counts[i]))
        counts[most_deviating] += step
    return counts
