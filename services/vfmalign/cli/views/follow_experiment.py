"""Follow an experiment to its end: a line for every finished cell and, on a terminal, progress bars.

Knows the watching call and what a finished check says. Knows nothing of tables.
"""

from __future__ import annotations

from contextlib import suppress

import grpc

from vfmalign.cli.views.enum_labels import CHECK_STATES, ENDED, VERDICTS, word
from vfmalign.cli.views.follow import View, patiently
from vfmalign.cli.views.tables import estimate
from vfmalign.core.domain.errors import Internal, NotFound, Unavailable
from vfmalign.v1 import alignment_pb2, alignment_pb2_grpc, common_pb2, experiment_pb2, experiment_pb2_grpc

_STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow"}
_MARKS = {"succeeded": "✓", "failed": "✗", "cancelled": "–"}
_MAX_WORDS = 60


async def follow_experiment(channel: grpc.aio.Channel, experiment_id: str, view: View) -> experiment_pb2.Experiment:
    """Shows an experiment until it has ended, and returns it.

    Raises:
        NotFound: there is none of this id.
        Unavailable: the service is away for too long.
    """
    experiments = experiment_pb2_grpc.ExperimentServiceStub(channel)
    checks = alignment_pb2_grpc.AlignmentServiceStub(channel)
    shown: set[str] = set()
    last: experiment_pb2.Experiment | None = None
    request = experiment_pb2.WatchExperimentRequest(experiment_id=experiment_id)
    async for message in patiently(lambda: experiments.WatchExperiment(request), view.output):
        last = message.experiment
        ended = [cell for cell in last.cells if word(CHECK_STATES, cell.state) in ENDED]
        for cell in sorted(ended, key=lambda one: one.end_time.ToNanoseconds()):
            if cell.check_id not in shown:
                shown.add(cell.check_id)
                say_cell(view, cell, await _result(checks, cell), len(shown), len(last.cells))
        show_running(view, last)
    if last is None:
        raise Internal("the service ended its answer without an experiment", subject=experiment_id)
    return last


def say_cell(
    view: View, cell: experiment_pb2.ExperimentCell, result: alignment_pb2.CheckResult | None, number: int, total: int
) -> None:
    """One line on a cell that has ended."""
    state = word(CHECK_STATES, cell.state)
    words = _found(result) if result is not None else f"{state}: {cell.status}"
    name = f"{cell.task:<16} {cell.model_id}  seed {cell.seed}"
    view.output.say(f"{_MARKS.get(state, ' ')} {number:>3}/{total}  {name}  {words}", _STYLES.get(state, ""))


def show_running(view: View, experiment: experiment_pb2.Experiment) -> None:
    """The bars: all cells, and what each running one does."""
    ended = experiment.HasField("end_time")
    view.bar("experiment", None if ended else "checks", experiment.progress)
    for cell in experiment.cells:
        running = not ended and word(CHECK_STATES, cell.state) == "running"
        words = f"{cell.task} {cell.model_id} {cell.seed}: {cell.status}"
        view.bar(cell.check_id, words[:_MAX_WORDS] if running else None, None)


async def _result(
    checks: alignment_pb2_grpc.AlignmentServiceAsyncStub, cell: experiment_pb2.ExperimentCell
) -> alignment_pb2.CheckResult | None:
    """What a cell's check concluded; None where it concluded nothing, or the service is away just now."""
    if word(CHECK_STATES, cell.state) == "succeeded":
        with suppress(NotFound, Unavailable):
            found = (await checks.GetCheck(alignment_pb2.GetCheckRequest(check_id=cell.check_id))).check
            return found.result if found.HasField("result") else None
    return None


def _found(result: alignment_pb2.CheckResult) -> str:
    gain = estimate(result.rpg_specialised.relative_percent, signed=True, unit=" %")
    return f"{word(VERDICTS, result.verdict)}, gain {gain}, MMD² {estimate(primary_shift(result))}"


def primary_shift(result: alignment_pb2.CheckResult) -> common_pb2.Estimate:
    """MMD² of the primary layer, on standardised features where there are any."""
    mmd = result.shifts[0].mmd
    return mmd.standardised.mmd2 if mmd.HasField("standardised") else mmd.raw.mmd2
