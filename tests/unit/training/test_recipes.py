"""Recipes: one for every network, task and preset, with one budget for all networks of a task."""

import subprocess
import sys

import pytest

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import TrainingRecipe
from vfmalign.core.domain.recipes import (
    PRESETS,
    check_probe_steps,
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


def probed(*steps, epochs=20):
    return TrainingRecipe(epochs=epochs, steps_per_epoch=4, batch_size=1, learning_rate=0.1, probe_steps=steps)


def test_probe_steps_must_be_validation_steps():
    for steps in ((), (4,), (4, 12, 80), tuple(range(4, 68, 4))):
        check_probe_steps(probed(*steps))


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ((0,), "no validation after step 0; choose multiples of 4 .* from 4 to 80"),
        ((-4,), "no validation after step -4"),
        ((4, 6), "no validation after step 6"),
        ((84,), "no validation after step 84"),
        ((8, 4), "ascending"),
        ((4, 4), "ascending"),
        (tuple(range(4, 72, 4)), "at most 16 probes, got 17"),
    ],
)
def test_other_probe_steps_are_rejected_with_a_remedy(steps, says):
    with pytest.raises(BadOption, match=says) as caught:
        check_probe_steps(probed(*steps))
    assert caught.value.field == "recipe.probe_steps"


def test_recipes_and_tasks_need_no_torch():
    code = "import sys, vfmalign.core.domain.recipes, vfmalign.core.domain.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
