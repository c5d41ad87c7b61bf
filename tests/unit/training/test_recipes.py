"""Recipes: one for every network, task and preset, with one budget for all networks of a task."""

import subprocess
import sys

import pytest

from vfmalign.core.errors import BadOption
from vfmalign.core.recipes import PRESETS, pretraining_recipe_for, recipe_for
from vfmalign.training.pretraining import OBJECTIVES
from vfmalign.training.tasks import TASKS


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("task", list(TASKS))
def test_networks_of_a_task_share_their_budget(task, preset):
    recipes = {network: recipe_for(network, task, preset) for network in ("pretrained", "scratch", "specialised")}
    assert len({(r.epochs, r.steps_per_epoch, r.batch_size, r.patch_shape_DHW) for r in recipes.values()}) == 1
    assert recipes["pretrained"].layer_decay < 1
    assert recipes["scratch"].layer_decay == recipes["specialised"].layer_decay == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_every_objective_has_a_recipe(preset):
    assert all(pretraining_recipe_for(objective, preset).epochs > 0 for objective in OBJECTIVES)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(BadOption, match="segmentation, super_resolution, distortion, translation, classification"):
        recipe_for("pretrained", "astrology")
    with pytest.raises(BadOption, match="demo, default"):
        recipe_for("pretrained", "segmentation", "huge")
    with pytest.raises(BadOption, match="masked_reconstruction, contrastive"):
        pretraining_recipe_for("supervised")


def test_recipes_and_tasks_need_no_torch():
    code = "import sys, vfmalign.core.recipes, vfmalign.core.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
