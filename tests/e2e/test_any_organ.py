"""A brain dataset and a one-channel model from elsewhere, from files on disk to a report, by command line and API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.cli.commands import call
from tests.unit.imaging.datasets.brain_files import Files, lay_out_decathlon, load_cases

from vfmalign.client import Client
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.declarations import TaskParameters
from vfmalign.v1 import alignment_pb2

pytestmark = pytest.mark.e2e

CHANNELS = 8
STACK = {
    "layers": [{"channels": CHANNELS, "dilation": dilation, "activation": "silu"} for dilation in (1, 2, 1)],
    "input": {"modalities": ["input"], "spacing_mm": [2, 2, 2], "shape_dhw": [16, 24, 16]},
}
BUDGET = [
    "--preset", "demo", "--epochs", "1", "--steps-per-epoch", "2", "--set", "recipe.learning_rate=8e-3", "--seeds", "1",
    "--permutations", "99", "--bootstrap", "100",
]  # fmt: skip


@pytest.fixture(scope="module")
def brain_files(shared_folder: Path) -> list[Files]:
    """Eight cases, real ones where they are on this machine."""
    return load_cases(shared_folder)


@pytest.fixture(scope="module")
def brain(world: Any, brain_files: list[Files], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The dataset, and the model `stack` in the form in which other projects store weights."""
    folder = tmp_path_factory.mktemp("brain")
    home = ["--home", str(world.home.path), "--json"]
    share = ["--share", "train=0.5", "--share", "val=0.25", "--share", "test=0.25"]
    source = str(lay_out_decathlon(folder / "files", brain_files))
    planned = call("dataset", "import", source, "--id", "brain", *share, "--dry-run", "--json").document
    call("dataset", "import", source, "--id", "brain", *share, *home)
    assert planned["layout"] == "decathlon"
    generator = torch.Generator().manual_seed(3)
    state: dict[str, torch.Tensor] = {}
    for place, width in enumerate((1, CHANNELS, CHANNELS)):
        state[f"{2 * place}.weight"] = torch.randn(CHANNELS, width, 3, 3, 3, generator=generator) / (27 * width) ** 0.5
        state[f"{2 * place}.bias"] = torch.zeros(CHANNELS)
    torch.save(state, folder / "stack.pth")
    (folder / "stack.json").write_text(json.dumps(STACK))
    arguments = ["--as", "dilated_stack", "--description", str(folder / "stack.json"), "--id", "stack"]
    call("models", "import", str(folder / "stack.pth"), *arguments, *home)
    return "brain"


def test_the_command_line_checks_one_structure_of_a_label_map(world: Any, brain: str, tmp_path: Path) -> None:
    home = ["--home", str(world.home.path), "--json"]
    task = ["--task", "segmentation", "--label", "hippocampus", "--structure", "anterior"]
    arguments = [brain, "--model", "stack", "--map", "t1w=input", "--id", "brain-anterior", *task, *BUDGET]
    call("check", *arguments, "--reports", str(tmp_path), *home)
    result = world.get("brain-anterior").result
    assert result.metric.name == "anterior_dice"
    assert result.verdict == alignment_pb2.VERDICT_INSUFFICIENT_TRAINING, "2 of the preset's 128 steps"
    assert result.held_out
    assert any("4 training patients, fewer than 8" in caution for caution in result.cautions)
    assert {shift.mmd.layer for shift in result.shifts} == {"layers.0", "layers.1", "layers.2"}
    (page,) = tmp_path.glob("*.html")
    assert "segmentation:label=hippocampus,structure=anterior" in page.read_text()


def test_a_check_without_a_map_says_how_to_map_and_stores_nothing(world: Any, brain: str) -> None:
    task = "segmentation:label=hippocampus"
    arguments = [brain, "--model", "stack", "--task", task, "--id", "brain-unmapped", *BUDGET]
    done = call("check", *arguments, "--home", str(world.home.path), code=2)
    assert "--map t1w=input" in done.err
    with pytest.raises(AssertionError, match="no such check"):
        call("checks", "show", "brain-unmapped", "--home", str(world.home.path))


def test_the_client_checks_another_task_with_two_recipes(world: Any, brain: str) -> None:
    """Five trainings run, and the first ones by the chosen recipe take the results of two of them."""
    state = world.stack.get_state()
    spec = CheckSpec(
        model_id="stack",
        dataset_id=brain,
        task=Task(name="super_resolution", parameters=TaskParameters(modalities=("t1w",))),
        modality_map={"t1w": "input"},
        recipe=Recipe(preset="demo", epochs=1, steps_per_epoch=2),
        seeds=1,
        permutations=99,
    )
    with Client(finetuning_address=state.services["finetuning"].ports.address, token=state.token_file) as client:
        client.checks.create("brain-resolution", spec)
        check = client.checks.wait("brain-resolution", timeout_s=400)
        jobs = {job_id: client.jobs.get(job_id) for job_id in check.job_ids}
    assert check.result is not None
    trials = [f"brain-resolution-{network}-r{number}" for number in (1, 2) for network in ("pretrained", "scratch")]
    assert [job_id for job_id, job in jobs.items() if job.attempts == 1] == [*trials, "brain-resolution-specialised"]
    scores = {one: max(point.validation_score for point in jobs[one].curve if point.epoch) for one in trials}
    chosen = 1 if scores[trials[0]] + scores[trials[1]] >= scores[trials[2]] + scores[trials[3]] else 2
    for network in ("pretrained", "scratch"):
        taken, trial = jobs[f"brain-resolution-{network}"], jobs[f"brain-resolution-{network}-r{chosen}"]
        assert (taken.attempts, taken.progress.detail.split(",")[0]) == (0, f"taken from job {trial.job_id}")
        assert taken.curve == trial.curve
    report = json.loads(world.store.get("checks/brain-resolution/report.json"))
    assert report["result"]["settings"]["recipe_pretrained"] == report["result"]["settings"]["recipe_scratch"]
    assert check.result.metric.name == "psnr"
    assert check.result.rpg_specialised.cases == 2
    assert check.spec.modality_map == {"t1w": "input"}


def test_the_command_line_deletes_the_check_and_its_inputs(world: Any, brain: str) -> None:
    home = ["--home", str(world.home.path)]
    before = set(world.store.list(""))
    done = call("checks", "delete", "brain-anterior", *home, code=2)
    assert "--yes" in done.err
    planned = call("checks", "delete", "brain-anterior", "--dry-run", *home, "--json").document
    assert planned["dry_run"] is True
    assert set(world.store.list("")) == before
    deleted = call("checks", "delete", "brain-anterior", "--yes", *home, "--json").document
    assert deleted == planned | {"dry_run": False}
    gone = before - set(world.store.list(""))
    assert len(gone) == planned["deletion"]["objects"]
    assert all(key.startswith(("checks/brain-anterior/", "jobs/brain-anterior-")) for key in gone)
    assert "no such check" in call("checks", "delete", "brain-anterior", "--yes", *home, code=2).err
    refused = call("jobs", "delete", "brain-resolution-pretrained", "--yes", *home, code=2)
    assert "a part of the check brain-resolution" in refused.err
    # The marks of the inputs of work that has ended stay for up to two minutes.
    for key in world.store.list("uses/"):
        world.store.delete(key)
    shown = call("dataset", "delete", brain, "--yes", *home).out
    assert f"dataset {brain} is deleted: 18 objects" in shown
    call("models", "delete", "stack", "--yes", *home)
    deleted_prefixes = ("volumes/brain/", "datasets/brain/", "models/stack/")
    assert not [key for key in world.store.list("") if key.startswith(deleted_prefixes)]
