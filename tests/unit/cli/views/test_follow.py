"""Lines for what has finished, and reconnecting to a service that is unavailable."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable

import pytest
from rich.console import Console

from vfmalign.cli.views import follow
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import NotFound, Unavailable
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
    check = alignment_pb2.Check(check_id="c1", status="extracting")
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
    return alignment_pb2.Check(status="running", progress=common_pb2.Progress(**progress))


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
        for detail in ("", first, first, second):
            view.show_check(check(phase="probes", detail=detail))
        view.show_check(check(phase="job_pretrained", unit="epoch", detail="training the pretrained network"))
    assert [line.strip() for line in said()] == [first, second]


def test_a_reused_baseline_is_shown_with_its_curve(output: Output, said: Said) -> None:
    reused = job(2, finetuning_pb2.JOB_STATE_SUCCEEDED)
    reused.attempts = 0
    reused.status = "taken from job other-scratch, which trained the same baseline"
    with View(output) as view:
        view.show_job(reused)
        view.show_job(reused)
    lines = said()
    assert len(lines) == 4
    assert lines[0].split(maxsplit=1) == ["scratch", reused.status]


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


async def test_watching_goes_on_when_the_service_comes_back(
    output: Output, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_RETRY_PAUSE_S", 0.0)
    calls = 0

    async def watch() -> AsyncIterator[int]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("away")
        yield calls
        if calls == 1:
            raise Unavailable("going away")

    assert [message async for message in follow.reconnecting(watch, output)] == [1, 3]
    assert len([line for line in said() if "is unavailable" in line]) == 1


async def test_watching_gives_up_when_the_service_stays_away(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_RETRY_PAUSE_S", 0.0)
    monkeypatch.setattr(follow, "MAX_OUTAGE_S", 0.05)

    async def watch() -> AsyncIterator[int]:
        raise Unavailable("away")
        yield 0

    with pytest.raises(Unavailable):
        _ = [message async for message in follow.reconnecting(watch, output)]


async def test_watching_what_does_not_exist_ends_at_once(output: Output, said: Said) -> None:
    async def watch() -> AsyncIterator[int]:
        raise NotFound("no such check")
        yield 0

    with pytest.raises(NotFound):
        _ = [message async for message in follow.reconnecting(watch, output)]
    assert said() == []
