"""The experiment on real volumes, cut to two models, one task and eight patients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from bench.evidence.cell_folder import CellFolder
from bench.evidence.plans import EVIDENCE, SHAPE_DHW, RealPlan, Size
from bench.evidence.rehearsal import rehearse
from tests.unit.imaging.datasets.brain_files import lay_out_decathlon, load_cases

from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.jobs import Recipe
from vfmalign.finetuning.experiments.cell_results import CellResult

pytestmark = pytest.mark.e2e

SUBSET = Size(
    models=(("profound_conv_micro_single", "masked_reconstruction"),),
    counts={"pretrain": 1, "train": 3, "val": 2, "test": 2},
    seeds=1,
    pretraining=Recipe(preset="demo", epochs=1, steps_per_epoch=1, batch_size=1),
    finetuning=Recipe(
        preset="demo", epochs=1, steps_per_epoch=1, batch_size=1, learning_rate=3e-3, patch_shape_dhw=SHAPE_DHW
    ),
    tasks=EVIDENCE.tasks[1:2],
)
SEED = 5
"""Every split but the one for pretraining has cases of both classes."""
ENCODER = "sae_robust_tissue"


def test_a_subset_of_the_experiment_on_real_volumes_ends_with_its_cells(
    world: Any, shared_folder: Path, tmp_path: Path, capfd: Any
) -> None:
    encoder = shared_folder / "data" / "brain-encoders" / f"{ENCODER}.pth"
    if not encoder.is_file():
        pytest.skip("the encoders are not beside this repository")
    (tmp_path / "encoders").mkdir()
    (tmp_path / "encoders" / encoder.name).symlink_to(encoder)
    data = lay_out_decathlon(tmp_path / "data", load_cases(shared_folder))
    plan = RealPlan("subset", SUBSET, SEED, data, tmp_path / "encoders")
    folder = CellFolder(tmp_path / "cells", plan.dataset)
    with pytest.raises(typer.Exit) as ended:
        rehearse(
            Target.from_state(world.home, world.stack.get_state()),
            world.home,
            Output.to_terminal(as_json=True),
            plan,
            tmp_path / "reports",
            cells=folder,
        )
    out, err = capfd.readouterr()
    assert ended.value.exit_code == 0, err
    experiment = json.loads(out)
    assert experiment["note"].startswith("real volumes (hippocampus), not prostates")
    report = json.loads(Path(experiment["report"]["json"]).read_text())
    assert not report["phantom"]
    models = {"sae-robust-tissue", plan.pretrainings()[0].model}
    assert {(cell["model_id"], cell["task"]) for cell in report["cells"]} == {
        (m, t) for m in models for t in SUBSET.tasks
    }
    results = [CellResult.model_validate_json(file.read_bytes()) for file in folder.path.glob("*.json")]
    assert len(results) == 4
    assert sum("shuffled_labels" in result.report.result.settings for result in results) == 2
    assert [card.parent.name for card in folder.path.glob("models/*/model.json")] == [plan.pretrainings()[0].model]
    for result in results:
        assert result.features is not None
        assert len(result.features.get_after().layers[result.features.layer]) == 2
        assert set(result.processor_seconds) == {"pretrained", "scratch", "specialised"}
        assert all(seconds > 0 for seconds in result.processor_seconds.values())
    specialised = {result.report.run.trained_by["specialised"] for result in results}
    assert len(specialised) == 1, "models share it: they take the same input and the same recipe"
