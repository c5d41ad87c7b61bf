"""Watches a check or a job to its end, across restarts of the service, and shows how far it is.

Knows the watching calls, and lines and bars on stderr. Knows nothing of results.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import grpc
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from vfmalign.cli.views.enum_labels import ENDED, JOB_STATES, NETWORKS, word
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import DeadlineExceeded, Internal, NotFound, Unavailable
from vfmalign.core.domain.tasks import TASKS
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    common_pb2,
    finetuning_pb2,
    finetuning_pb2_grpc,
)

PATIENCE_S = 300.0
"""How long a service may be away before a watcher gives up."""
_PAUSE_S = 1.0
_MAX_WORDS = 72


async def follow_check(channel: grpc.aio.Channel, check_id: str, view: View) -> alignment_pb2.Check:
    """Shows a check until it has ended, and returns it.

    Raises:
        NotFound: there is none of this id.
        Unavailable: the service is away for too long.
    """
    checks = alignment_pb2_grpc.AlignmentServiceStub(channel)
    jobs = finetuning_pb2_grpc.FineTuningServiceStub(channel)
    ended: dict[str, finetuning_pb2.Job] = {}
    last: alignment_pb2.Check | None = None
    request = alignment_pb2.WatchCheckRequest(check_id=check_id)
    async for message in patiently(lambda: checks.WatchCheck(request), view.output):
        last = message.check
        for job_id in last.job_ids:
            if job_id not in ended:
                try:
                    found = (await jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=job_id))).job
                except (NotFound, Unavailable):
                    continue  # not created yet, or seen at the next change
                view.show_job(found)
                if word(JOB_STATES, found.state) in ENDED:
                    ended[job_id] = found
        view.show_check(last)
    if last is None:
        raise Internal("the service ended its answer without a check", subject=check_id)
    return last


async def follow_job(channel: grpc.aio.Channel, job_id: str, view: View) -> finetuning_pb2.Job:
    """Shows a job until it has ended, and returns it; raises as `follow_check`."""
    jobs = finetuning_pb2_grpc.FineTuningServiceStub(channel)
    last: finetuning_pb2.Job | None = None
    request = finetuning_pb2.WatchJobRequest(job_id=job_id)
    async for message in patiently(lambda: jobs.WatchJob(request), view.output):
        last = message.job
        view.show_job(last)
    if last is None:
        raise Internal("the service ended its answer without a job", subject=job_id)
    return last


async def patiently(watch: Callable[[], Any], output: Output) -> AsyncIterator[Any]:
    """The messages of a watching call, begun again while the service is away for a short time."""
    lost: float | None = None
    while True:
        try:
            async for message in watch():
                lost = None
                yield message
            return
        except DeadlineExceeded:
            continue  # of the stream: the check goes on
        except Unavailable:
            if lost is None:
                lost = time.monotonic()
                output.say("the finetuning service is away; watching goes on when it is back", "yellow")
            if time.monotonic() - lost > PATIENCE_S:
                raise
        await asyncio.sleep(_PAUSE_S)


class View:
    """Lines for what has happened, bars for what runs (on a terminal alone)."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._bars = Progress(
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
        self._stages_done: set[str] = set()
        self._probes_seen: set[str] = set()
        self._points: dict[str, int] = {}
        self._waiting = ""

    def __enter__(self) -> View:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def show_check(self, check: alignment_pb2.Check) -> None:
        """What is new in a check."""
        for stage in check.stages:
            if stage.HasField("end_time") and stage.name not in self._stages_done:
                self._stages_done.add(stage.name)
                again = f", {stage.attempts} attempts" if stage.attempts > 1 else ""
                self.output.say(f"✓ {stage.name:<20} {stage.seconds:6.1f} s{again}", "green")
        for words in check.status.split("; "):
            if words.startswith("probe after step ") and words not in self._probes_seen:
                self._probes_seen.add(words)
                self.output.say(f"  {words}")
        if check.status.startswith("waiting at ") and check.status != self._waiting:
            self._waiting = check.status
            self.output.say(check.status, "yellow")
        ended = check.HasField("end_time")
        progress = check.progress if check.HasField("progress") and check.progress.unit != "epoch" else None
        self.bar("check", None if ended else _words_of(check.status), progress)

    def show_job(self, job: finetuning_pb2.Job) -> None:
        """What is new in a job: every validation of its learning curve, and its bar."""
        name, metric = _name_of(job), _metric_of(job)
        shown = self._points.get(job.job_id, 0)
        if job.status.startswith("taken from ") and not shown:
            self.output.say(f"  {name:<12} {job.status}")
        for point in job.curve[shown:]:
            loss = f"loss {point.train_loss:8.4f}" if point.HasField("train_loss") else "before training"
            epochs = f"{point.epoch:>3}/{job.progress.total}"
            self.output.say(f"  {name:<12} epoch {epochs}  {loss:<15}  {metric} {point.validation_score:.4f}")
        self._points[job.job_id] = max(len(job.curve), shown)
        running = word(JOB_STATES, job.state) == "running"
        self.bar(job.job_id, f"training: {name}" if running else None, job.progress)

    def show_progress(self, words: str, progress: common_pb2.Progress) -> None:
        """One operation's own progress."""
        self.bar("operation", words, progress)

    def bar(self, key: str, words: str | None, progress: common_pb2.Progress | None) -> None:
        """Shows a bar with these words, or takes it away where there are none."""
        if words is None:
            if key in self._tasks:
                self._bars.remove_task(self._tasks.pop(key))
            return
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(words, total=None, count="")
        done, total = (progress.done, progress.total) if progress is not None else (0, 0)
        count = f"{done}/{total} {progress.unit}s" if progress is not None and total else ""
        self._bars.update(self._tasks[key], description=words, completed=done, total=total or None, count=count)


def _words_of(status: str) -> str | None:
    """What a check does besides training, whose jobs have bars of their own."""
    words = "; ".join(part for part in status.split("; ") if not part.startswith("training the "))
    if len(words) > _MAX_WORDS:
        words = words[: _MAX_WORDS - 1] + "…"
    return words or None


def _name_of(job: finetuning_pb2.Job) -> str:
    return "pretraining" if job.spec.kind == finetuning_pb2.JOB_KIND_PRETRAIN else word(NETWORKS, job.spec.network)


def _metric_of(job: finetuning_pb2.Job) -> str:
    task = TASKS.get(job.spec.task)
    return f"validation {task.primary_metric.name}" if task is not None else "validation loss"
