"""Lines for what has finished, and reconnecting to a service that is unavailable."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from rich.console import Console

from vfmalign.cli.views import follow
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import Internal, NotFound, Unavailable
from vfmalign.v1 import alignment_pb2, common_pb2, finetuning_pb2

Said = Callable[[], list[str]]


def job(epochs: int, state: int = finetuning_pb2.JOB_STATE_RUNNING) -> finetuning_pb2.Job:
    """A fine-tuning job that has validated at 0 and after each of its epochs so far."""
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_FINETUNE, network=finetuning_pb2.NETWORK_SCRATCH, task="segmentation"
    )
    message = finetuning_pb2.Job(job_id="j1", spec=spec, state=state, attempts=1)
    message.progress.done, message.progress.total, message.progress.unit = epochs, 5, "epoch"
    for epoch in range(epochs + 1):
        point = message.curve.add(epoch=epoch, step=4 * epoch, validation_score=0.1 * epoch)
        if epoch:
            point.train_loss = 2.0 / epoch
    return message


def test_every_validation_is_shown_once(output: Output, said: Said) -> None:
    with View(output) as view:
        view.show_job(job(0))
        view.show_job(job(0))
        view.show_job(job(2))
        view.show_job(job(2, finetuning_pb2.JOB_STATE_SUCCEEDED))
    lines = said()
    assert len(lines) == 3
    assert lines[0].split() == ["scratch", "epoch", "0/5", "before", "training", "validation", "lesion_dice", "0.0000"]
    assert lines[2].split() == ["scratch", "epoch", "2/5", "loss", "1.0000", "validation", "lesion_dice", "0.2000"]


def test_a_finished_stage_is_shown_once_with_its_time_and_attempts(output: Output, said: Said) -> None:
    check = alignment_pb2.Check(check_id="c1")
    check.stages.add(name="validate", attempts=1, seconds=0.25).end_time.FromSeconds(9)
    check.stages.add(name="features_before", attempts=1)
    with View(output) as view:
        view.show_check(check)
        check.stages[1].attempts, check.stages[1].seconds = 2, 12.5
        check.stages[1].end_time.FromSeconds(9)
        view.show_check(check)
    lines = said()
    assert [line.split()[1] for line in lines] == ["validate", "features_before"]
    assert "12.5 s, 2 attempts" in lines[1]


def check(**progress: object) -> alignment_pb2.Check:
    """A running check with this progress."""
    message = common_pb2.Progress(**progress)
    return alignment_pb2.Check(
        progress=message, stages=[alignment_pb2.CheckStage(name=message.phase, progress=message)]
    )


def test_what_a_check_waits_for_is_shown_when_it_changes(output: Output, said: Said) -> None:
    details = ["mmd does not answer; next attempt in 2 s", "mmd does not answer; next attempt in 4 s"]
    with View(output) as view:
        for detail in (details[0], details[0], details[1]):
            view.show_check(check(phase="mmd", reason="SERVICE_UNAVAILABLE", detail=detail))
        view.show_check(check(phase="mmd", detail="comparing features"))
    assert [line.strip() for line in said()] == details


def test_a_probe_is_shown_once_with_its_values(output: Output, said: Said) -> None:
    first, second = (f"step {step}: MMD² 0.0{step}, validation 0.5" for step in (10, 20))
    with View(output) as view:
        for done, detail in ((0, "probing"), (1, first), (1, first), (1, "probing"), (2, second)):
            view.show_check(check(phase="probes", unit="probe", done=done, total=2, detail=detail))
        view.show_check(check(phase="job_pretrained", unit="epoch", detail="training the pretrained network"))
    assert [line.strip() for line in said()] == [first, second]


def test_a_reused_baseline_is_shown_with_its_curve(output: Output, said: Said) -> None:
    reused = job(2, finetuning_pb2.JOB_STATE_SUCCEEDED)
    reused.attempts = 0
    reused.progress.detail = "taken from job other-scratch, which trained the same baseline"
    with View(output) as view:
        view.show_job(reused)
        view.show_job(reused)
    lines = said()
    assert len(lines) == 4
    assert lines[0].split(maxsplit=1) == ["scratch", reused.progress.detail]


def test_a_check_has_no_bar_while_its_jobs_have_theirs() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with View(Output(as_json=False, out=console, err=console)) as view:
        view.show_check(check(phase="job_pretrained", unit="epoch", done=1, total=4))
        assert view.list_bars() == []
        view.show_check(check(phase="features_after", unit="case", done=1, total=4, detail="x" * 200))
        (description,) = view.list_bars()
        assert description == "x" * 71 + "…"
        ended = check(phase="report", detail="writing the report")
        ended.end_time.FromSeconds(9)
        view.show_check(ended)
        assert view.list_bars() == []


@dataclass
class Operations:
    """A client of checks whose watch yields these states, and loses the service once before the last one."""

    states: list[alignment_pb2.Check]

    async def watch(
        self, _: str, *, on_disconnect: Callable[[Unavailable], None]
    ) -> AsyncIterator[alignment_pb2.Check]:
        for index, state in enumerate(self.states):
            if index == len(self.states) - 1:
                on_disconnect(Unavailable("lost"))
            yield state


async def test_following_a_check_shows_its_jobs_and_returns_its_end(output: Output, said: Said) -> None:
    calls: list[str] = []

    async def get(job_id: str) -> finetuning_pb2.Job:
        calls.append(job_id)
        if job_id == "later":
            raise NotFound("not created yet")
        return job(2, finetuning_pb2.JOB_STATE_SUCCEEDED)

    details = [common_pb2.Progress(detail=f"state {n}") for n in range(3)]
    states = [alignment_pb2.Check(check_id="c1", job_ids=["j1", "later"], progress=detail) for detail in details]
    client = SimpleNamespace(checks=Operations(states), jobs=SimpleNamespace(get=get))
    with View(output) as view:
        last = await follow.follow_check(client, "c1", view)
    assert last == states[-1]
    assert calls == ["j1", "later", "later", "later"], "a job that has ended is not asked for again"
    assert [line for line in said() if "unavailable" in line] == ["the finetuning service is unavailable; reconnecting"]
    assert len([line for line in said() if "epoch" in line]) == 3


async def test_a_stream_without_a_message_is_an_internal_error(output: Output) -> None:
    client = SimpleNamespace(jobs=Operations([]))
    with View(output) as view, pytest.raises(Internal):
        await follow.follow_job(client, "j1", view)
