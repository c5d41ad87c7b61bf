"""Follows a job, check or experiment until it ends, and shows its progress. Reconnects when the service restarts.

On a terminal, running work is shown as progress bars. Each finished item is printed as one line, with or without a
terminal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType

from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBars

from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import format_control, name_training, primary_shift, to_text
from vfmalign.client import AsyncClient
from vfmalign.client.messages.checks import Check, CheckResult, CheckStage
from vfmalign.client.messages.common import TERMINAL_STATES, Progress
from vfmalign.client.messages.experiments import Experiment, ExperimentCell
from vfmalign.client.messages.jobs import Job
from vfmalign.client.operations import AsyncOperationsClient, OperationT, SpecT
from vfmalign.core.domain.errors import Internal, NotFound, Unavailable
from vfmalign.core.domain.tasks import TASKS

_MAX_DESCRIPTION = 72
_STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow"}
_MARKS = {"succeeded": "✓", "failed": "✗", "cancelled": "–"}
_BRIEF_STAGES = ("features_before", "features_after", "mmd", "report")
_NEVER = datetime.max.replace(tzinfo=UTC)
_BEGINNING_OF_TIME = datetime.min.replace(tzinfo=UTC)


async def follow_job(client: AsyncClient, job_id: str, view: View) -> Job:
    """Shows the progress of a job until it has ended, and returns the job.

    Raises:
        NotFound: the job does not exist.
        Unavailable: the service was unavailable for too long.
    """

    async def show(job: Job) -> None:
        view.show_job(job)

    return await _follow(client.jobs, job_id, view.output, show)


async def follow_check(client: AsyncClient, check_id: str, view: View) -> Check:
    """Shows a check and its jobs until the check has ended.

    Returns the check. Raises the same errors as `follow_job`.
    """
    ended_jobs: set[str] = set()

    async def show(check: Check) -> None:
        for job_id in check.job_ids:
            if job_id not in ended_jobs:
                # A job that is not created yet, or missed now, is seen at the next change.
                with suppress(NotFound, Unavailable):
                    job = await client.jobs.get(job_id)
                    view.show_job(job)
                    if job.state in TERMINAL_STATES:
                        ended_jobs.add(job_id)
        view.show_check(check)

    return await _follow(client.checks, check_id, view.output, show)


async def follow_experiment(client: AsyncClient, experiment_id: str, view: View) -> Experiment:
    """Shows an experiment until it has ended. Returns the experiment. Raises the same errors as `follow_job`."""
    shown: dict[str, datetime | None] = {}

    async def get_result(cell: ExperimentCell) -> CheckResult | None:
        if cell.state == "succeeded":
            with suppress(NotFound, Unavailable):
                return (await client.checks.get(cell.check_id)).result
        return None

    async def show(experiment: Experiment) -> None:
        # A cell may end again after its check was retried.
        ended = [
            cell
            for cell in experiment.cells
            if cell.state in TERMINAL_STATES and shown.get(cell.check_id, _NEVER) != cell.end_time
        ]
        # A cell that was cancelled before its check began has no end.
        for cell in sorted(ended, key=lambda cell: cell.end_time or _BEGINNING_OF_TIME):
            shown[cell.check_id] = cell.end_time
            view.show_cell(cell, await get_result(cell), len(shown), len(experiment.cells))
        view.show_experiment(experiment)

    return await _follow(client.experiments, experiment_id, view.output, show)


async def _follow(
    operations: AsyncOperationsClient[SpecT, OperationT],
    resource_id: str,
    output: Output,
    show: Callable[[OperationT], Awaitable[None]],
) -> OperationT:
    def note_outage(_: Unavailable) -> None:
        output.note("the finetuning service is unavailable; reconnecting", "yellow")

    last: OperationT | None = None
    async for state in operations.watch(resource_id, on_disconnect=note_outage):
        last = state
        await show(state)
    if last is None:
        raise Internal("the service ended its stream without a message", subject=resource_id)
    return last


class View:
    """Progress on stderr. Prints one line for each finished item. On a terminal, also shows bars for running items."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._bars = ProgressBars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=output.err,
            transient=True,
            disable=not output.err.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._finished_stages: set[str] = set()
        self._details: set[str] = set()
        self._points: dict[str, int] = {}
        self._ended_jobs: set[str] = set()

    def __enter__(self) -> View:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def show_check(self, check: Check) -> None:
        """Shows the changes of a check."""
        for stage in check.stages:
            self._show_stage(stage)
        training = check.progress.unit == "epoch"  # jobs have bars of their own
        running = check.end_time is None and not training
        self.show_bar("check", check.progress.detail if running else None, check.progress)

    def show_job(self, job: Job) -> None:
        """Shows the changes of a job: new points of its learning curve, and its bar."""
        name, metric = _get_name(job), _get_metric(job)
        shown = self._points.get(job.job_id, 0)
        if job.state == "succeeded" and not job.attempts and not shown:
            self.output.note(f"  {name:<14} {job.progress.detail}")  # the result of an equal training was reused
        if self.output.brief:
            self._show_ended_job(job, metric)
        else:
            for point in job.curve[shown:]:
                loss = "before training" if point.train_loss is None else f"loss {point.train_loss:8.4f}"
                epochs = f"{point.epoch:>3}/{job.progress.total}"
                left = estimate_time_left(point.epoch, job.progress.total, point.elapsed_seconds or 0.0)
                score = f"{metric} {point.validation_score:.4f}"
                self.output.note(f"  {name:<14} epoch {epochs}  {loss:<15}  {score}{left}")
        self._points[job.job_id] = max(len(job.curve), shown)
        descriptions = {"running": f"training: {name}", "pending": f"pending: {name}: {job.progress.detail}"}
        self.show_bar(job.job_id, descriptions.get(job.state), job.progress)

    def show_cell(self, cell: ExperimentCell, result: CheckResult | None, number: int, total: int) -> None:
        """Shows one line for an experiment's cell that has ended."""
        outcome = f"{cell.state}: {cell.progress.detail}" if result is None else _summarise(result)
        name = f"{cell.task:<16} {cell.model_id}  seed {cell.seed}{format_control(cell)}"
        line = f"{_MARKS.get(cell.state, ' ')} {number:>3}/{total}  {name}  {outcome}"
        self.output.note(line, _STYLES.get(cell.state, ""))

    def show_experiment(self, experiment: Experiment) -> None:
        """Shows the bars of an experiment: one for all cells, and one for every running cell."""
        ended = experiment.end_time is not None
        self.show_bar("experiment", None if ended else "checks", experiment.progress)
        for cell in experiment.cells:
            running = not ended and cell.state == "running"
            description = f"{cell.task} {cell.model_id} {cell.seed}{format_control(cell)}: {cell.progress.detail}"
            self.show_bar(cell.check_id, description if running else None, None)

    def show_bar(self, key: str, description: str | None, progress: Progress | None) -> None:
        """Shows a progress bar, or removes it if there is no description."""
        if not description:
            if key in self._tasks:
                self._bars.remove_task(self._tasks.pop(key))
            return
        if len(description) > _MAX_DESCRIPTION:
            description = description[: _MAX_DESCRIPTION - 1] + "…"
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(description, total=None, count="")
        done, total = (progress.done, progress.total) if progress is not None else (0, 0)
        count = ""
        if progress is not None and total:
            count = f"{done}/{total} {progress.unit}s{estimate_time_left(done, total, progress.elapsed_seconds)}"
        self._bars.update(self._tasks[key], description=description, completed=done, total=total or None, count=count)

    def _show_stage(self, stage: CheckStage) -> None:
        """Shows that a stage has ended, or what it waits for."""
        if stage.end_time is not None and stage.name not in self._finished_stages:
            self._finished_stages.add(stage.name)
            attempts = f", {stage.attempts} attempts" if stage.attempts > 1 else ""
            if not self.output.brief or stage.name in _BRIEF_STAGES:
                self.output.note(f"✓ {stage.name:<20} {stage.seconds:6.1f} s{attempts}", "green")
        if stage.progress is not None and stage.progress.reason:
            self._note_detail(stage.progress)

    def _show_ended_job(self, job: Job, metric: str) -> None:
        """Shows one line for a job that has succeeded, with the validation score of its last epoch."""
        if job.state != "succeeded" or job.job_id in self._ended_jobs or not job.attempts:
            return
        self._ended_jobs.add(job.job_id)
        seconds = (job.end_time - job.start_time).total_seconds() if job.start_time and job.end_time else 0.0
        score = f"  {metric} {job.curve[-1].validation_score:.3f}" if job.curve else ""
        self.output.note(f"✓ {_get_name(job):<20} {seconds:6.1f} s{score}", "green")

    def _note_detail(self, progress: Progress) -> None:
        """Prints once what a check or job waits for."""
        if progress.detail and progress.detail not in self._details:
            self._details.add(progress.detail)
            self.output.note(f"  {progress.detail}", "yellow")


def estimate_time_left(done: int, total: int, elapsed_s: float) -> str:
    """Returns the estimated time left, such as `, about 2 min left`. Returns an empty text if the time is unknown."""
    if not 0 < done < total or elapsed_s <= 0:
        return ""
    left_s = elapsed_s / done * (total - done)
    for unit, seconds in (("h", 3600), ("min", 60)):
        if left_s >= 2 * seconds:
            return f", about {left_s / seconds:.0f} {unit} left"
    return f", about {left_s:.0f} s left"


def _get_name(job: Job) -> str:
    return "pretraining" if job.spec.kind == "pretrain" else name_training(job)


def _get_metric(job: Job) -> str:
    task = None if job.spec.task is None else TASKS.get(job.spec.task.name)
    return f"validation {task.score}" if task is not None else "validation loss"


def _summarise(result: CheckResult) -> str:
    unit = f" {result.metric.unit}" if result.metric.unit else ""
    difference = to_text(result.rpg_specialised.absolute, signed=True, unit=unit)
    return f"{result.verdict}, difference {difference}, MMD² {to_text(primary_shift(result))}"
