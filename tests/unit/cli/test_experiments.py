"""An experiment on a terminal: a line for every cell that ends, result tables, and the sizes of a rehearsal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import RenderableType

from vfmalign.cli.demo.rehearsal import SIZES, RehearsalPlan, get_stack_settings
from vfmalign.cli.local import environment
from vfmalign.cli.views.enum_labels import PRETRAINING_OBJECTIVES
from vfmalign.cli.views.experiment_tables import show_experiment
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.core.domain.record import is_id
from vfmalign.core.domain.tasks import TASKS
from vfmalign.finetuning.checks.request import check_spec, get_recipe
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.v1 import alignment_pb2, common_pb2, experiment_pb2, finetuning_pb2

Show = Callable[[list[RenderableType]], str]
Said = Callable[[], list[str]]


@pytest.fixture
def experiment() -> experiment_pb2.Experiment:
    """One cell that succeeded, one that failed, one that runs and one that waits."""
    found = experiment_pb2.Experiment(experiment_id="s1", state=experiment_pb2.EXPERIMENT_STATE_RUNNING)
    states = (
        alignment_pb2.CHECK_STATE_SUCCEEDED, alignment_pb2.CHECK_STATE_FAILED, alignment_pb2.CHECK_STATE_RUNNING,
        alignment_pb2.CHECK_STATE_QUEUED,
    )  # fmt: skip
    for number, state in enumerate(states):
        found.cells.add(
            model_id="m1",
            task="segmentation",
            seed=number,
            check_id=f"c{number}",
            state=state,
            progress=common_pb2.Progress(detail=f"status {number}"),
        )
    found.cells[1].failure.CopyFrom(finetuning_pb2.Failure(reason="BAD_VOLUME", message="not a volume"))
    found.progress.done, found.progress.total, found.progress.unit = 2, 4, "check"
    found.progress.detail = "2 of 4 checks have ended"
    return found


def test_a_cell_that_ended_is_one_line_with_what_it_found(
    output: Output, said: Said, experiment: experiment_pb2.Experiment, finished_check: alignment_pb2.Check
) -> None:
    with View(output) as view:
        view.show_cell(experiment.cells[0], finished_check.result, 1, 4)
        view.show_cell(experiment.cells[1], None, 2, 4)
        view.show_experiment(experiment)
    lines = said()
    assert len(lines) == 2, "without a terminal there are no bars"
    assert lines[0].split()[:6] == ["✓", "1/4", "segmentation", "m1", "seed", "0"]
    assert "no_clear_gain, gain +3.5 % [-2, +9], MMD² 0.25 [0.24, 0.26]" in lines[0]
    assert lines[1].endswith("failed: status 1")


def test_an_experiment_shows_what_was_found_and_where_the_rest_stands(
    show: Show, experiment: experiment_pb2.Experiment, finished_check: alignment_pb2.Check
) -> None:
    text = show(show_experiment(experiment, {"c0": finished_check.result}, ["too few models to tell"]))
    assert "Experiment s1: running" in text
    assert "too few models to tell" in text
    assert "1 of 4 cells" in text
    row = next(line for line in text.splitlines() if line.startswith("segmentation"))
    assert "+3.5 % [-2, +9]" in row
    assert "no_clear_gain" in row
    rest = text.split("Cells without a result")[1]
    assert [line.split()[0] for line in rest.splitlines() if line.startswith("c")][1:] == ["c1", "c2", "c3"]
    assert "status 1" in rest


def test_marks_are_explained_where_they_are_used(
    show: Show, experiment: experiment_pb2.Experiment, finished_check: alignment_pb2.Check
) -> None:
    plain = show(show_experiment(experiment, {"c0": finished_check.result}))
    assert "¶" not in plain
    assert "§" not in plain
    finished_check.result.naive_baseline_not_beaten = True
    finished_check.result.shifts[0].saturated = True
    marked = show(show_experiment(experiment, {"c0": finished_check.result}))
    assert marked.count("¶") == marked.count("§") == 2


def test_an_experiment_that_failed_says_why(show: Show) -> None:
    found = experiment_pb2.Experiment(experiment_id="s1", state=experiment_pb2.EXPERIMENT_STATE_FAILED)
    found.failure.CopyFrom(finetuning_pb2.Failure(reason="NO_CHECK_SUCCEEDED", message="no check succeeded"))
    text = show(show_experiment(found, {}))
    assert "NO_CHECK_SUCCEEDED: no check succeeded" in text
    assert "Report" not in text


@pytest.mark.parametrize("name", SIZES)
def test_a_rehearsal_has_one_architecture_with_both_objectives_and_one_budget(name: str) -> None:
    plan = RehearsalPlan(name, SIZES[name], 2025)
    models = plan.pretrainings()
    objectives: dict[str, set[str]] = {}
    for model in models:
        assert model.architecture in ARCHITECTURES
        assert model.objective in PRETRAINING_OBJECTIVES
        objectives.setdefault(model.architecture, set()).add(model.objective)
    assert {"masked_reconstruction", "contrastive"} in objectives.values()
    assert len({architecture.split("_")[0] for architecture in objectives}) >= 2, "two families"
    assert len({model.recipe.SerializeToString() for model in models}) == 1
    ids = [plan.experiment, plan.dataset, *(model.model for model in models), *(model.job for model in models)]
    assert all(is_id(one) for one in ids)
    assert len(set(ids)) == len(ids)
    spec = plan.spec()
    assert list(spec.tasks) == list(TASKS)
    longest = max(len(f"{plan.experiment}-{task}-{model.model}-{plan.seed}") for task in TASKS for model in models)
    assert longest <= 80, "ids of checks that can be read"
    for task in TASKS:  # probes stand where validation is
        check = CheckSpec(model_id="m", dataset_id="d", task=task, recipe=Recipe.from_proto(spec.recipe))
        check_spec(check)
        assert len(get_recipe(check, "pretrained").probe_steps) == 3
    assert spec.title == "rehearsal on phantoms: not evidence"


def test_sizes_do_not_share_an_id() -> None:
    plans = [RehearsalPlan(name, size, 7) for name, size in SIZES.items()]
    names = [one for plan in plans for one in (plan.experiment, plan.dataset, *(m.model for m in plan.pretrainings()))]
    assert len(set(names)) == len(names)


def test_the_size_for_evidence_is_large_enough_to_say_something() -> None:
    size = SIZES["evidence"]
    assert len(size.models) >= 4
    assert size.seeds >= 3
    assert size.counts["test"] >= 100
    assert size.counts["train"] > SIZES["small"].counts["train"]
    assert set(SIZES["small"].models) < set(size.models)
    assert list(RehearsalPlan("evidence", size, 7).spec().seeds) == [7, 8, 9]


def test_jobs_run_side_by_side_with_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "count_cpus", lambda: 16)
    settings = get_stack_settings()
    assert settings["VFMALIGN_LAUNCHER__MAX_RUNNING"] == "4"
    assert settings["VFMALIGN_TRAINING__THREADS"] == "1"
    monkeypatch.setattr(environment, "count_cpus", lambda: 2)
    assert get_stack_settings()["VFMALIGN_LAUNCHER__MAX_RUNNING"] == "2"
