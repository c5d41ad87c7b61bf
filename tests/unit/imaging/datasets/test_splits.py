"""Splits are disjoint, seeded, and have the requested shares."""

import pytest

from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.datasets.splits import DEFAULT_SHARES, split_groups


@pytest.mark.parametrize("count", [3, 4, 7, 10, 101])
def test_every_group_gets_one_split_and_no_split_is_empty(count):
    groups = [f"g-{i}" for i in range(count)]
    assigned = split_groups(groups, DEFAULT_SHARES, seed=0)
    assert sorted(assigned) == sorted(groups)
    sizes = {name: list(assigned.values()).count(name) for name in DEFAULT_SHARES}
    for name, share in DEFAULT_SHARES.items():
        assert sizes[name] >= 1
        assert abs(sizes[name] - share * count) <= 1


def test_splits_depend_on_the_seed_and_not_on_the_order_of_groups():
    groups = [f"g-{i}" for i in range(40)]
    assert split_groups(groups, DEFAULT_SHARES, 1) == split_groups(groups[::-1], DEFAULT_SHARES, 1)
    assert split_groups(groups, DEFAULT_SHARES, 1) != split_groups(groups, DEFAULT_SHARES, 2)


def test_a_share_of_zero_leaves_a_split_out():
    assert set(split_groups(["a", "b", "c"], {"train": 0.0, "test": 1.0}, 0).values()) == {"test"}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"train": 0.5, "test": 0.4}, "the shares sum to 0.9, not to 1; give the share of every split"),
        ({"train": 1.5, "test": -0.5}, "a share is not between 0 and 1; give the share of every split"),
        ({"train": float("nan")}, "a share is not between 0 and 1"),
        ({}, "the shares sum to 0, not to 1"),
    ],
)
def test_rejects_invalid_shares(shares, message):
    with pytest.raises(BadDataset, match=message):
        split_groups(["a", "b", "c"], shares, 0)


def test_rejects_fewer_groups_than_splits():
    with pytest.raises(BadDataset, match="2 patients cannot fill 3 disjoint splits; import more patients"):
        split_groups(["a", "b"], DEFAULT_SHARES, 0)
