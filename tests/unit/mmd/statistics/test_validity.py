"""Tests keep their size at fixed seeds: rejections at 5 % within the 99.9 % binomial interval.

A fast part of `python -m bench.statistics`, which draws thousands of datasets and more cases.
"""

import numpy as np
import pytest
from scipy import stats

from vfmalign.mmd import mmd_test

LEVEL = 0.05
CASES = {
    "unpaired": {"rows": (30, 40)},
    "unpaired, groups of 8 rows": {"rows": (80, 80), "per_group": 8},
    "paired, correlation 0": {"rows": (25, 25), "pairing": "paired"},
    "paired, correlation 0.95": {"rows": (25, 25), "pairing": "paired", "correlation": 0.95},
    "paired, correlation 0.95, groups of 8 rows": {
        "rows": (112, 112),
        "pairing": "paired",
        "correlation": 0.95,
        "per_group": 8,
    },
    "paired, all swaps of 10 rows": {"rows": (10, 10), "pairing": "paired", "correlation": 0.5},
    "wild bootstrap": {"rows": (30, 30), "method": "wild_bootstrap"},
    "aggregated": {"rows": (20, 20), "aggregated": True},
    "aggregated, paired": {"rows": (20, 20), "pairing": "paired", "correlation": 0.5, "aggregated": True},
}


def normal(rng, rows, per_group):
    """Rows that share most of their variance within groups: treated one by one, they would reject far too often."""
    own = rng.normal(size=(rows, 3))
    if per_group == 1:
        return own
    shared = np.repeat(rng.normal(size=(rows // per_group, 3)), per_group, axis=0)
    return np.sqrt(0.7) * shared + np.sqrt(0.3) * own


def p_values(datasets, *, rows, per_group=1, correlation=0.0, **options):
    rng = np.random.default_rng(20240612)
    labels = [[f"{which}{row // per_group}" for row in range(count)] for which, count in zip("xy", rows, strict=True)]
    found = []
    for seed in range(datasets):
        x, y = (normal(rng, count, per_group) for count in rows)
        if correlation:
            shared = normal(rng, rows[0], per_group)
            x, y = (np.sqrt(correlation) * shared + np.sqrt(1.0 - correlation) * own for own in (x, y))
        groups = {}
        if per_group > 1:
            groups = {"groups_x": labels[0], "groups_y": () if options.get("pairing") == "paired" else labels[1]}
        result = mmd_test(x, y, permutations=99, seed=seed, **groups, **{"pairing": "independent", **options})
        found.append(result.aggregated_p_value if options.get("aggregated") else result.p_value)
    return np.array(found)


@pytest.mark.parametrize("case", CASES)
def test_tests_keep_their_size(case):
    datasets = 100 if "aggregated" in case else 200
    rejected = int((p_values(datasets, **CASES[case]) <= LEVEL + 1e-12).sum())
    # Of 2^10 swaps, s and −s alike, p can be 50/1024 and not 5 %; of 99 permutations it can be 5/100.
    attainable = 50 / 1024 if "all swaps" in case else LEVEL
    low, high = stats.binom.ppf([0.0005, 0.9995], datasets, attainable)
    assert low <= rejected <= high


def test_rows_of_a_group_that_are_taken_for_groups_reject_far_too_often():
    """What the cases above would find if groups did not move together."""
    shape = {"rows": (80, 80), "per_group": 8}
    rng = np.random.default_rng(5)
    rejected = 0
    for seed in range(100):
        x, y = (normal(rng, count, shape["per_group"]) for count in shape["rows"])
        rejected += mmd_test(x, y, pairing="independent", permutations=99, seed=seed).p_value <= LEVEL
    assert rejected > 50
