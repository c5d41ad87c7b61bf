"""How much of its preset each network of a check is trained."""

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.recipes import MIN_SHARE, find_shortest_budget, list_budgets


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
