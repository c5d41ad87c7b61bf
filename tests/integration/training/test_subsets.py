"""Trainings on subsets of the training cases."""

import pytest
from tests.integration.training.conftest import comparable

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.training_subsets import draw_subset
from vfmalign.core.storage.model_cards import load_card


def test_all_networks_of_a_seed_train_on_the_same_subset_which_their_cards_name(store, make_spec, finish, dataset):
    drawn = draw_subset([case.group for case in dataset.train], [""] * 4, 3, 1)
    expected = tuple(dataset.train[place].id for place in drawn)
    for network in ("pretrained", "scratch", "specialised"):
        publish_as = "" if network == "specialised" else f"few-{network}-encoder"
        result = finish(make_spec(f"few-{network}", network=network, train_cases=3, publish_as=publish_as))
        assert result.train_subset == expected
        assert len(result.curve) == 3, "the recipe does not change"
        if publish_as:
            seen = load_card(store, publish_as).pretraining[-1].groups
            groups = {
                case.group for case in (*dataset.train, *dataset.val) if case.id in expected or case in dataset.val
            }
            assert set(seen) == groups


def test_a_subset_changes_the_training_and_the_number_of_all_cases_does_not(make_spec, finish):
    every, four, two = (finish(make_spec(f"n{count}", train_cases=count)) for count in (0, 4, 2))
    assert every.train_subset == ()
    assert len(four.train_subset) == 4
    assert comparable(four) == comparable(every) | {"train_subset": four.train_subset}
    assert two.curve[-1].train_loss != every.curve[-1].train_loss


def test_classes_that_derive_from_label_maps_stratify_the_subset(make_spec, finish):
    for seed in range(3):
        result = finish(make_spec(f"classes-{seed}", task="classification", train_cases=2, seed=seed))
        assert sorted(result.train_labels.values()) == [False, True]
        assert tuple(result.train_labels) == result.train_subset


def test_a_job_with_too_many_cases_is_refused_before_it_loads_a_case(make_spec, finish):
    with pytest.raises(BadOption, match="5 training cases are more than the 4 of `train`"):
        finish(make_spec("many", train_cases=5))
