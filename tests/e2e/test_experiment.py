"""A small experiment through the whole stack, by the steps of its rehearsal; the same steps again repeat nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from bench.evidence.plans import Plan, Size
from bench.evidence.rehearsal import rehearse
from tests.e2e.conftest import PHANTOMS

from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.jobs import Recipe
from vfmalign.imaging.phantoms.dataset import synthesise_dataset
from vfmalign.v1 import finetuning_pb2

pytestmark = pytest.mark.e2e

TINY = Size(
    models=(("profound_conv_micro", "contrastive"),),
    counts={"pretrain": 4, "train": 4, "val": 2, "test": 9},
    seeds=1,
    pretraining=Recipe(preset="demo", epochs=1, steps_per_epoch=2, batch_size=4),
    finetuning=Recipe(preset="demo", epochs=1, steps_per_epoch=3, learning_rate=3e-3),
    tasks=("classification",),
)


def test_a_rehearsal_ends_with_a_report_of_its_cells_and_goes_on_from_what_is_there(
    world: Any, tmp_path: Path, capfd: Any
) -> None:
    plan, target = Plan("tiny", TINY, 3), Target.from_state(world.home, world.stack.get_state())
    synthesise_dataset(world.store, plan.dataset, plan.seed, TINY.counts, spec=PHANTOMS)

    def run() -> tuple[dict[str, Any], list[str]]:
        with pytest.raises(typer.Exit) as ended:
            rehearse(target, world.home, Output.to_terminal(as_json=True), plan, tmp_path)
        out, err = capfd.readouterr()
        assert ended.value.exit_code == 0, err
        return json.loads(out), [line for line in err.splitlines() if line.startswith("✓")]

    first, lines = run()
    assert first["experiment"]["counts"]["succeeded"] == 1
    assert first["note"] == "rehearsal on phantoms: not evidence"
    assert len(lines) == 1
    report = json.loads(Path(first["report"]["json"]).read_text())
    assert [cell["task"] for cell in report["cells"]] == ["classification"]
    (cell,) = report["cells"]
    assert cell["phantom"]
    assert cell["measures"]["logme"]["value"] is not None, "cases have labels"
    with Path(first["report"]["csv"]).open() as file:
        assert [row["task"] for row in csv.DictReader(file)] == ["classification"]
    page = Path(first["report"]["html"]).read_text()
    assert "rehearsal on phantoms: not evidence" in page

    again, _ = run()
    assert again["experiment"] == first["experiment"]
    jobs = [world.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=model.job)).job for model in plan.pretrainings()]
    assert [job.attempts for job in jobs] == [1]
