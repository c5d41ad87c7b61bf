"""How much of its preset each network of a check is trained."""

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.recipes import (
    MIN_SHARE,
    find_shortest_budget,
    get_random_seeds,
    get_recipe,
    get_second_recipe,
    list_budgets,
)
from vfmalign.core.domain.models import Preprocessing


def spec(**fields):
    return CheckSpec(model_id="m", dataset_id="d", task="segmentation", **fields)


@pytest.mark.parametrize(("preset", "steps"), [("", 10_000), ("default", 10_000), ("demo", 128)])
def test_a_preset_counts_its_own_steps_as_the_recipe(preset, steps):
    budgets = list_budgets(spec(recipe=Recipe(preset=preset)))
    assert [(budget.network, budget.steps, budget.preset_steps) for budget in budgets] == [
        ("pretrained", steps, steps),
        ("scratch", steps, steps),
        ("specialised", steps, steps),
    ]


def test_other_settings_of_a_recipe_do_not_shorten_it():
    assert find_shortest_budget(spec(recipe=Recipe(learning_rate=1e-3, batch_size=1))).share == 1


def test_the_network_that_is_trained_least_decides():
    shortest = find_shortest_budget(spec(specialised_recipe=Recipe(epochs=3)))
    assert (shortest.network, str(shortest)) == ("specialised", "300 of the recipe's 10,000 steps")
    assert not shortest.suffices


@pytest.mark.parametrize(("epochs", "suffices"), [(24, False), (25, True), (400, True)])
def test_a_quarter_of_the_steps_suffices(epochs, suffices):
    assert MIN_SHARE == 0.25
    assert find_shortest_budget(spec(recipe=Recipe(epochs=epochs))).suffices == suffices


def test_random_weights_are_trained_by_the_recipe_of_the_pretrained_network():
    requested = spec(recipe=Recipe(preset="demo", learning_rate=1e-3, epochs=4))
    assert get_recipe(requested, "scratch") == get_recipe(requested, "pretrained")
    specialised = get_recipe(requested, "specialised")
    assert (specialised.epochs, specialised.learning_rate, specialised.encoder_rate) == (4, 5e-3, 1.0)


def test_the_two_recipes_of_a_preset_are_tried_with_one_budget():
    requested = spec(recipe=Recipe(preset="demo", epochs=4))
    model_input = Preprocessing(modalities=("t2w",), shape_dhw=(8, 16, 16))
    first, second = get_recipe(requested, "pretrained", model_input), get_second_recipe(requested, model_input)
    assert second is not None
    assert (first.learning_rate, second.learning_rate) == (8e-3, 5e-3)
    assert first.patch_shape_dhw == second.patch_shape_dhw == (8, 16, 16)
    assert second.epochs == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"recipe": Recipe(learning_rate=5e-4)},
        {"recipe": Recipe(encoder_rate=1.0)},
        {"recipe": Recipe(warmup_fraction=0.0)},
        {"scratch_recipe": Recipe()},
    ],
)
def test_a_recipe_that_is_given_is_the_only_one(fields):
    assert get_second_recipe(spec(**fields)) is None


def test_random_weights_are_trained_as_often_as_the_model_unless_told():
    assert [get_random_seeds(spec(**fields)) for fields in ({}, {"seeds": 5}, {"random_seeds": 6})] == [3, 5, 6]
