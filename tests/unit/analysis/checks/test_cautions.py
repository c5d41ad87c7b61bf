"""Cautions about how the networks of a check were trained."""

import json

import pytest

from vfmalign.analysis.checks.cautions import list_cautions


@pytest.fixture
def read_cautions(make_report):
    """Cautions by title, with these settings beside those of every check."""

    def read(**settings):
        result = make_report(settings=make_report().result.settings | settings).result
        return {caution.title: caution.text for caution in list_cautions(result)}

    return read


def test_different_recipes_of_the_two_arms_have_a_caution(read_cautions):
    recipe = {"epochs": 8, "learning_rate": 0.008, "encoder_rate": 0.01}
    own = {"recipe_pretrained": json.dumps(recipe), "recipe_scratch": json.dumps(recipe | {"learning_rate": 0.005})}
    assert "may be due to the recipe and not to pretraining" in read_cautions(**own)["Different recipes"]


def test_equal_recipes_have_none(read_cautions):
    recipe = json.dumps({"epochs": 8, "learning_rate": 0.005})
    assert "Different recipes" not in read_cautions(recipe_pretrained=recipe, recipe_scratch=recipe)
    assert "Different recipes" not in read_cautions(), "an old result without recipes"


def test_a_control_says_that_its_weights_are_random(read_cautions):
    text = read_cautions(random_weights="5")["Control"]
    assert text.startswith("In place of the model's weights, random weights were fine-tuned.")
    assert "Control" not in read_cautions()
