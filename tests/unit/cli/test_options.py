"""Commands take the options of their recipe, and pass a recipe on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cli.conftest import Invoke, answer_checks

from vfmalign.cli import exits
from vfmalign.cli.commands.api.experiments import parse_smallest_differences
from vfmalign.cli.options import (
    NETWORKS,
    build_recipe,
    build_task,
    parse_choice,
    parse_map,
    parse_shape,
)
from vfmalign.cli.resources import Resource
from vfmalign.client.messages.experiments import SmallestDifference
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.errors import BadOption


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
            {"task": "segmentation", "labels": ["gland,lesions"], "structures": ["lesion"]},
            "segmentation:label=gland+lesions,structure=lesion",
        ),
        ({"task": "segmentation", "labels": ["gland", "lesions"]}, "segmentation:label=gland+lesions"),
        ({"task": "segmentation:label=gland", "structures": ["gland"]}, "segmentation:label=gland,structure=gland"),
        ({"task": "classification", "class_name": "disease"}, "classification:class=disease"),
        (
            {"task": "translation", "from_modalities": ["t2w, dwi"], "to_modality": "adc"},
            "translation:from=t2w+dwi,to=adc",
        ),
        ({"task": "distortion", "modalities": ["dwi"]}, "distortion:modality=dwi"),
    ],
)
def test_a_task_is_built_from_its_options_and_its_short_form(options: dict[str, Any], text: str) -> None:
    assert build_task(**options) == Task.parse(text)


def test_a_parameter_of_a_task_is_named_once_and_is_an_id() -> None:
    with pytest.raises(BadOption, match="label stands in --task as well") as caught:
        build_task(task="segmentation:label=gland", labels=["lesions"])
    assert caught.value.field == "--label"
    with pytest.raises(BadOption, match="a name is not an id") as caught:
        build_task(task="segmentation", labels=["Gland"])
    assert caught.value.field == "--label"


def test_a_map_is_pairs_of_a_modality_and_an_input() -> None:
    assert parse_map(["t1w=input", "flair=second"]) == {"t1w": "input", "flair": "second"}
    assert parse_map(None) == {}


@pytest.mark.parametrize("pairs", [["t1w"], ["=input"], ["t1w="], ["t1w=a", "t1w=b"]])
def test_a_pair_of_another_form_is_refused_with_an_example(pairs: list[str]) -> None:
    with pytest.raises(BadOption, match="does not map another modality") as caught:
        parse_map(pairs)
    assert caught.value.field == "--map"
    assert "--map t1w=input" in caught.value.remedy


RECIPE = (
    "--preset demo --epochs 8 --steps-per-epoch 12 --batch-size 3 --learning-rate 0.5 --weight-decay 0.25 "
    "--layer-decay 0.75 --encoder-rate 0.125 --patch 8,32,16 --probe-step 48 --probe-step 12"
)
FULL_RECIPE = Recipe(
    preset="demo", epochs=8, steps_per_epoch=12, batch_size=3, learning_rate=0.5, weight_decay=0.25, layer_decay=0.75,
    encoder_rate=0.125, patch_shape_dhw=(8, 32, 16), probe_steps=(12, 48),
)  # fmt: skip


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A deployment without a network behind it; holds the specifications of what was created."""
    specs: list[Any] = []

    def create(name: str, spec: object) -> SimpleNamespace:
        specs.append(spec)
        return SimpleNamespace(check_id=name, state="queued", cells=(), to_json_dict=dict)

    monkeypatch.setattr(Resource, "create", lambda resource, target, name, spec: create(name, spec))
    answer_checks(monkeypatch, lambda name, spec: (create(name, spec), ()))
    return specs


@pytest.mark.parametrize("command", ["check", "experiment", "finetune"])
def test_every_option_of_a_recipe_reaches_the_service(invoke: Invoke, created: list[Any], command: str) -> None:
    code, _, err = invoke(command, "d1", "--model", "m1", "--task", "segmentation", *RECIPE.split(), "--no-wait")
    assert (code, err.count("error")) == (0, 0)
    assert created[0].recipe == FULL_RECIPE


def test_a_pretraining_has_the_options_of_its_recipe(invoke: Invoke, created: list[Any]) -> None:
    options, _, rest = RECIPE.partition(" --layer-decay")
    assert invoke("models", "pretrain", "d1", *options.split(), "--no-wait")[0] == 0
    own = {"layer_decay": None, "encoder_rate": None, "patch_shape_dhw": (), "probe_steps": ()}
    assert created[0].recipe == FULL_RECIPE.model_copy(update=own)
    assert invoke("models", "pretrain", "d1", "--layer-decay", *rest.split())[0] == exits.BAD_INPUT


@pytest.mark.parametrize("command", ["check", "finetune"])
@pytest.mark.parametrize(
    "options",
    [
        "--task segmentation --label gland --structure peripheral",
        "--task classification --class disease",
        "--task translation --from t2w,dwi --to adc",
        "--task distortion --modality dwi",
    ],
)
def test_every_option_of_a_task_reaches_the_service(
    invoke: Invoke, created: list[Any], command: str, options: str
) -> None:
    assert invoke(command, "d1", "--model", "m1", *options.split(), "--no-wait")[0] == 0
    name, _, parameters = options.removeprefix("--task ").partition(" --")
    text = ",".join(part.replace(" ", "=").replace(",", "+") for part in parameters.split(" --"))
    assert str(created[0].task) == f"{name}:{text}"


def test_a_check_has_three_seeds_and_as_many_trainings_of_random_weights_as_told(
    invoke: Invoke, created: list[Any]
) -> None:
    command = ("check", "d1", "--model", "m1", "--task", "segmentation", "--no-wait")
    assert invoke(*command)[0] == invoke(*command, "--random-seeds", "6")[0] == 0
    assert [(spec.seeds, spec.random_seeds) for spec in created] == [(3, 0), (3, 6)]
    assert invoke(*command, "--random-seeds", "21")[0] == exits.BAD_INPUT
