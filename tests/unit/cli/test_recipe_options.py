"""A recipe and a task come from a file, from `--set` and from options, and from no two of them at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import Invoke

from vfmalign.cli import exits
from vfmalign.cli.recipe_options import (
    MAX_RECIPE_BYTES,
    RECIPE,
    TASK,
    build_recipe,
    build_task,
    read_recipe,
)
from vfmalign.cli.set_option import parse_settings
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.errors import BadOption

OF_TASK = ("--task", "segmentation")
COMMANDS = {
    "check": ("check", "d1", "--model", "m1", *OF_TASK, "--no-wait"),
    "experiment": ("experiment", "d1", "--model", "m1", *OF_TASK, "--no-wait"),
    "finetune": ("finetune", "d1", "--model", "m1", *OF_TASK, "--no-wait"),
    "pretrain": ("models", "pretrain", "d1", "--no-wait"),
}
CHECK = COMMANDS["check"]
FULL_RECIPE = Recipe(
    preset="demo", epochs=8, steps_per_epoch=12, batch_size=3, learning_rate=0.5, weight_decay=0.25, layer_decay=0.75,
    encoder_rate=0.125, warmup_fraction=0.2, patch_shape_dhw=(8, 32, 16),
)  # fmt: skip
SETTINGS = {
    "batch_size": "3", "learning_rate": "0.5", "weight_decay": "0.25", "layer_decay": "0.75", "encoder_rate": "0.125",
    "warmup_fraction": "0.2", "patch_shape_dhw": "8, 32,16",
}  # fmt: skip
TOML = """
preset = "demo"
epochs = 8
steps_per_epoch = 12
batch_size = 3
learning_rate = 0.5
weight_decay = 0.25
layer_decay = 0.75
encoder_rate = 0.125
warmup_fraction = 0.2
patch_shape_dhw = [8, 32, 16]
"""


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_field_of_a_recipe_reaches_the_service(
    invoke: Invoke, created: list[Any], tmp_path: Path, command: tuple[str, ...]
) -> None:
    options = ["--preset", "demo", "--epochs", "8", "--steps-per-epoch", "12"]
    pairs = [word for field, value in SETTINGS.items() for word in ("--set", f"recipe.{field}={value}")]
    as_json = write(tmp_path, json.dumps(FULL_RECIPE.model_dump(exclude_defaults=True)), "recipe.json")
    for words in (
        [*options, *pairs],
        ["--recipe", str(write(tmp_path, TOML))],
        ["--recipe", str(as_json)],
    ):
        code, _, err = invoke(*command, *words)
        assert (code, err.count("error")) == (0, 0), err
        assert created.pop().recipe == FULL_RECIPE


def test_a_setting_and_an_option_go_before_the_file(invoke: Invoke, created: list[Any], tmp_path: Path) -> None:
    file = str(write(tmp_path, TOML))
    assert (
        invoke(*CHECK, "--recipe", file, "--set", "recipe.batch_size=7", "--epochs", "2", "--preset", "default")[0] == 0
    )
    changes = {"batch_size": 7, "epochs": 2, "preset": "default"}
    assert created[0].recipe == FULL_RECIPE.model_copy(update=changes)


def test_fields_that_nothing_sets_stay_absent() -> None:
    recipe = build_recipe(parse_settings(["recipe.weight_decay=0"], RECIPE))
    assert recipe == Recipe(preset="default", weight_decay=0.0)


@pytest.mark.parametrize(
    ("words", "option", "cause", "remedy"),
    [
        ("--set recipe.epoch=4", "--set", "there is no key 'recipe.epoch'", "recipe.epochs, recipe.steps_per_epoch"),
        ("--set epochs=4", "--set", "there is no key 'epochs'", "task.modalities"),
        ("--set recipe.epochs", "--set", "recipe.epochs has no value", "use recipe.epochs=VALUE once"),
        ("--set recipe.epochs=4 --set recipe.epochs=4", "--set", "is given twice", "recipe.epochs=VALUE once"),
        ("--set recipe.epochs=4.5", "--set", "'4.5' is not", "a whole number from 1 to 10,000"),
        ("--set recipe.epochs=0", "--set", "'0' is not a value of recipe.epochs", "a whole number from 1 to 10,000"),
        ("--set recipe.learning_rate=11", "--set", "'11' is not", "a number from 0 to 10"),
        ("--set recipe.learning_rate=nan", "--set", "'nan' is not", "a number from 0 to 10"),
        ("--set recipe.layer_decay=0", "--set", "'0' is not", "a number above 0, at most 1"),
        ("--set recipe.patch_shape_dhw=8,32", "--set", "expected no size or 3 sizes, got 2", "separated by commas"),
        ("--set recipe.patch_shape_dhw=8,0,8", "--set", "'0' is not a value of recipe.patch", "from 1 to 1,024"),
        ("--set recipe.preset=huge", "--preset", "'huge' is not a valid value", "choose one of demo, default"),
        ("--preset huge", "--preset", "'huge' is not a valid value", "choose one of demo, default"),
        ("--set recipe.epochs=4 --epochs 5", "--epochs", "recipe.epochs is also set by --set", "set it once"),
        ("--set recipe.preset=demo --preset demo", "--preset", "is also set by --set", "set it once"),
        ("--set task.labels=Gland", "--set", "'Gland' is not a value of task.labels", "up to 16 ids"),
        (f"--set task.labels={','.join('abcdefghijklmnopq')}", "--set", "not a value of task.labels", "up to 16 ids"),
        ("--label Gland", "--label", "'Gland' is not a value of task.labels", "up to 16 ids"),
        ("--set task.labels=gland --label gland", "--label", "task.labels is also set by --set", "once"),
        ("--set task.class_name=a --class b", "--class", "task.class_name is also set by --set", "once"),
        ("--set task.at_least=2 --at-least 3", "--at-least", "task.at_least is also set by --set", "once"),
        ("--set task.at_least=16", "--set", "'16' is not a value of task.at_least", "a whole number from 0 to 15"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_with_its_key_and_choices(
    invoke: Invoke, created: list[Any], words: str, option: str, cause: str, remedy: str
) -> None:
    code, out, err = invoke(*CHECK, *words.split())
    assert (code, out, created) == (exits.BAD_INPUT, "", [])
    assert err.startswith(f"error: {option}: ")
    first, second = err.splitlines()
    assert cause in first
    assert remedy in second


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("epoch = 4", "r.toml", ["there is no key 'epoch'", "epochs, steps_per_epoch"]),
        ('epochs = "4"', "r.toml", ["'4' is not a value of recipe.epochs", "a whole number from 1 to 10,000"]),
        ("epochs = 1979-05-27", "r.toml", ["'1979-05-27' is not a value of recipe.epochs", "a whole number"]),
        ("epochs = true", "r.toml", ["'True' is not a value of recipe.epochs", "a whole number"]),
        ("epochs = 20000", "r.toml", ["'20000' is not a value of recipe.epochs", "1 to 10,000"]),
        ("learning_rate = nan", "r.toml", ["'nan' is not a value of recipe.learning_rate", "from 0 to 10"]),
        ("patch_shape_dhw = [8, 32]", "r.toml", ["expected no size or 3 sizes, got 2"]),
        ("[recipe]\nepochs = 4", "r.toml", ["there is no key 'recipe'", "epochs"]),
        ("epochs = ", "r.toml", ["cannot be read", "TOML or JSON"]),
        ("epochs = 4\nepochs = 5", "r.toml", ["cannot be read"]),
        ("a = " + "[" * 5000, "r.toml", ["cannot be read"]),
        ('{"epochs": 4, "epochs": 5}', "r.json", ["cannot be read"]),
        ("[4]", "r.json", ["not a table of keys"]),
        ("[" * 5000, "r.json", ["cannot be read"]),
        ("#" * (MAX_RECIPE_BYTES + 1), "r.toml", ["cannot be read", "64 KiB"]),
    ],
)
def test_a_wrong_file_is_refused_with_its_key_and_choices(
    invoke: Invoke, created: list[Any], tmp_path: Path, text: str, name: str, words: list[str]
) -> None:
    code, out, err = invoke(*CHECK, "--recipe", str(write(tmp_path, text, name)))
    assert (code, out, created) == (exits.BAD_INPUT, "", [])
    assert err.startswith("error: --recipe: ")
    assert len(err.splitlines()) == 2
    for word in words:
        assert word in err


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    for path in (tmp_path / "gone.toml", tmp_path, tmp_path / "bytes.toml"):
        with pytest.raises(BadOption, match="cannot be read"):
            read_recipe(path)


def test_an_experiment_and_a_pretraining_have_no_key_of_a_task(invoke: Invoke, created: list[Any]) -> None:
    for command in ("experiment", "pretrain"):
        code, _, err = invoke(*COMMANDS[command], "--set", "task.labels=gland")
        assert code == exits.BAD_INPUT
        assert "there is no key 'task.labels'" in err
    assert created == []


@pytest.mark.parametrize(
    ("task", "settings", "options", "text"),
    [
        ("segmentation", [], {}, "segmentation"),
        (
            "segmentation", [], {"labels": ["gland,lesions"], "structures": ["lesion"]},
            "segmentation:label=gland+lesions,structure=lesion",
        ),
        ("segmentation", [], {"labels": ["gland", "lesions"]}, "segmentation:label=gland+lesions"),
        ("segmentation:label=gland", [], {"structures": ["gland"]}, "segmentation:label=gland,structure=gland"),
        ("classification", [], {"class_name": "disease"}, "classification:class=disease"),
        ("classification", [], {"grade": "pirads", "at_least": 3}, "classification:grade=pirads,at_least=3"),
        ("classification", ["task.at_least=3"], {"grade": "pirads"}, "classification:grade=pirads,at_least=3"),
        ("regression", [], {"number": "volume"}, "regression:number=volume"),
        ("translation", ["task.inputs=t2w, dwi", "task.target=adc"], {}, "translation:from=t2w+dwi,to=adc"),
        ("distortion", ["task.modalities=dwi"], {}, "distortion:modality=dwi"),
        ("segmentation", ["task.labels=gland"], {"structures": ["gland"]}, "segmentation:label=gland,structure=gland"),
    ],
)  # fmt: skip
def test_a_task_is_built_from_its_short_form_settings_and_options(
    task: str, settings: list[str], options: dict[str, Any], text: str
) -> None:
    assert build_task(task, parse_settings(settings, TASK), **options) == Task.parse(text)


def test_a_parameter_in_the_short_form_is_named_nowhere_else() -> None:
    with pytest.raises(BadOption, match=r"task\.labels is also set by --task") as caught:
        build_task("segmentation:label=gland", parse_settings([], TASK), labels=["lesions"])
    assert caught.value.field == "--label"
    with pytest.raises(BadOption, match=r"task\.labels is also set by --task") as caught:
        build_task("segmentation:label=gland", parse_settings(["task.labels=lesions"], TASK))
    assert caught.value.field == "--set"


@pytest.mark.parametrize("command", ["check", "finetune"])
@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--task segmentation --label gland --structure peripheral", "segmentation:label=gland,structure=peripheral"),
        ("--task classification --class disease", "classification:class=disease"),
        ("--task classification --grade pirads --at-least 3", "classification:grade=pirads,at_least=3"),
        ("--task regression --number volume", "regression:number=volume"),
        ("--task translation --set task.inputs=t2w,dwi --set task.target=adc", "translation:from=t2w+dwi,to=adc"),
        ("--task distortion:modality=dwi", "distortion:modality=dwi"),
    ],
)
def test_a_task_reaches_the_service(invoke: Invoke, created: list[Any], command: str, words: str, text: str) -> None:
    assert invoke(command, "d1", "--model", "m1", *words.split(), "--no-wait")[0] == 0
    assert str(created[0].task) == text


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_help_lists_every_key_with_its_meaning_values_and_default(invoke: Invoke, command: tuple[str, ...]) -> None:
    group = command[: 2 if command[0] == "models" else 1]
    code, out, _ = invoke(*group, "--help")
    assert code == exits.OK
    groups = (RECIPE, TASK) if command[0] in {"check", "finetune"} else (RECIPE,)
    entries = dict(re.findall(r"^  ((?:recipe|task)\.\w+)\n((?:    .+\n?)+)", out, re.MULTILINE))
    assert list(entries) == [group.name(field) for group in groups for field in group.schemas]
    for key, text in entries.items():
        meaning, _, values = " ".join(text.split()).partition(" Value: ")
        record, _, field = key.partition(".")
        description = {"recipe": RECIPE, "task": TASK}[record].record.model_fields[field].description
        assert meaning == " ".join((description or "").split()) != ""
        assert values.endswith(".")
        assert ("Default: " in values) == (record == "recipe")
