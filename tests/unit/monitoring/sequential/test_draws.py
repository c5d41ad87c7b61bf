"""Draws are uniform, and depend on their purpose and number alone."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from math import comb

import numpy as np
import pytest

from vfmalign.monitoring.sequential.block_scores import SPACINGS
from vfmalign.monitoring.sequential.draws import Draws, Purpose, choose_subset, choose_subsets


def test_draws_stay_the_same_in_every_version() -> None:
    drawn = Draws(seed=7, epoch=2).draw_uniforms(Purpose.CHANNELS, 3, 3)
    assert drawn.tolist() == [0.5873099315946427, 0.6779556137000026, 0.5363106329196671]


def test_pools_have_draws_of_their_own() -> None:
    pools = [Purpose.POOL + width for width in SPACINGS]
    assert len({*pools, *Purpose}) == len(pools) + len(Purpose)


def test_draws_do_not_depend_on_their_number_or_on_others() -> None:
    draws = Draws(7, 1)
    longer = draws.draw_uniforms(Purpose.TIES, 5, 100)
    assert draws.draw_uniforms(Purpose.TIES, 5, 10).tolist() == longer[:10].tolist()
    others = [draws.draw_uniforms(Purpose.TIES, 6, 100), draws.draw_uniforms(Purpose.POOL, 5, 100)]
    others += [Draws(7, 2).draw_uniforms(Purpose.TIES, 5, 100), Draws(8, 1).draw_uniforms(Purpose.TIES, 5, 100)]
    for other in others:
        assert not np.intersect1d(longer, other).size


@pytest.mark.parametrize(("members", "size"), [(4, 1), (5, 2), (6, 3), (4, 4)])
def test_every_subset_is_equally_likely(members: int, size: int) -> None:
    grids = [(np.arange(last) + 0.5) / last for last in range(members - size + 1, members + 1)]
    subsets_WB = choose_subsets(np.array(list(product(*grids))).T, members)
    counts = Counter(tuple(sorted(subset)) for subset in subsets_WB.T.tolist())
    assert set(counts) == set(combinations(range(members), size))
    assert set(counts.values()) == {subsets_WB.shape[1] // comb(members, size)}


def test_a_subset_takes_the_smallest_numbers_in_order() -> None:
    assert choose_subset(np.array([0.9, 0.1, 0.5, 0.2]), 2).tolist() == [1, 3]
    assert choose_subset(np.array([0.9, 0.1]), 2).tolist() == [0, 1]
