"""A finished check, and a way to run one command in this process."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from rich.console import Console, RenderableType
from tests.prostate import SPECS

from vfmalign.cli.__main__ import run
from vfmalign.cli.resources import Resource
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.base import ApiMessage
from vfmalign.client.messages.checks import (
    Check,
    CheckResult,
    CheckSpec,
    CheckStage,
    Convergence,
    Curve,
    Gain,
    LayerShift,
    SeedResult,
    Steps,
    TrainingPlan,
)
from vfmalign.client.messages.common import Estimate, Interval, ObjectRef, Progress
from vfmalign.client.messages.mmd import LayerResult, ShiftResult

Invoke = Callable[..., tuple[int, str, str]]
M = TypeVar("M", bound=ApiMessage)
TIME = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def estimate(value: float | None = None, lower: float = 0.0, upper: float = 0.0, **fields: Any) -> Estimate:
    """An estimate; with an interval where its ends differ."""
    reason = fields.pop("reason", "")
    interval = Interval(lower=lower, upper=upper, level=0.95, method="", **fields) if lower != upper else None
    return Estimate(value=value, interval=interval, absent_reason=reason)


def shift(value: float, *, degenerate: bool = False) -> ShiftResult:
    """MMD² in one scaling."""
    return ShiftResult(
        mmd2=estimate(value, value - 0.01, value + 0.01, degenerate=degenerate),
        sigma=2.0,
        p_value=estimate(0.001),
        p_value_max_t=estimate(0.001),
    )


def with_changes(record: M, changes: dict[str, Any]) -> M:
    """A copy of a record with other values at some paths, such as `result.shifts.0.saturated`."""
    content = record.model_dump(mode="json")
    for path, value in changes.items():
        *parents, last = path.split(".")
        target = content
        for part in parents:
            target = target[int(part) if part.isdigit() else part]
        target[last] = value
    return type(record).model_validate(content)


def answer_checks(
    monkeypatch: pytest.MonkeyPatch, create: Callable[[str, CheckSpec], tuple[Any, tuple[TrainingPlan, ...]]]
) -> None:
    """A deployment without a network behind it, which creates checks as told."""

    async def create_with_plans(check_id: str, spec: CheckSpec) -> tuple[Any, tuple[TrainingPlan, ...], tuple[()]]:
        return (*create(check_id, spec), ())

    client: Any = SimpleNamespace(checks=SimpleNamespace(create_with_plans=create_with_plans))
    monkeypatch.setattr(Target, "find", lambda directory: Target({}, None))
    monkeypatch.setattr(Target, "run", lambda _, work: asyncio.run(work(client)))
    monkeypatch.setattr("vfmalign.cli.commands.api.checks.find_dataset", lambda *_: None)


@pytest.fixture
def finished_check() -> Check:
    """A check of one training seed that succeeded in an earlier version, with every other part of its result."""
    shifts = [
        LayerShift(
            mmd=LayerResult(
                layer=name,
                channels=128,
                raw=shift(value / 2),
                standardised=shift(value, degenerate=name == "stages.0"),
            ),
            shift_ratio=estimate(0.5, reason="no interval is formed for this ratio"),
            paired_similarity=estimate(0.75, reason="no interval is formed for this mean"),
        )
        for name, value in (("stages.3", 0.25), ("stages.0", 0.004))
    ]
    result = CheckResult(
        verdict="inconclusive",
        verdict_reason="the interval includes zero",
        primary_layer="stages.3",
        test_groups=16,
        held_out=True,
        shifts=shifts,
        metric=SPECS["segmentation"].primary_metric,
        rpg_specialised=Gain(
            relative_percent=estimate(3.5, -2.0, 9.0), absolute=estimate(0.02, -0.01, 0.05), score=0.57, baseline=0.55
        ),
        rpg_scratch=Gain(
            relative_percent=estimate(reason="the baseline is under the floor"), score=0.57, baseline=0.01
        ),
        gain_naive_baseline=Gain(
            relative_percent=estimate(9.6, 2.0, 15.0), absolute=estimate(0.05, 0.01, 0.08), score=0.57, baseline=0.52
        ),
        naive_baseline="each voxel's commonest class",
        convergence=Convergence(
            steps_to_95=Steps(value=72),
            steps_to_baseline=Steps(value=120, censored=True),
            steps=120,
            best=0.6,
            start=0.1,
            best_step=96,
        ),
        curves=[Curve(network="pretrained", selected_step=96)],
        weight_change=0.123,
        cautions=["Phantom rehearsal. The cases are generated."],
        report_json=ObjectRef(uri="s3://vfmalign/checks/c1/report.json", sha256="a" * 64),
        report_html=ObjectRef(uri="s3://vfmalign/checks/c1/report.html", sha256="b" * 64),
    )
    return Check(
        check_id="c1",
        state="succeeded",
        create_time=TIME,
        progress=Progress(phase="finished", detail="finished"),
        spec=CheckSpec(model_id="m1", dataset_id="d1", task="segmentation", seed=2**40),
        stages=[
            CheckStage(name=name, attempts=1, seconds=seconds, end_time=TIME)
            for name, seconds in (("validate", 0.1), ("job_pretrained", 31.25))
        ],
        result=result,
    )


@pytest.fixture
def decided_check(finished_check: Check) -> Check:
    """The check with as many training seeds and test patients as verdicts need, and with both answers."""
    result = finished_check.result
    assert result is not None
    gains = {
        name: getattr(result, name).model_copy(update={"groups": 17}) for name in ("rpg_specialised", "rpg_scratch")
    }
    seeds = tuple(SeedResult(seed=seed, convergence=result.convergence, **gains) for seed in (7, 8, 9))
    answers = {
        "pretraining": "gain",
        "pretraining_reason": "the interval lies above zero",
        "summary": "Not shown to be better than the specialised network, but better than random weights.",
    }
    return finished_check.model_copy(
        update={"result": result.model_copy(update={**gains, **answers, "seeds": seeds, "test_groups": 17})}
    )


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
    monkeypatch.delenv("VFMALIGN_HOME", raising=False)
    for service in ("FEATURES", "MMD", "FINETUNING", "MONITORING"):
        monkeypatch.delenv(f"VFMALIGN_{service}_ADDRESS", raising=False)

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


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A deployment without a network behind it; holds the specifications of what was created."""
    specs: list[Any] = []

    def create(name: str, spec: object) -> SimpleNamespace:
        specs.append(spec)
        return SimpleNamespace(check_id=name, state="queued", cells=(), to_json_dict=dict)

    monkeypatch.setattr(Resource, "create", lambda resource, target, name, spec: create(name, spec))
    answer_checks(monkeypatch, lambda name, spec: (create(name, spec), ()))
    return specs
