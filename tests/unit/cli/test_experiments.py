"""An experiment on a terminal: a line for every cell that ends, and result tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import RenderableType
from tests.unit.cli.conftest import TIME, with_changes

from vfmalign.cli.local import environment
from vfmalign.cli.views.experiment_tables import show_experiment
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.checks import Check
from vfmalign.client.messages.common import Failure, Progress, State
from vfmalign.client.messages.experiments import Experiment, ExperimentCell, ExperimentSpec

Show = Callable[[list[RenderableType]], str]
Said = Callable[[], list[str]]


SPEC = ExperimentSpec(model_ids=("m1",), dataset_id="d1", tasks=("segmentation",), seeds=(0, 1, 2, 3))


@pytest.fixture
def experiment() -> Experiment:
    """One cell that succeeded, one that failed, one that runs and one that waits."""
    states: tuple[State, ...] = ("succeeded", "failed", "running", "queued")
    cells = [
        ExperimentCell(
            model_id="m1",
            task="segmentation",
            seed=number,
            check_id=f"c{number}",
            state=state,
            progress=Progress(detail=f"status {number}"),
            failure=Failure(reason="BAD_VOLUME", message="not a volume") if state == "failed" else None,
        )
        for number, state in enumerate(states)
    ]
    progress = Progress(done=2, total=4, unit="check", detail="2 of 4 checks have ended")
    return Experiment(experiment_id="s1", spec=SPEC, state="running", create_time=TIME, progress=progress, cells=cells)


def test_a_cell_that_ended_is_one_line_with_what_it_found(
    output: Output, said: Said, experiment: Experiment, finished_check: Check
) -> None:
    with View(output) as view:
        view.show_cell(experiment.cells[0], finished_check.result, 1, 4)
        view.show_cell(experiment.cells[1], None, 2, 4)
        view.show_experiment(experiment)
    lines = said()
    assert len(lines) == 2, "without a terminal there are no bars"
    assert lines[0].split()[:6] == ["✓", "1/4", "segmentation", "m1", "seed", "0"]
    assert "inconclusive, difference +0.0200 [−0.0100, +0.0500], MMD² 0.250 [0.240, 0.260]" in lines[0]
    assert lines[1].endswith("failed: status 1")


def test_an_experiment_shows_what_was_found_and_where_the_rest_stands(
    show: Show, experiment: Experiment, finished_check: Check
) -> None:
    text = show(show_experiment(experiment, {"c0": finished_check.result}, ["too few models to tell"]))
    assert "Experiment s1: running" in text
    assert "too few models to tell" in text
    assert "1 of 4 cells" in text
    row = next(line for line in text.splitlines() if line.startswith("segmentation"))
    assert "+0.0200 [−0.0100, +0.0500]" in row
    assert "+3.50 %" in row
    assert "lesion Dice (smallest relevant difference 0.01)" in text
    assert "inconclusive" in row
    assert "verdict: from one training per network, which decides nothing" in text
    rest = text.split("Cells without a result")[1]
    assert [line.split()[0] for line in rest.splitlines() if line.startswith("c")][1:] == ["c1", "c2", "c3"]
    assert "status 1" in rest


def test_cells_that_were_computed_before_are_not_without_a_result(show: Show, experiment: Experiment) -> None:
    text = show(show_experiment(experiment, {}))
    assert "Computed before: 1 cell, with" in text
    assert "c0" not in text


def test_marks_are_explained_where_they_are_used(show: Show, experiment: Experiment, finished_check: Check) -> None:
    plain = show(show_experiment(experiment, {"c0": finished_check.result}))
    assert "¶" not in plain
    assert "§" not in plain
    changes = {"result.naive_baseline_not_beaten": True, "result.shifts.0.saturated": True}
    marked = show(show_experiment(experiment, {"c0": with_changes(finished_check, changes).result}))
    assert marked.count("¶") == marked.count("§") == 2


def test_claims_state_how_often_a_subgroup_is_missing(
    show: Show, experiment: Experiment, finished_check: Check
) -> None:
    changes = {"result.verdict": "gain", "result.rpg_specialised.groups": 20}
    text = show(show_experiment(experiment, {"c0": with_changes(finished_check, changes).result}))
    sentence = "with 20 test patients, the chance that none of them belongs to a subgroup of one patient in ten is 12 %"
    assert sentence in " ".join(text.split())
    assert "subgroup" not in show(show_experiment(experiment, {"c0": finished_check.result}))


def test_an_experiment_that_failed_says_why(show: Show) -> None:
    failure = Failure(reason="NO_CHECK_SUCCEEDED", message="no check succeeded")
    failed = Experiment(experiment_id="s1", spec=SPEC, state="failed", create_time=TIME, failure=failure)
    text = show(show_experiment(failed, {}))
    assert "NO_CHECK_SUCCEEDED: no check succeeded" in text
    assert "Report" not in text


def test_jobs_run_side_by_side_with_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "count_cpus", lambda: 16)
    settings = environment.get_small_network_settings()
    assert settings["VFMALIGN_LAUNCHER__MAX_RUNNING"] == "4"
    assert settings["VFMALIGN_TRAINING__THREADS"] == "1"
    monkeypatch.setattr(environment, "count_cpus", lambda: 2)
    assert environment.get_small_network_settings()["VFMALIGN_LAUNCHER__MAX_RUNNING"] == "2"
