"""Messages of a finished check and a way to run one command in this process."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from vfmalign.cli.__main__ import run
from vfmalign.cli.views.output import Output
from vfmalign.v1 import alignment_pb2, common_pb2, finetuning_pb2, mmd_pb2

Invoke = Callable[..., tuple[int, str, str]]


def estimate(
    value: float | None = None, lower: float = 0.0, upper: float = 0.0, **fields: object
) -> common_pb2.Estimate:
    """An estimate; with an interval where its ends differ."""
    message = common_pb2.Estimate(value=value, absent_reason=str(fields.pop("reason", "")))
    if lower != upper:
        message.interval.CopyFrom(common_pb2.Interval(lower=lower, upper=upper, level=0.95, **fields))
    return message


def shift(value: float, p: float | None = 0.001, **fields: object) -> mmd_pb2.ShiftResult:
    """MMD² in one scaling."""
    absent = "4 patients: no p-value below 8"
    return mmd_pb2.ShiftResult(
        mmd2=estimate(value, value - 0.01, value + 0.01, degenerate=bool(fields.pop("degenerate", False))),
        sigma=2.0,
        p_value=estimate(p, reason="" if p is not None else absent),
        p_value_max_t=estimate(p, reason="" if p is not None else absent),
        **fields,
    )


@pytest.fixture
def finished_check() -> alignment_pb2.Check:
    """A check that succeeded, with every part of its result."""
    check = alignment_pb2.Check(check_id="c1", state=alignment_pb2.CHECK_STATE_SUCCEEDED)
    check.progress.phase = check.progress.detail = "finished"
    check.spec.CopyFrom(alignment_pb2.CheckSpec(model_id="m1", dataset_id="d1", task="segmentation", seed=2**40))
    for name, seconds in (("validate", 0.1), ("job_pretrained", 31.25)):
        stage = check.stages.add(name=name, attempts=1, seconds=seconds)
        stage.end_time.FromSeconds(1_700_000_000)
    result = check.result
    result.verdict, result.verdict_reason = alignment_pb2.VERDICT_NO_CLEAR_GAIN, "the interval includes zero"
    result.primary_layer, result.test_groups, result.held_out = "stages.3", 16, True
    for name, value in (("stages.3", 0.25), ("stages.0", 0.004)):
        layer = result.shifts.add(shift_ratio=estimate(0.5, reason="no interval is formed for this ratio"))
        layer.paired_similarity.CopyFrom(estimate(0.75, reason="no interval is formed for this mean"))
        layer.mmd.layer, layer.mmd.channels = name, 128
        layer.mmd.raw.CopyFrom(shift(value / 2))
        layer.mmd.standardised.CopyFrom(shift(value, degenerate=name == "stages.0"))
    result.metric.CopyFrom(alignment_pb2.Metric(name="lesion_dice", higher_is_better=True, floor=0.05))
    result.rpg_specialised.CopyFrom(
        alignment_pb2.Gain(
            relative_percent=estimate(3.5, -2.0, 9.0), absolute=estimate(0.02, -0.01, 0.05), score=0.57, baseline=0.55
        )
    )
    result.rpg_scratch.CopyFrom(
        alignment_pb2.Gain(
            relative_percent=estimate(reason="the baseline is under the floor"), score=0.57, baseline=0.01
        )
    )
    result.gain_naive_baseline.CopyFrom(
        alignment_pb2.Gain(relative_percent=estimate(9.6, 2.0, 15.0), absolute=estimate(0.05, 0.01, 0.08), score=0.57)
    )
    result.gain_naive_baseline.baseline, result.naive_baseline = 0.52, "each voxel's commonest class"
    result.convergence.CopyFrom(
        alignment_pb2.Convergence(
            steps_to_95=alignment_pb2.Steps(value=72),
            steps_to_baseline=alignment_pb2.Steps(value=120, censored=True),
            steps=120,
        )
    )
    result.curves.add(network=finetuning_pb2.NETWORK_PRETRAINED, selected_step=96)
    result.weight_change = 0.123
    result.cautions.append("Phantom rehearsal. The cases are generated.")
    result.report_html.uri = "s3://vfmalign/checks/c1/report.html"
    return check


@pytest.fixture
def show() -> Callable[[list[RenderableType]], str]:
    """What a terminal would show, without colours."""

    def render(parts: list[RenderableType]) -> str:
        console = Console(width=160, record=True, markup=False, emoji=False, highlight=False, quiet=False, file=None)
        with console.capture() as captured:
            for part in parts:
                console.print(part)
        return captured.get()

    return render


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs a command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("VFMALIGN_HOME", "VFMALIGN_FEATURES_ADDRESS", "VFMALIGN_MMD_ADDRESS", "VFMALIGN_FINETUNING_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def output() -> Output:
    """A terminal that keeps what is written to it."""

    def console() -> Console:
        return Console(file=io.StringIO(), width=160, markup=False, highlight=False)

    return Output(as_json=False, out=console(), err=console())


@pytest.fixture
def said(output: Output) -> Callable[[], list[str]]:
    """Returns the lines written to stderr so far."""

    def lines() -> list[str]:
        assert isinstance(output.err.file, io.StringIO)
        return output.err.file.getvalue().splitlines()

    return lines
