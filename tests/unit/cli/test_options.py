"""Commands take the options of their recipe, and pass a recipe on."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from vfmalign.cli.commands.api.checks import check
from vfmalign.cli.commands.api.experiments import parse_smallest_differences
from vfmalign.cli.commands.api.models import pretrain
from vfmalign.cli.options import (
    NETWORKS,
    build_pretraining_recipe,
    build_recipe,
    build_task,
    parse_choice,
    parse_map,
    parse_shape,
    with_recipe,
)
from vfmalign.client.messages.experiments import SmallestDifference
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.errors import BadOption


def test_a_command_has_the_options_of_its_recipe_in_the_place_of_the_recipe() -> None:
    names = list(inspect.signature(check).parameters)
    start = names.index("preset")
    assert names[start - 1 : start + 11] == ["layer", *inspect.signature(build_recipe).parameters, "permutations"]
    assert "recipe" not in names
    assert not {"layer_decay", "patch", "probe_step"} & set(inspect.signature(pretrain).parameters)


def test_a_command_receives_the_recipe_that_its_options_describe() -> None:
    received: dict[str, Any] = {}

    @with_recipe(build_pretraining_recipe)
    def command(dataset: str, *, recipe: Recipe, seed: int = 0) -> None:
        received.update(dataset=dataset, recipe=recipe, seed=seed)

    options = dict.fromkeys(inspect.signature(build_pretraining_recipe).parameters)
    command(dataset="d1", seed=3, **options | {"preset": "demo", "epochs": 5, "learning_rate": 0.5})
    recipe = Recipe(preset="demo", epochs=5, learning_rate=0.5)
    assert received == {"dataset": "d1", "recipe": recipe, "seed": 3}


def test_fields_that_no_option_sets_stay_absent() -> None:
    recipe = build_recipe(preset="default", weight_decay=0.0, patch="8,32,16")
    assert recipe.weight_decay == 0.0
    assert recipe.epochs is None
    assert recipe.patch_shape_dhw == (8, 32, 16)


def test_a_number_out_of_range_is_named() -> None:
    with pytest.raises(BadOption) as caught:
        build_recipe(learning_rate=11.0)
    assert caught.value.field == "learning_rate"


def test_a_choice_is_one_of_the_values_or_names_them() -> None:
    assert parse_choice("scratch", NETWORKS, "--network") == "scratch"
    with pytest.raises(BadOption) as caught:
        parse_choice("scratched", NETWORKS, "--network")
    assert caught.value.field == "--network"
    assert caught.value.remedy == "choose one of pretrained, scratch, specialised"


@pytest.mark.parametrize("text", ["8,32", "8,32,0", "8,32,-1", "8,32,x", "", "8,32,16,1"])
def test_a_shape_is_three_positive_integers(text: str) -> None:
    with pytest.raises(BadOption, match="three positive integers"):
        parse_shape(text, "--patch")


def test_smallest_differences_name_their_metric() -> None:
    assert parse_smallest_differences(["lesion_dice=0.02", "psnr = .5"]) == (
        SmallestDifference(metric="lesion_dice", value=0.02),
        SmallestDifference(metric="psnr", value=0.5),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.02", "not METRIC=VALUE"),
        ("lesion_dice", "not METRIC=VALUE"),
        ("lesion_dice=small", "not METRIC=VALUE"),
        ("lesion_dice=0", "out of range"),
        ("lesion_dice=-0.1", "out of range"),
        ("lesion_dice=1001", "out of range"),
        ("lesion_dice=nan", "finite number"),
        ("lesion_dice=inf", "finite number"),
    ],
)
def test_a_smallest_difference_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_smallest_differences([text])
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"task": "segmentation"}, "segmentation"),
        (
            {"task": "segmentation", "label": ["gland,lesions"], "structure": ["lesion"]},
            "segmentation:label=gland+lesions,structure=lesion",
        ),
        ({"task": "segmentation", "label": ["gland", "lesions"]}, "segmentation:label=gland+lesions"),
        ({"task": "segmentation:label=gland", "structure": ["gland"]}, "segmentation:label=gland,structure=gland"),
        ({"task": "classification", "class_name": "disease"}, "classification:class=disease"),
        (
            {"task": "translation", "from_modality": ["t2w, dwi"], "to_modality": "adc"},
            "translation:from=t2w+dwi,to=adc",
        ),
        ({"task": "distortion", "modality": ["dwi"]}, "distortion:modality=dwi"),
    ],
)
def test_a_task_is_built_from_its_options_and_its_short_form(options: dict[str, Any], text: str) -> None:
    assert build_task(**options) == Task.parse(text)


def test_a_parameter_of_a_task_is_named_once_and_is_an_id() -> None:
    with pytest.raises(BadOption, match="label stands in --task as well") as caught:
        build_task(task="segmentation:label=gland", label=["lesions"])
    assert caught.value.field == "--label"
    with pytest.raises(BadOption, match="a name is not an id") as caught:
        build_task(task="segmentation", label=["Gland"])
    assert caught.value.field == "--label"


def test_commands_have_the_options_of_a_task() -> None:
    names = list(inspect.signature(check).parameters)
    assert names[:9] == ["dataset", *inspect.signature(build_task).parameters, "model"]


def test_a_map_is_pairs_of_a_modality_and_an_input() -> None:
    assert parse_map(["t1w=input", "flair=second"]) == {"t1w": "input", "flair": "second"}
    assert parse_map(None) == {}


@pytest.mark.parametrize("pairs", [["t1w"], ["=input"], ["t1w="], ["t1w=a", "t1w=b"]])
def test_a_pair_of_another_form_is_refused_with_an_example(pairs: list[str]) -> None:
    with pytest.raises(BadOption, match="does not map another modality") as caught:
        parse_map(pairs)
    assert caught.value.field == "--map"
    assert "--map t1w=input" in caught.value.remedy
