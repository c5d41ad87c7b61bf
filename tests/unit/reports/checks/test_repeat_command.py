"""The command that repeats a check: the command line reads the same request from it."""

import shlex
from types import SimpleNamespace

import pytest

from vfmalign.cli.__main__ import run
from vfmalign.cli.target import Target
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.reports.checks.repeat_command import write_repeat_command

PLAIN = CheckSpec(model_id="m", dataset_id="d", task="segmentation", recipe=Recipe(preset="default"))


@pytest.fixture
def read_command(monkeypatch):
    """Runs a command line up to the request, and returns that."""

    def read(command):
        requests = []

        def create(name, spec):
            requests.append(spec)
            return SimpleNamespace(check_id=name, state="queued", to_json_dict=dict), (), ()

        client = SimpleNamespace(checks=SimpleNamespace(create_with_plans=create))
        target = SimpleNamespace(get_command=lambda words: f"vfmalign {words}", run=lambda call: call(client))
        monkeypatch.setattr(Target, "find", lambda home: target)
        monkeypatch.setattr("vfmalign.cli.commands.api.checks.find_dataset", lambda *_: None)
        program, *words = shlex.split(command)
        assert program == "vfmalign"
        assert run([*words, "--no-wait"]) == 0
        return requests[0]

    return read


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seed": 2025, "permutations": 500, "bootstrap_resamples": 300, "interval_level": 0.9},
        {"seeds": 5, "random_seeds": 8},
        {"task": "segmentation:label=hippocampus,structure=anterior", "smallest_difference": 0.02},
        {"task": "translation:from=t1w+flair,to=t2w", "modality_map": {"t1w": "input", "flair": "other"}},
        {"layers": ("stages.0", "stages.3")},
        {"allow_cut_organs": True},
        {"frozen": True},
        {"require_licence": "Apache-*"},
        {
            "recipe": Recipe(
                preset="demo", epochs=8, steps_per_epoch=12, batch_size=1, learning_rate=3e-5, weight_decay=0.05,
                layer_decay=0.8, encoder_rate=0.0, warmup_fraction=0.0, patch_shape_dhw=(8, 32, 32),
            )
        },
    ],
)  # fmt: skip
def test_the_command_line_reads_the_same_request(read_command, fields):
    spec = CheckSpec.model_validate(PLAIN.model_dump(mode="json") | {
        name: value.model_dump(mode="json") if isinstance(value, Recipe) else value for name, value in fields.items()
    })  # fmt: skip
    assert read_command(write_repeat_command(spec)) == spec


@pytest.mark.parametrize(
    "fields",
    [
        {"shuffled_labels": True},
        {"random_weights": True},
        {"scratch_recipe": Recipe()},
        {"seed": 8, "recipe_seed": 7},
    ],
)
def test_there_is_no_command_where_the_command_line_lacks_an_option(fields):
    assert write_repeat_command(PLAIN.model_copy(update=fields)) == ""
