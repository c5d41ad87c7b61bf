"""Recipes: one for every network, task and preset, with one budget for all networks of a task."""

import subprocess
import sys

import pytest

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.recipes import (
    PRESETS,
    get_family,
    get_finetuning_recipe,
    get_pretraining_recipe,
)
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.training.pretraining import OBJECTIVES
from vfmalign.training.tasks import TASKS


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("task", list(TASKS))
def test_networks_of_a_task_share_their_budget(task, preset):
    recipes = {
        network: get_finetuning_recipe(network, task, preset) for network in ("pretrained", "scratch", "specialised")
    }
    assert len({(r.epochs, r.steps_per_epoch, r.batch_size, r.patch_shape_dhw) for r in recipes.values()}) == 1
    assert recipes["pretrained"].layer_decay < 1
    assert recipes["scratch"].layer_decay == recipes["specialised"].layer_decay == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_every_objective_has_a_recipe_for_every_architecture(preset):
    for objective in OBJECTIVES:
        for architecture in (*ARCHITECTURES, "monai:anything"):
            assert get_pretraining_recipe(objective, architecture, preset).batch_size >= 2


def test_the_recipe_family_follows_from_the_architecture_name():
    """The name alone decides: an orchestrator has no torch to look at the network with."""
    for name, architecture in ARCHITECTURES.items():
        blocks = any(layer.name.startswith("blocks.") for layer in architecture.layers)
        assert (get_family(name) == "transformer") == blocks
    assert get_family("monai:anything") == "convolutional"


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(
        BadOption, match="segmentation, super_resolution, denoising, distortion, translation, classification"
    ):
        get_finetuning_recipe("pretrained", "astrology")
    with pytest.raises(BadOption, match="demo, default"):
        get_finetuning_recipe("pretrained", "segmentation", "huge")
    with pytest.raises(BadOption, match="masked_reconstruction, contrastive"):
        get_pretraining_recipe("supervised", "profound_conv_micro")


def test_recipes_and_tasks_need_no_torch():
    code = "import sys, vfmalign.core.domain.recipes, vfmalign.core.domain.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
