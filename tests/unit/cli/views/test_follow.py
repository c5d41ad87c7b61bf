"""Lines for what has finished, and reconnecting to a service that is unavailable."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tests.unit.cli.conftest import TIME

from vfmalign.cli.views import follow
from vfmalign.cli.views.follow import View, estimate_time_left
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.checks import Check, CheckSpec, CheckStage
from vfmalign.client.messages.common import JobState, Progress, State
from vfmalign.client.messages.experiments import Experiment, ExperimentCell, ExperimentSpec
from vfmalign.client.messages.jobs import CurvePoint, Job, JobSpec
from vfmalign.core.domain.errors import Internal, NotFound, Unavailable

Said = Callable[[], list[str]]


def job(epochs: int, state: JobState = "running", **fields: Any) -> Job:
    """A fine-tuning job that has validated at 0 and after each of its epochs so far."""
    curve = [
        CurvePoint(epoch=epoch, step=4 * epoch, validation_score=0.1 * epoch, train_loss=2.0 / epoch if epoch else None)
        for epoch in range(epochs + 1)
    ]
    values: dict[str, Any] = {"attempts": 1, "progress": Progress(done=epochs, total=5, unit="epoch")}
    return Job(
        job_id="j1",
        spec=JobSpec(kind="finetune", dataset_id="d1", network="scratch", task="segmentation"),
        state=state,
        create_time=TIME,
        curve=curve,
        **values | fields,
    )


def check(**fields: Any) -> Check:
    """A running check."""
    spec = CheckSpec(model_id="m1", dataset_id="d1", task="segmentation")
    return Check(check_id="c1", spec=spec, state="running", create_time=TIME, **fields)


def test_every_validation_is_shown_once(output: Output, said: Said) -> None:
    with View(output) as view:
        view.show_job(job(0))
        view.show_job(job(0))
        view.show_job(job(2))
        view.show_job(job(2, "succeeded"))
    lines = said()
    assert len(lines) == 3
    assert lines[0].split() == ["scratch", "epoch", "0/5", "before", "training", "validation", "Dice", "0.0000"]
    assert lines[2].split() == ["scratch", "epoch", "2/5", "loss", "1.0000", "validation", "Dice", "0.2000"]


def test_trainings_of_one_network_are_told_apart(output: Output, said: Said) -> None:
    with View(output) as view:
        for name in ("c1-scratch-r2", "c1-scratch", "c1-scratch-s2"):
            view.show_job(job(0).model_copy(update={"job_id": name}))
    assert [line.split()[0] for line in said()] == ["scratch-r2", "scratch", "scratch-s2"]


def test_in_brief_a_job_has_one_line_at_its_end_and_short_stages_have_none(output: Output, said: Said) -> None:
    times = {"start_time": TIME, "end_time": TIME + timedelta(seconds=31)}
    validate = CheckStage(name="validate", attempts=1, seconds=0.25, end_time=TIME)
    mmd = CheckStage(name="mmd", attempts=1, seconds=0.5, end_time=TIME)
    with View(replace(output, brief=True)) as view:
        view.show_job(job(1))
        view.show_job(job(2, "succeeded", **times))
        view.show_job(job(2, "succeeded", **times))
        view.show_check(check(stages=[validate, mmd]))
    assert [line.split() for line in said()] == [
        ["✓", "scratch", "31.0", "s", "validation", "Dice", "0.200"],
        ["✓", "mmd", "0.5", "s"],
    ]


def test_a_finished_stage_is_shown_once_with_its_time_and_attempts(output: Output, said: Said) -> None:
    validate = CheckStage(name="validate", attempts=1, seconds=0.25, end_time=TIME)
    running = CheckStage(name="features_before", attempts=1)
    ended = CheckStage(name="features_before", attempts=2, seconds=12.5, end_time=TIME)
    with View(output) as view:
        view.show_check(check(stages=[validate, running]))
        view.show_check(check(stages=[validate, ended]))
    lines = said()
    assert [line.split()[1] for line in lines] == ["validate", "features_before"]
    assert "12.5 s, 2 attempts" in lines[1]


def at(**progress: Any) -> Check:
    """A running check of one stage with this progress."""
    record = Progress(**progress)
    return check(progress=record, stages=[CheckStage(name=record.phase, progress=record)])


def test_what_a_check_waits_for_is_shown_when_it_changes(output: Output, said: Said) -> None:
    details = ["mmd does not answer; next attempt in 2 s", "mmd does not answer; next attempt in 4 s"]
    with View(output) as view:
        for detail in (details[0], details[0], details[1]):
            view.show_check(at(phase="mmd", reason="SERVICE_UNAVAILABLE", detail=detail))
        view.show_check(at(phase="mmd", detail="comparing features"))
    assert [line.strip() for line in said()] == details


def test_a_reused_baseline_is_shown_with_its_curve(output: Output, said: Said) -> None:
    progress = Progress(detail="taken from job other-scratch, which trained the same baseline")
    reused = job(2, "succeeded", attempts=0, progress=progress)
    with View(output) as view:
        view.show_job(reused)
        view.show_job(reused)
    lines = said()
    assert len(lines) == 4
    assert lines[0].split(maxsplit=1) == ["scratch", reused.progress.detail]


def list_bars(view: View) -> list[str]:
    return [task.description for task in view._bars.tasks]


def test_a_check_has_no_bar_while_its_jobs_have_theirs() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with View(Output(as_json=False, out=console, err=console)) as view:
        view.show_check(at(phase="job_pretrained", unit="epoch", done=1, total=4))
        assert list_bars(view) == []
        view.show_check(at(phase="features_after", unit="case", done=1, total=4, detail="x" * 200))
        (description,) = list_bars(view)
        assert description == "x" * 71 + "…"
        view.show_check(check(progress=Progress(detail="writing the report"), end_time=TIME))
        assert list_bars(view) == []


def test_a_pending_job_s_bar_says_what_it_waits_for() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with View(Output(as_json=False, out=console, err=console)) as view:
        view.show_job(job(0, "pending", progress=Progress(detail="its pod waits for a node")))
        assert list_bars(view) == ["pending: scratch: its pod waits for a node"]
        view.show_job(job(1))
        assert list_bars(view) == ["training: scratch"]
        view.show_job(job(5, "succeeded"))
        assert list_bars(view) == []


@dataclass
class Operations:
    """A sub-client whose watch yields these states, and loses the service once before the last one."""

    states: list[Any]

    async def watch(self, _: str, *, on_disconnect: Callable[[Unavailable], None]) -> AsyncIterator[Any]:
        for index, state in enumerate(self.states):
            if index == len(self.states) - 1:
                on_disconnect(Unavailable("lost"))
            yield state


async def test_following_a_check_shows_its_jobs_and_returns_its_end(output: Output, said: Said) -> None:
    calls: list[str] = []

    async def get(job_id: str) -> Job:
        calls.append(job_id)
        if job_id == "later":
            raise NotFound("not created yet")
        return job(2, "succeeded")

    states = [check(job_ids=["j1", "later"], progress=Progress(detail=f"state {n}")) for n in range(3)]
    client = SimpleNamespace(checks=Operations(states), jobs=SimpleNamespace(get=get))
    with View(output) as view:
        last = await follow.follow_check(client, "c1", view)
    assert last == states[-1]
    assert calls == ["j1", "later", "later", "later"], "a job that has ended is not asked for again"
    assert [line for line in said() if "unavailable" in line] == ["the finetuning service is unavailable; reconnecting"]
    assert len([line for line in said() if "epoch" in line]) == 3


async def test_cells_are_shown_in_the_order_of_their_ends(output: Output, said: Said) -> None:
    def cell(seed: int, state: State, seconds: float | None = None) -> ExperimentCell:
        end = None if seconds is None else TIME + timedelta(seconds=seconds)
        return ExperimentCell(
            model_id="m1", task="segmentation", seed=seed, check_id=f"c{seed}", state=state, end_time=end
        )

    # The third was cancelled before its check began, and has no end.
    cells = [cell(0, "failed", 9.0), cell(1, "cancelled", 3.0), cell(2, "cancelled"), cell(3, "running")]
    spec = ExperimentSpec(model_ids=("m1",), dataset_id="d1", tasks=("segmentation",), seeds=(0, 1, 2, 3))
    state = Experiment(experiment_id="e1", spec=spec, state="running", create_time=TIME, cells=cells)
    client = SimpleNamespace(experiments=Operations([state]))
    with View(output) as view:
        await follow.follow_experiment(client, "e1", view)
    assert [line.split("seed ")[1].split()[0] for line in said() if "seed" in line] == ["2", "1", "0"]


async def test_a_cell_that_is_retried_is_shown_at_every_end(output: Output, said: Said) -> None:
    def experiment(state: State, seconds: float | None) -> Experiment:
        end = None if seconds is None else TIME + timedelta(seconds=seconds)
        cell = ExperimentCell(model_id="m1", task="segmentation", seed=0, check_id="c0", state=state, end_time=end)
        spec = ExperimentSpec(model_ids=("m1",), dataset_id="d1", tasks=("segmentation",))
        return Experiment(experiment_id="e1", spec=spec, state="running", create_time=TIME, cells=(cell,))

    states = [experiment("failed", 1.0), experiment("running", None), experiment("cancelled", 5.0)]
    client = SimpleNamespace(experiments=Operations([states[0], *states, states[2]]))
    with View(output) as view:
        await follow.follow_experiment(client, "e1", view)
    lines = [line for line in said() if "seed" in line]
    assert [line.split()[1] for line in lines] == ["1/1", "1/1"]
    assert [("failed" in line, "cancelled" in line) for line in lines] == [(True, False), (False, True)]


async def test_a_stream_without_a_message_is_an_internal_error(output: Output) -> None:
    client = SimpleNamespace(jobs=Operations([]))
    with View(output) as view, pytest.raises(Internal):
        await follow.follow_job(client, "j1", view)


@pytest.mark.parametrize(
    ("done", "total", "elapsed_s", "text"),
    [
        (1, 100, 36.0, ", about 59 min left"),
        (1, 100, 360.0, ", about 10 h left"),
        (9, 10, 900.0, ", about 100 s left"),
        (0, 10, 5.0, ""),
        (10, 10, 5.0, ""),
        (1, 10, 0.0, ""),
    ],
)
def test_the_time_left_follows_from_the_pace_so_far(done: int, total: int, elapsed_s: float, text: str) -> None:
    assert estimate_time_left(done, total, elapsed_s) == text


def test_an_epoch_is_shown_with_the_time_left(output: Output, said: Said) -> None:
    point = CurvePoint(epoch=1, step=4, validation_score=0.1, train_loss=2.0, elapsed_seconds=90.0)
    with View(output) as view:
        view.show_job(job(0).model_copy(update={"curve": (point,)}))
    assert said()[0].endswith("Dice 0.1000, about 6 min left")
