"""Subsets of training cases: nested, stratified, of whole patients, and refused where they cannot be drawn."""

from itertools import pairwise

import pytest

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.training_subsets import draw_subset

GROUPS = [f"g-{number}" for number in range(40)]
CLASSES = ["positive" if number % 4 == 0 else "negative" for number in range(40)]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_the_subset_of_a_smaller_number_is_part_of_that_of_a_larger_number(seed):
    subsets = [draw_subset(GROUPS, CLASSES, count, seed) for count in range(2, 41)]
    assert [len(subset) for subset in subsets] == list(range(2, 41))
    for smaller, larger in pairwise(subsets):
        assert set(smaller) < set(larger)
        assert larger == sorted(larger), "the order of the dataset"


def test_seeds_draw_different_subsets_and_the_order_of_the_dataset_changes_nothing():
    subsets = {tuple(draw_subset(GROUPS, CLASSES, 8, seed)) for seed in range(5)}
    assert len(subsets) == 5
    drawn = {GROUPS[place] for place in draw_subset(GROUPS, CLASSES, 8, 3)}
    assert {GROUPS[::-1][place] for place in draw_subset(GROUPS[::-1], CLASSES[::-1], 8, 3)} == drawn
    assert draw_subset(GROUPS, CLASSES, 2, 0) == [9, 12], "later versions draw the same cases"


def test_every_number_has_the_shares_of_the_classes_and_at_least_one_case_of_each():
    for seed in range(5):
        for count in range(2, 41):
            positive = sum(CLASSES[place] == "positive" for place in draw_subset(GROUPS, CLASSES, count, seed))
            assert max(1, count / 4 - 1) <= positive <= max(1, count / 4 + 1), count
    grades = [f"grade {number % 4 if number < 8 else 0}" for number in range(40)]
    assert {grades[place] for place in draw_subset(GROUPS, grades, 4, 1)} == {f"grade {g}" for g in range(4)}


def test_patients_stay_together():
    groups = [f"g-{number // 3}" for number in range(30)]
    for count, size in ((2, 3), (3, 3), (4, 6), (30, 30)):
        subset = draw_subset(groups, [""] * 30, count, 1)
        assert len(subset) == size, "the first number of whole patients that suffices"
        patients = {groups[place] for place in subset}
        assert subset == [place for place, group in enumerate(groups) if group in patients]


@pytest.mark.parametrize(
    ("groups", "classes", "count", "says"),
    [
        (GROUPS, CLASSES, 41, "41 training cases are more than the 40 of `train`; choose at most 40"),
        (
            GROUPS,
            ["grade 1", "grade 2", *["grade 0"] * 38],
            2,
            "2 training cases have no case that is grade 1; they are 1 of 38 grade 0, 0 of 1 grade 1, 1 of 1 grade 2",
        ),
        (["a", "a", "b"], ["positive", "positive", "negative"], 2, "no case that is negative; they are 0 of 1 neg"),
    ],
)
def test_numbers_that_cannot_be_drawn_are_refused_with_the_counts(groups, classes, count, says):
    with pytest.raises(BadOption) as caught:
        draw_subset(groups, classes, count, 1)
    assert says in str(caught.value)
    assert caught.value.field == "spec.train_cases"
