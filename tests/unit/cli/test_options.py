"""Commands take the options of their recipe, and pass a recipe on."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from vfmalign.cli.commands.checks import check
from vfmalign.cli.commands.models import pretrain
from vfmalign.cli.options import build_pretraining_recipe, build_recipe, parse_shape, with_recipe
from vfmalign.core.domain.errors import BadOption
from vfmalign.v1 import finetuning_pb2


def test_a_command_has_the_options_of_its_recipe_in_the_place_of_the_recipe() -> None:
    names = list(inspect.signature(check).parameters)
    start = names.index("preset")
    assert names[start - 1 : start + 11] == ["layer", *inspect.signature(build_recipe).parameters, "permutations"]
    assert "recipe" not in names
    assert not {"layer_decay", "patch", "probe_step"} & set(inspect.signature(pretrain).parameters)


def test_a_command_receives_the_recipe_that_its_options_describe() -> None:
    received: dict[str, Any] = {}

    @with_recipe(build_pretraining_recipe)
    def command(dataset: str, *, recipe: finetuning_pb2.Recipe, seed: int = 0) -> None:
        received.update(dataset=dataset, recipe=recipe, seed=seed)

    options = dict.fromkeys(inspect.signature(build_pretraining_recipe).parameters)
    command(dataset="d1", seed=3, **options | {"preset": "demo", "epochs": 5, "learning_rate": 0.5})
    recipe = finetuning_pb2.Recipe(preset="demo", epochs=5, learning_rate=0.5)
    assert received == {"dataset": "d1", "recipe": recipe, "seed": 3}


def test_fields_that_no_option_sets_stay_absent() -> None:
    recipe = build_recipe(preset="default", weight_decay=0.0, patch="8,32,16")
    assert recipe.HasField("weight_decay")
    assert not recipe.HasField("epochs")
    assert list(recipe.patch_shape_dhw) == [8, 32, 16]


@pytest.mark.parametrize("text", ["8,32", "8,32,0", "8,32,-1", "8,32,x", "", "8,32,16,1"])
def test_a_shape_is_three_positive_integers(text: str) -> None:
    with pytest.raises(BadOption, match="three positive integers"):
        parse_shape(text, "--patch")
